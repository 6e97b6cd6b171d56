from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from hashlib import sha256
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshflow import ReplayLedger
from meshflow.errors import LedgerError
from meshflow.ledger import Intent
from meshflow.ledger.export import CSV_COLUMNS, spreadsheet_safe
from meshflow.record import StepRecord

MakeRecord = Callable[..., StepRecord]


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


def recheck(run_id: str, entries: list[dict[str, Any]]) -> list[str]:
    """Check a chain from the text of an export alone, sharing no code with the ledger."""
    problems = []
    name = run_id.encode()
    before = sha256(b"meshflow/genesis/v1\x00" + framed(name)).hexdigest()
    missing = set()
    for seq, entry in enumerate(entries):
        body = entry["body"].encode()
        place = entry["seq"].to_bytes(8, "big")
        digest = sha256(
            b"meshflow/entry/v1\x00" + framed(name) + place + framed(bytes.fromhex(entry["prev_hash"])) + framed(body)
        ).hexdigest()
        document = json.loads(body)
        if (entry["seq"], entry["prev_hash"], entry["entry_hash"]) != (seq, before, digest):
            problems.append(f"{seq}: chain")
        before = entry["entry_hash"]
        for field, committed in document["commitments"].items():
            payload = entry["payloads"].get(field)
            if payload is None:
                missing.add((seq, field))
            elif (
                sha256(
                    b"meshflow/payload/v1\x00" + bytes.fromhex(payload["salt"]) + payload["data"].encode()
                ).hexdigest()
                != committed
            ):
                problems.append(f"{seq}: {field}")
        if document["kind"] == "erasure":
            for erased_seq, fields in document["erased"].items():
                missing -= {(int(erased_seq), field) for field in fields}
    return problems + [f"{seq}: {field} is gone" for seq, field in sorted(missing)]


async def test_an_export_rechecks_from_its_text_alone(ledger: ReplayLedger, record: MakeRecord) -> None:
    for number in range(3):
        await ledger.write_intent(Intent(run_id="run-1", step_id=f"step-{number}", node_id="n", tenant_id="acme"))
        await ledger.write(record(number, output="caf\u00e9 \U0001f600 \u2028 \x00 \x7f"))
    await ledger.close_run("run-1")
    text = await ledger.export_run("run-1")
    document = json.loads(text)
    assert recheck("run-1", document["entries"]) == []
    assert [json.loads(one["body"])["kind"] for one in document["entries"]] == ["intent", "step"] * 3 + ["close"]
    assert document["steps"] == json.loads(json.dumps(await ledger.get_run("run-1")))
    assert document["summary"]["steps"] == 3
    assert (document["format"], document["complete"], document["parents"]) == ("meshflow/run-export/v1", True, [])
    document["entries"][3]["payloads"]["input"]["data"] = '{"text":"another"}'
    document["entries"][1]["body"] = document["entries"][1]["body"].replace('"verdict":"commit"', '"verdict":"reject"')
    assert recheck("run-1", document["entries"]) == ["1: chain", "3: input"]


async def test_the_same_run_is_the_same_text_with_sorted_keys(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record())
    text = await ledger.export_run("run-1")
    assert text == await ledger.export_run("run-1")
    pairs: list[list[str]] = []
    json.loads(text, object_pairs_hook=lambda found: pairs.append([key for key, _ in found]))
    assert all(keys == sorted(keys) for keys in pairs)


async def test_what_is_erased_leaves_neither_text_nor_salt_and_still_rechecks(
    ledger: ReplayLedger, record: MakeRecord
) -> None:
    await ledger.write(record(output="sesame"))
    before = json.loads(await ledger.export_run("run-1"))
    await ledger.erase_payloads("run-1", fields=["output"], reason="request", authority="dpo")
    text = await ledger.export_run("run-1")
    document = json.loads(text)
    assert "sesame" not in text
    assert before["entries"][0]["payloads"]["output"]["salt"] not in text
    assert recheck("run-1", document["entries"]) == []
    assert recheck("run-1", document["entries"][:-1]) == ["0: output is gone"]


async def test_a_fork_exports_the_chains_it_rests_on(ledger: ReplayLedger, record: MakeRecord) -> None:
    for number in range(4):
        await ledger.write(record(number))
    child = await ledger.fork("run-1", from_step=3, new_run_id="child")
    await ledger.write(record(7, run_id=child))
    await ledger.write(record(8, run_id=child))
    grandchild = await ledger.fork(child, from_step=4, new_run_id="grandchild")
    await ledger.write(record(9, run_id=grandchild))
    document = json.loads(await ledger.export_run(grandchild))
    assert recheck(grandchild, document["entries"]) == []
    assert [(one["run_id"], one["steps_inherited"], len(one["entries"])) for one in document["parents"]] == [
        ("child", 4, 2), ("run-1", 3, 3)
    ]  # fmt: skip
    hashes = []
    for parent in document["parents"]:
        assert recheck(parent["run_id"], parent["entries"]) == []
        hashes.append(parent["entries"][-1]["entry_hash"])
    forks = [json.loads(one["entries"][0]["body"]) for one in (document, document["parents"][0])]
    assert [one["parent_entry_hash"] for one in forks] == hashes
    assert [one["step_id"] for one in document["steps"]] == ["step-0", "step-1", "step-2", "step-7", "step-9"]


async def test_a_fork_of_inherited_steps_alone_exports_only_what_it_rests_on(
    ledger: ReplayLedger, record: MakeRecord
) -> None:
    for number in range(4):
        await ledger.write(record(number))
    child = await ledger.fork("run-1", from_step=3, new_run_id="child")
    await ledger.fork(child, from_step=2, new_run_id="grandchild")
    document = json.loads(await ledger.export_run("grandchild"))
    assert [(one["run_id"], one["steps_inherited"], len(one["entries"])) for one in document["parents"]] == [
        ("child", 2, 1), ("run-1", 2, 2)
    ]  # fmt: skip


