"""The report: it refuses what does not verify, says what it rests on, and treats every text as data."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meshflow import ReplayLedger
from meshflow.errors import LedgerError
from meshflow.profiles.html import report_html
from meshflow.record import StepRecord

if TYPE_CHECKING:
    from .conftest import World

PACK = """\
name: small
title: Small <script>alert(1)</script>
version: "1"
edition: "1"
controls:
  - id: S 1
    title: Steps succeed
    source: s
    how: h
    evidence: [{shows: it went well, when: {executed: true}, holds: {verdict: commit}}]
  - id: S 2
    title: Somebody is named
    source: s
    how: h
    evidence: [{when: {executed: true}, holds: {principal.subject: {known: true}}}]
  - id: S 3
    title: The ledger is signed
    source: s
    how: h
    evidence: [{records: ledger, holds: {signed: true}}]
  - id: S 4
    title: It was compared with what was kept outside
    source: s
    how: h
    evidence: [{records: ledger, when: {held: true}, holds: {chain: true}}]
  - id: S 5
    title: People decide
    source: s
    how: h
    evidence: [{records: approval, holds: {approval.own: false, approval.approver: {known: true}}}]
not_covered: [{id: S 9, title: Out of reach, why: no software does it}]
"""


@pytest.fixture
def small(world: World) -> str:
    folder = world.folder / "small"
    folder.mkdir()
    (folder / "profile.yaml").write_text(PACK, "utf-8")
    (folder / "rules.rego").write_text('package meshflow.compliance\n\ndecision := {"allow": true}\n', "utf-8")
    return str(folder)


async def write(world: World, *runs: str, **changes: Any) -> None:
    async with ReplayLedger(world.ledger) as ledger:
        for number, run in enumerate(runs):
            given = {"executed": True, "fingerprint": "f1", **changes}
            await ledger.write(StepRecord(run_id=run, node_id="n", step_id=f"s-{run}-{number}", **given))


async def test_an_empty_ledger_satisfies_nothing(world: World, small: str, judged: Any) -> None:
    async with ReplayLedger(world.ledger) as ledger:
        await ledger.open()
    report = await world.report(small)
    assert set(judged.states(report).values()) == {"not_exercised"}
    assert report["summary"] == {"satisfied": 0, "violated": 0, "not_exercised": 5, "not_covered": 1}


async def test_a_window_without_records_satisfies_nothing(world: World, small: str, judged: Any) -> None:
    await write(world, "a")
    report = await world.report(small, until="2001-01-01T00:00:00Z")
    assert set(judged.states(report).values()) == {"not_exercised"}
    assert report["records"]["steps"] == 0


async def test_states_counts_and_records_come_from_the_entries(world: World, small: str, judged: Any) -> None:
    async with world.running(world.config()) as runtime:
        good = await world.act(runtime, {}, run_id="good")
        assert good.ok
        failed = await world.act(runtime, {}, run_id="bad", handler=lambda value: 1 / 0)
        await world.approved(runtime, {}, run_id="paid", kind="tool", tool="refund", risk="irreversible")
    report = await world.report(small)
    assert judged.states(report) == {
        "S 1": "violated", "S 2": "satisfied", "S 3": "satisfied", "S 4": "not_exercised", "S 5": "satisfied"
    }  # fmt: skip
    assert judged.steps_that(report, "S 1", "violated") == {failed.step_id}
    first = report["controls"][0]
    assert first["counts"] == {"satisfied": 2, "violated": 1, "undecidable": 0}
    async with ReplayLedger(world.ledger) as ledger:
        (entry,) = await ledger.get_run("good")
        shown = next(one for one in first["records"]["satisfied"] if one["run_id"] == "good")
        assert (shown["entry_hash"], shown["seq"]) == (entry["entry_hash"], entry["seq"])
        assert shown["why"] == "it went well"
    assert first["records"]["violated"][0]["why"] == "verdict is error"
    (used,) = report["fingerprints"]
    assert used["steps"] == report["records"]["steps"] == 4
    assert report["ledger"]["checkpoint"].startswith("meshflow")


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE entries SET body = CAST(replace(CAST(body AS TEXT), '\"error\"', '\"commit\"') AS BLOB)",
        "DELETE FROM entries WHERE id = 2",
        "DELETE FROM payloads",
        "UPDATE entries SET verdict = 'reject' WHERE id = 1",
    ],
)
async def test_a_tampered_ledger_refuses_to_report(world: World, small: str, attack: str) -> None:
    await write(world, "a", "b", verdict="error", reason="x", code="execution.failed")
    with sqlite3.connect(world.ledger) as connection:
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        connection.execute(attack)
    connection.close()
    with pytest.raises(LedgerError, match="the ledger does not verify, so nothing is reported of it: "):
        await world.report(small)


async def test_a_rewritten_history_is_found_with_a_checkpoint_from_outside(world: World, small: str) -> None:
    await write(world, "a", "b")
    async with ReplayLedger(world.ledger) as ledger:
        kept, keys = await ledger.checkpoint(), await ledger.verifiers()
    report = await world.report(small, checkpoints=[kept], keys=keys)
    assert (report["ledger"]["held_size"], report["ledger"]["keys_from_outside"]) == (2, True)
    assert next(one for one in report["controls"] if one["id"] == "S 4")["status"] == "satisfied"
    for path in world.folder.glob("runs.db*"):
        path.unlink()
    await write(world, "a", "other")  # whoever holds the key and the file begins anew
    with pytest.raises(LedgerError, match="does not verify"):
        await world.report(small, checkpoints=[kept], keys=keys)


async def test_what_was_erased_cannot_be_judged_and_satisfies_nothing(world: World, small: str, judged: Any) -> None:
    async with world.running(world.config()) as runtime:
        outcome = await world.act(runtime, {}, run_id="a")
        await runtime.plugin("ledger").ledger.anonymize_run("a")  # type: ignore[attr-defined]
    report = await world.report(small)
    assert judged.states(report)["S 2"] == "not_exercised"
    assert judged.steps_that(report, "S 2", "undecidable") == {outcome.step_id}
    (control,) = (one for one in report["controls"] if one["id"] == "S 2")
    assert control["records"]["undecidable"][0]["why"] == "erased: principal.subject"


async def test_no_name_and_no_word_of_a_step_stands_in_a_report(world: World, small: str) -> None:
    folder = Path(small)
    text = PACK.replace("{principal.subject: {known: true}}", "{principal.subject: nobody, tool: none, node_id: q}")
    (folder / "profile.yaml").write_text(text, "utf-8")
    async with world.running(world.config()) as runtime:
        await world.act(runtime, {"sub": "Ada Lovelace"}, input={"note": "a private matter"}, metadata={"case": "Q-7"})
    report = await world.report(small)
    assert "Ada" not in str(report)
    assert "private" not in str(report)
    assert "principal.subject is not what is asked for; tool is not there; node_id is step" in str(report)


async def test_a_tenant_is_reported_of_alone(world: World, small: str) -> None:
    await write(world, "a", "b", tenant_id="acme")
    await write(world, "c", tenant_id="globex", fingerprint="f2")
    report = await world.report(small, tenant="globex")
    assert (report["records"]["runs"], report["records"]["steps"]) == (1, 1)
    assert [one["fingerprint"] for one in report["fingerprints"]] == ["f2"]
    assert "s-a-0" not in str(report)


async def test_steps_that_a_fork_inherits_count_once(world: World, small: str) -> None:
    await write(world, "a", "a")
    async with ReplayLedger(world.ledger) as ledger:
        await ledger.fork("a", 2)
    assert (await world.report(small))["records"]["steps"] == 2


async def test_records_listed_are_bounded_and_all_are_counted(world: World, small: str) -> None:
    await write(world, *("a" for _ in range(30)))
    report = await world.report(small, limit=5)
    assert report["controls"][0]["counts"]["satisfied"] == 30
    assert len(report["controls"][0]["records"]["satisfied"]) == 5


async def test_what_is_written_after_the_verification_is_left_for_the_next_report(
    world: World, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(world, "a")
    genuine = ReplayLedger.verify_ledger

    async def and_then_some(self: ReplayLedger, **given: Any) -> dict[str, Any]:
        found = await genuine(self, **given)
        await write(world, "b")
        return found

    monkeypatch.setattr(ReplayLedger, "verify_ledger", and_then_some)
    report = await world.report(small)
    assert report["records"] | {"entries": 1} == {
        "runs": 2, "entries": 1, "steps": 1, "steps_under_profile": 0, "written_later": 1
    }  # fmt: skip


async def test_an_entry_that_changes_after_the_verification_ends_the_report(
    world: World, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write(world, "a", verdict="error", code="execution.failed")
    genuine = ReplayLedger.verify_ledger

    async def and_then_some(self: ReplayLedger, **given: Any) -> dict[str, Any]:
        found = await genuine(self, **given)
        with sqlite3.connect(world.ledger) as connection:
            for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
                connection.execute(f'DROP TRIGGER "{name}"')
            connection.execute(
                "UPDATE entries SET body = CAST(replace(CAST(body AS TEXT), '\"error\"', '\"commit\"') AS BLOB)"
            )
        connection.close()
        return found

    monkeypatch.setattr(ReplayLedger, "verify_ledger", and_then_some)
    with pytest.raises(LedgerError, match="does not match its hashes"):
        await world.report(small)


async def test_a_window_that_ends_before_it_begins_is_refused(world: World, small: str) -> None:
    with pytest.raises(LedgerError, match="since is not before until"):
        await world.report(small, since="2026-01-02T00:00:00Z", until="2026-01-01T00:00:00Z")


async def test_a_step_under_way_is_neither_recorded_nor_missing(world: World, judged: Any) -> None:
    await world.kill_a_step()
    assert judged.states(await world.report("hipaa"))["45 CFR 164.312(b)"] == "not_exercised"


class Tags(HTMLParser):
    """Collects the tags of a document, and what could load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>\u202e\x1b[2J'


async def test_text_from_the_ledger_is_data_in_html(world: World, small: str) -> None:
    await write(world, HOSTILE, fingerprint=HOSTILE, tenant_id="t")
    html = report_html(await world.report(small))
    found = Tags()
    found.feed(html)
    assert not {"script", "img", "a", "link", "iframe", "object", "svg", "form"} & set(found.tags)
    assert not [name for name in found.attributes if name.startswith("on") or name in ("src", "href", "style")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "\u202e" not in html
    assert "\\u{202e}" in html
    assert "\x1b" not in html
    assert "default-src 'none'" in html
    assert not re.search(r"url\(|@import|https?://", html.partition("</style>")[0])


async def test_html_says_what_json_says(world: World, small: str) -> None:
    await write(world, "a")
    report = await world.report(small)
    html = report_html(report)
    for control in report["controls"]:
        assert control["id"] in html
    for part in ("Out of reach", report["ledger"]["checkpoint"].splitlines()[0], report["profile"]["digest"], "f1"):
        assert part in html
    assert report["controls"][0]["records"]["satisfied"][0]["entry_hash"] in html


@pytest.mark.slow
async def test_memory_does_not_grow_with_the_number_of_records(world: World, small: str) -> None:
    async def peak() -> int:
        tracemalloc.start()
        await world.report(small)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    await write(world, *(f"r{number % 7}" for number in range(300)))
    few = await peak()
    shutil.copy(world.ledger, world.folder / "few.db")
    await write(world, *(f"q{number % 70}" for number in range(2_700)))
    assert await peak() < few * 1.5 + 500_000
