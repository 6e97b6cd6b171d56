"""Bundles of honest ledgers verify, say what they rest on, and hold no more than was asked for."""

from __future__ import annotations

import asyncio
import base64
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest
from bundling import judge
from forgery import Forger, write_ledger
from hypothesis import given
from hypothesis import strategies as st
from witnesses import anchor_at, keys_of, witness

from meshflow.errors import LedgerError
from meshflow.ledger import Intent, ReplayLedger
from meshflow.ledger.anchors import FileAnchor
from meshflow.ledger.bundle import verify_bundle
from meshflow.ledger.bundle.walk import cover, pass_over
from meshflow.ledger.format.merkle import Frontier, leaf_hash
from meshflow.record import StepRecord

MakeRecord = Callable[..., StepRecord]


def lines(bundle: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in bundle.read_bytes().splitlines()]


def runs_of(result: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {run["run_id"]: (run["part"], run["state"], run["entries"], run["steps"]) for run in result["runs"]}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tmp_path / "evidence.jsonl"


@pytest.fixture
async def busy(path: Path) -> dict[str, str]:
    return await write_ledger(path)


async def test_a_run_verifies_without_its_ledger(
    ledger: ReplayLedger, record: MakeRecord, bundle: Path, path: Path
) -> None:
    for number in range(5):
        await ledger.write(record(number))
        await ledger.write(record(number, run_id="other"))
    await ledger.close_run("run-1")
    (key,) = await ledger.verifiers()
    await ledger.export_bundle(bundle, "run-1")
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600
    path.unlink()
    result = verify_bundle(bundle, [key])
    assert (result["valid"], result["strength"], result["errors"]) == (True, "key", [])
    assert runs_of(result) == {"run-1": ("whole", "closed", 6, 5)}
    assert result["payloads"] == 25
    assert {"held_checkpoint", "anchor", "witness", "rest_of_the_log"} == set(result["not_checked"])


async def test_a_whole_ledger_leaves_nothing_out(busy: dict[str, str], path: Path, bundle: Path) -> None:
    async with ReplayLedger(path) as ledger:
        await ledger.export_bundle(bundle, None)
        everything = await ledger.verify_ledger()
    result = verify_bundle(bundle, busy["keys"].split("\n"), busy["early"])
    assert (result["valid"], result["strength"], result["held_size"]) == (True, "checkpoint", 8)
    assert (result["whole_ledger"], result["entries"]) == (True, everything["entries"])
    assert "rest_of_the_log" not in result["not_checked"]
    assert "skip" not in {line["type"] for line in lines(bundle)}


async def test_each_key_leads_on_to_the_next(busy: dict[str, str], path: Path, bundle: Path) -> None:
    first, second = busy["keys"].split("\n")
    async with ReplayLedger(path) as ledger:
        await ledger.export_bundle(bundle, ["many-3"], checkpoints=[busy["early"], busy["late"]])
    for keys, valid in (([first], True), ([second], True), ([first, second], True), ([], False)):
        assert verify_bundle(bundle, keys)["valid"] is valid
    assert verify_bundle(bundle, [first], [busy["early"], busy["late"]])["valid"]
    # Whoever trusts the new key alone has no reason to believe what the old one signed.
    assert verify_bundle(bundle, [second], busy["late"])["valid"]
    assert not verify_bundle(bundle, [second], busy["early"])["valid"]


async def test_a_checkpoint_that_the_bundle_does_not_lead_on_from_is_no_pass(
    busy: dict[str, str], path: Path, bundle: Path
) -> None:
    async with ReplayLedger(path) as ledger:
        await ledger.export_bundle(bundle, "late-1")
        (finding,) = verify_bundle(bundle, busy["keys"].split("\n"), busy["early"])["findings"]
        assert (finding["layer"], "cannot be compared" in finding["problem"]) == ("held_checkpoint", True)
        await ledger.export_bundle(bundle, "late-1", checkpoints=busy["early"])
    assert verify_bundle(bundle, busy["keys"].split("\n"), busy["early"])["strength"] == "checkpoint"


@pytest.mark.parametrize("encrypt", ["none", "run"])
async def test_a_ledger_with_all_that_can_befall_it_verifies_as_a_bundle_whatever_keeps_it(
    place: str | Path, record: MakeRecord, bundle: Path, monkeypatch: pytest.MonkeyPatch, encrypt: str
) -> None:
    monkeypatch.setenv("KEK", base64.b64encode(bytes(32)).decode())
    keys = {} if encrypt == "none" else {"encrypt": encrypt, "key_encryption_key": "env:KEK"}
    async with ReplayLedger(place, **keys) as ledger:  # type: ignore[arg-type]
        await asyncio.gather(*(ledger.write(record(number, run_id=f"run-{number % 3}")) for number in range(300)))
        held = await ledger.checkpoint()
        await ledger.fork("run-1", 40, new_run_id="child")
        await ledger.write(record(900, run_id="child", input={"odd": "\x00 \ud83d\ude00 \u2028"}, output=1e-7))
        await ledger.rotate_key()
        await ledger.anonymize_run("run-1")
        await ledger.delete_run("run-2")
        await ledger.close_run("run-0")
        trusted = [*(await ledger.verifiers())]
        assert len(trusted) == 2
        await ledger.export_bundle(bundle, None)
        whole = verify_bundle(bundle, trusted, held)
        assert (whole["valid"], whole["errors"], whole["whole_ledger"]) == (True, [], True)
        assert judge(bundle, trusted, [held]).valid
        for runs in ("run-0", ["child"], ["run-1", "run-2"]):
            await ledger.export_bundle(bundle, runs, checkpoints=[held])
            assert judge(bundle, trusted, [held]).valid
            kept = bundle.read_bytes()
            bundle.write_bytes(kept.replace(b'\\"verdict\\":\\"commit\\"', b'\\"verdict\\":\\"reject\\"', 1))
            assert bundle.read_bytes() != kept
            assert not judge(bundle, trusted, [held]).valid


async def test_a_bundle_older_than_the_checkpoint_held_is_no_pass(
    ledger: ReplayLedger, record: MakeRecord, bundle: Path
) -> None:
    await ledger.write(record(0))
    await ledger.export_bundle(bundle, "run-1")
    await ledger.write(record(1))
    result = verify_bundle(bundle, await ledger.verifiers(), await ledger.checkpoint())
    assert [finding["layer"] for finding in result["findings"]] == ["held_checkpoint"]


async def test_a_fork_brings_what_it_inherits_and_no_more(
    ledger: ReplayLedger, record: MakeRecord, bundle: Path
) -> None:
    for number in range(6):
        await ledger.write_intent(Intent(run_id="run-1", step_id=f"step-{number}", node_id="n", tenant_id="acme"))
        await ledger.write(record(number))
    await ledger.fork("run-1", 4, new_run_id="child")
    await ledger.write(record(50, run_id="child"))
    await ledger.fork("child", 5, new_run_id="grandchild")
    await ledger.fork("grandchild", 1, new_run_id="shallow")
    await ledger.write(record(60, run_id="child"))
    await ledger.erase_payloads("run-1", reason="request", authority="dpo")
    for run, wanted in {
        "child": {"child": 3, "run-1": 9},
        "grandchild": {"grandchild": 1, "child": 2, "run-1": 9},
        "shallow": {"shallow": 1, "grandchild": 1, "child": 1, "run-1": 3},
        "run-1": {"run-1": 13},
    }.items():
        result = await ledger.export_bundle(bundle, run)
        assert {one["run_id"]: one["entries"] for one in result["runs"]} == wanted, run
        assert verify_bundle(bundle, await ledger.verifiers())["valid"]
    assert (await ledger.export_bundle(bundle, ["shallow", "run-1"]))["entries"] == 16


async def test_without_payloads_nothing_that_was_said_is_in_it(
    ledger: ReplayLedger, record: MakeRecord, bundle: Path
) -> None:
    await ledger.write(record(0, input="a secret thing", run_id="run-1"))
    result = await ledger.export_bundle(bundle, "run-1", payloads=False)
    assert b"secret" not in bundle.read_bytes()
    assert (result["payloads"], "commitments" in result["not_checked"]) == (None, True)


async def test_erased_runs_verify(ledger: ReplayLedger, record: MakeRecord, bundle: Path) -> None:
    for number in range(4):
        await ledger.write(record(number))
    await ledger.erase_payloads("run-1", fields=["input"], reason="request", authority="dpo")
    await ledger.close_run("run-1")
    await ledger.delete_run("run-1")
    result = await ledger.export_bundle(bundle, "run-1")
    assert (result["payloads"], result["runs"][0]["erased_payloads"]) == (0, 20)
    assert (await ledger.export_bundle(bundle, "run-1", payloads=False))["valid"]


async def test_a_tenant_gets_a_part_of_a_shared_run_and_nothing_of_others(
    ledger: ReplayLedger, record: MakeRecord, bundle: Path
) -> None:
    for number in range(9):
        await ledger.write(record(number, tenant_id=("acme", "bolt")[number % 2], input=f"of tenant {number % 2}"))
    await ledger.write(record(0, run_id="mine", tenant_id="bolt"))
    result = await ledger.export_bundle(bundle, ["run-1", "mine"], tenant="bolt")
    assert runs_of(result) == {"mine": ("whole", "open", 1, 1), "run-1": ("tenant", "part", 4, 4)}
    assert b"acme" not in bundle.read_bytes()
    assert b"of tenant 0" not in bundle.read_bytes()
    assert "rest_of_runs" in result["not_checked"]
    assert verify_bundle(bundle, await ledger.verifiers())["tenant"] == "bolt"
    with pytest.raises(LedgerError, match="no run 'run-1'"):
        await ledger.export_bundle(bundle, "run-1", tenant="chi")
    with pytest.raises(LedgerError, match="not one tenant's"):
        await ledger.export_bundle(bundle, None, tenant="bolt")


async def test_what_is_not_signed_yet_is_signed_first(path: Path, record: MakeRecord, bundle: Path) -> None:
    async with ReplayLedger(path, checkpoint_every=100) as ledger:
        for number in range(7):
            await ledger.write(record(number))
            assert (await ledger.export_bundle(bundle, "run-1"))["entries"] == number + 1


async def test_a_ledger_without_a_key_is_no_evidence(path: Path, record: MakeRecord, bundle: Path) -> None:
    async with ReplayLedger(path, key=None) as ledger:
        with pytest.raises(LedgerError, match="no ledger yet"):
            await ledger.export_bundle(bundle, "run-1")
        await ledger.write(record())
        with pytest.raises(LedgerError, match="signing key"):
            await ledger.export_bundle(bundle, "run-1")
    assert list(bundle.parent.glob("*evidence*")) == []
    async with ReplayLedger(path) as ledger:  # whoever exports does not become the signer by that
        with pytest.raises(LedgerError, match="never been signed"):
            await ledger.export_bundle(bundle, "run-1")
        await ledger.checkpoint()
        assert (await ledger.export_bundle(bundle, "run-1"))["valid"]


async def test_encrypted_payloads_are_handed_over_by_whoever_has_the_key(
    path: Path, record: MakeRecord, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHFLOW_KEK", base64.b64encode(bytes(range(32))).decode())
    async with ReplayLedger(path, encrypt="run", key_encryption_key="env:MESHFLOW_KEK") as ledger:
        await ledger.write(record(0, input="in confidence"))
        assert (await ledger.export_bundle(bundle, "run-1"))["payloads"] == 5
    assert b"in confidence" in bundle.read_bytes()
    async with ReplayLedger(path) as ledger:
        with pytest.raises(LedgerError, match="key-encryption key"):
            await ledger.export_bundle(bundle, "run-1")
        assert (await ledger.export_bundle(bundle, "run-1", payloads=False))["payloads"] is None


async def test_exporting_while_others_write_and_erase(path: Path, record: MakeRecord, tmp_path: Path) -> None:
    async with ReplayLedger(path, checkpoint_every=3) as ledger:
        await ledger.write(record(0))
        writing = True

        async def write() -> None:
            number = 1
            while writing:
                await ledger.write(record(number, run_id=f"run-{number % 3}"))
                if not number % 5:
                    await ledger.erase_payloads(f"run-{number % 3}", reason="request", authority="dpo")
                number += 1

        task = asyncio.create_task(write())
        for number in range(12):
            runs = None if number % 3 == 0 else ["run-1"]
            assert (await ledger.export_bundle(tmp_path / "b", runs))["valid"]
        writing = False
        await task


async def test_the_same_ledger_gives_the_same_bytes(busy: dict[str, str], path: Path, tmp_path: Path) -> None:
    async with ReplayLedger(path) as ledger:
        for name in ("one", "two"):
            await ledger.export_bundle(tmp_path / name, ["run-1", "fork"] if name == "one" else ["fork", "run-1"])
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


async def test_what_anchors_keep_comes_along(ledger: ReplayLedger, record: MakeRecord, tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "anchor.jsonl")
    await ledger.write(record(0))
    await ledger.anchor(anchor)
    for number in range(1, 20):
        await ledger.write(record(number, run_id="other"))
    result = await ledger.export_bundle(tmp_path / "b", "run-1", anchors=[anchor])
    assert (result["anchors"], result["checkpoints"]) == ({anchor.name: 1}, [1, 20])


async def test_witnesses_vouch_for_a_bundle_without_being_asked(
    ledger: ReplayLedger, record: MakeRecord, bundle: Path, tmp_path: Path
) -> None:
    await ledger.write(record(0))
    with ExitStack() as stack:
        logs = await ledger.verifiers()
        servers = [stack.enter_context(witness(tmp_path, name, logs)) for name in ("one", "two", "three")]
        await ledger.anchor(*map(anchor_at, servers[:2]))
    for number in range(1, 9):
        await ledger.write(record(number))
    one, two, three = ([str(key) for key in keys_of(server)] for server in servers)
    assert (await ledger.export_bundle(bundle, "run-1"))["checkpoints"] == [1, 1, 9]
    keys = await ledger.verifiers()
    result = verify_bundle(bundle, keys, witnesses=[*one, *two])
    assert (result["valid"], result["strength"], result["witness"]["size"]) == (True, "witness", 1)
    assert ("witness" in result["checked"], "witness" in result["not_checked"]) == (True, False)
    assert verify_bundle(bundle, keys, witnesses=[*one, *two, *three], quorum=2)["valid"]
    for witnesses in ([*one, *three], three):
        found = verify_bundle(bundle, keys, witnesses=witnesses)
        assert (found["valid"], [finding["layer"] for finding in found["findings"]]) == (False, ["witness"])
    assert judge(bundle, keys).valid
    forged = bundle.read_bytes().replace(b"one.example/w ", b"two.example/w ", 1)
    bundle.write_bytes(forged)
    assert not verify_bundle(bundle, keys, witnesses=[*one, *two])["valid"]


async def test_no_bundle_is_made_of_a_ledger_that_does_not_hold(busy: dict[str, str], path: Path, bundle: Path) -> None:
    forger = Forger(path, path.with_name(path.name + ".key"))
    forger.rewrite("run-1", 2, tokens=13)
    forger.db.close()
    async with ReplayLedger(path) as ledger:
        with pytest.raises(LedgerError, match="verify it"):
            await ledger.export_bundle(bundle, "run-1")
    assert not bundle.exists()


async def test_a_bundle_needs_runs_that_are_there(ledger: ReplayLedger, record: MakeRecord, bundle: Path) -> None:
    await ledger.write(record())
    for runs, problem in ((["run-1", "nowhere"], "no run 'nowhere'"), ([], "a run at least")):
        with pytest.raises(LedgerError, match=problem):
            await ledger.export_bundle(bundle, runs)


@given(st.integers(0, 70), st.integers(0, 70))
def test_subtrees_cover_a_range_and_lead_to_the_same_root(start: int, length: int) -> None:
    leaves = [leaf_hash(bytes([number])) for number in range(start + length)]
    whole = Frontier()
    for leaf in leaves:
        whole.append(leaf)
    part = Frontier()
    for leaf in leaves[:start]:
        part.append(leaf)
    hashes = []
    for level, index in cover(start, start + length):
        subtree = Frontier()
        for leaf in leaves[index << level : (index + 1) << level]:
            subtree.append(leaf)
        hashes.append(subtree.root())
    assert pass_over(part, start + length, hashes) is (length > 0)
    assert part.root() == whole.root()