async def test_an_erasure_in_the_parent_comes_with_its_tombstone(ledger: ReplayLedger, record: MakeRecord) -> None:
    for number in range(4):
        await ledger.write(record(number, output=f"secret {number}"))
    await ledger.fork("run-1", from_step=2, new_run_id="child")
    await ledger.erase_payloads("run-1", fields=["output"], reason="request", authority="dpo")
    text = await ledger.export_run("child")
    (parent,) = json.loads(text)["parents"]
    assert len(parent["entries"]) == 5
    assert "question 1" in text
    assert "question 2" not in text
    assert recheck("run-1", parent["entries"][:2]) == ["0: output is gone", "1: output is gone"]
    assert not [one for one in recheck("run-1", parent["entries"]) if one.endswith("output is gone")]


async def test_one_tenants_part_of_a_shared_run_says_that_it_is_not_whole(
    ledger: ReplayLedger, record: MakeRecord
) -> None:
    await ledger.write(record(0, tenant_id="acme", output="ours"))
    await ledger.write(record(1, tenant_id="globex", output="theirs"))
    text = await ledger.export_run("run-1", tenant="acme")
    document = json.loads(text)
    assert (document["complete"], len(document["entries"])) == (False, 1)
    assert "theirs" not in text
    assert "globex" not in text
    assert "theirs" not in await ledger.export_run_csv("run-1", tenant="acme")
    assert json.loads(await ledger.export_run("run-1"))["complete"] is True


async def test_unknown_runs_are_refused(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record())
    for export in (ledger.export_run, ledger.export_run_csv):
        with pytest.raises(LedgerError, match="no run 'nowhere'"):
            await export("nowhere")
        with pytest.raises(LedgerError, match="no run 'run-1'"):
            await export("run-1", tenant="globex")


async def test_csv_has_a_header_fixed_columns_and_crlf(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record(output='said "no",\r\nthen left'))
    await ledger.write(record(1, output=None, tool="search"))
    text = await ledger.export_run_csv("run-1")
    rows = list(csv.DictReader(StringIO(text, newline="")))
    assert text.startswith(",".join(CSV_COLUMNS) + "\r\n")
    assert text.endswith("\r\n")
    assert rows[0]["output_content"] == 'said "no",\r\nthen left'
    assert json.loads(rows[0]["input_task"]) == {"text": "question 0"}
    assert (rows[0]["cost_usd"], rows[0]["tokens_used"], rows[0]["blocked"]) == ("0.0015", "12", "false")
    assert (rows[1]["output_content"], rows[1]["tool"], rows[1]["step_index"]) == ("", "search", "1")
    assert '"said ""no"",\r\nthen left"' in text


FORMULAS = [
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\tx", "\rx", "\nx", " =1", '"=1', "'=1", "\"'\t =1", "\uff1d1+1",
    "\uff0b1", "\uff0d1", "\uff20x", "\u22121", "\u200b=1", "\ufeff=1", "\u00a0=1", "\u3000@x", "\u201c=1", "\x00=1",
    "\x1b=1", "=cmd|' /C calc'!A0",
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
async def test_no_cell_begins_a_formula(ledger: ReplayLedger, record: MakeRecord, text: str) -> None:
    await ledger.write(record(0, input=text, output=[text], reason=text, metadata={"k": text}))
    await ledger.write(record(1, node_id=text, tool=text, action=text, step_id=text, output={text: 1}))
    for row in csv.reader(StringIO(await ledger.export_run_csv("run-1"), newline="")):
        for cell in row:
            assert re.match("['a-zA-Z0-9{\\[\u2500]|$", cell), cell
    assert spreadsheet_safe(text).startswith("'")


@pytest.mark.parametrize("separator", [";", "\t", "\r\n", "\n"])
def test_a_formula_behind_another_separator_is_taken_apart_too(separator: str) -> None:
    assert spreadsheet_safe(f"x{separator} =1") == f"x{separator}' =1"


@pytest.mark.parametrize("text", ["a - b", "2+2=4", "mail me @ home", "a;b", "1 = 1", "", "x-y", "(-5)"])
def test_plain_text_is_left_as_it_is(text: str) -> None:
    assert spreadsheet_safe(text) == text


@given(st.text("=+-@;\t\r\n '\"ax\uff1d\u200b", max_size=20))
def test_no_separator_turns_any_text_into_a_formula(text: str) -> None:
    safe = spreadsheet_safe(text)
    for part in re.split("[;\t\r\n]", safe):
        assert not part or part[0] not in "=+-@\uff1d"
    assert safe[:1] not in ("\t", "\r", "\n", "=", "+", "-", "@")
    assert safe.replace("'", "") == text.replace("'", "")


async def test_long_runs_come_in_parts(ledger: ReplayLedger, record: MakeRecord) -> None:
    for number in range(300):
        await ledger.write(record(number, output="x" * 1_000))
    parts = [part async for part in ledger.iter_export_csv("run-1")]
    assert len(parts) > 3
    assert "".join(parts) == await ledger.export_run_csv("run-1")
    assert len([part async for part in ledger.iter_export("run-1")]) > 300


async def test_an_export_that_is_broken_off_leaves_the_ledger_usable(ledger: ReplayLedger, record: MakeRecord) -> None:
    for number in range(600):
        await ledger.write(record(number))
    export = ledger.iter_export("run-1")
    await anext(export)
    await anext(export)
    await export.aclose()  # type: ignore[attr-defined]
    await ledger.write(record(600))
    assert json.loads(await ledger.export_run("run-1"))["summary"]["steps"] == 601
