"""What honest people do to a ledger never raises an alarm, in a run or in the whole."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forgery import look, write_ledger

from meshflow.clock import ManualClock
from meshflow.errors import LedgerError
from meshflow.ledger import Intent, ReplayLedger
from meshflow.ledger.anchors import AnchorError, FileAnchor, GitAnchor
from meshflow.ledger.format.checkpoints import read_checkpoint
from meshflow.ledger.format.keys import KeyFile
from meshflow.record import StepRecord, Verdict

MakeRecord = Callable[..., StepRecord]
History = Callable[[ReplayLedger, MakeRecord, MakeRecord], Any]


async def many_writers(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await asyncio.gather(*(ledger.write(record(n, run_id=f"run-{n % 7}")) for n in range(600)))


async def one_after_the_other(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    for number in range(300):
        await ledger.write(record(number, run_id=f"run-{number % 2}"))


async def two_ledgers_taking_turns(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    async with ReplayLedger(ledger.place) as other:
        for number in range(270):
            await (ledger, other)[number % 2].write(record(number))


async def reopening(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    for number in range(4):
        async with ReplayLedger(ledger.place) as again:
            await asyncio.gather(*(again.write(record(100 * number + place)) for place in range(90)))


async def approval_and_resume(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await ledger.write(escalated())
    await ledger.decide_approval("ap-1", approve=True, approver="bob", reason="fine")
    await ledger.write_intent(Intent(run_id="run-1", step_id="step-0", node_id="n", attempt=2, approval_id="ap-1"))
    await ledger.write(record(0, attempt=2, approval_id="ap-1"))


async def erasing(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    for number in range(5):
        await ledger.write(record(number))
    await ledger.erase_payloads("run-1", fields=["input"], reason="request", authority="dpo")
    await ledger.write(record(9))
    await ledger.close_run("run-1")
    await ledger.erase_payloads("run-1", reason="request", authority="dpo")


async def forks_of_forks(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    for number in range(5):
        await ledger.write(record(number))
    await ledger._store.fork_run("child", "run-1", 3, None, 7)
    await ledger.write(record(50, run_id="child"))
    await ledger._store.fork_run("grandchild", "child", 4, None, 7)
    await ledger._store.fork_run("shallow", "grandchild", 1, None, 7)
    for run in ("shallow", "grandchild", "run-1"):
        await ledger.write(record(90, run_id=run))
    await ledger.erase_payloads("run-1", reason="request", authority="dpo")


async def rotating_keys(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await ledger.rotate_key()
    for number in range(3):
        await ledger.write(record(number))
        await ledger.rotate_key()
        await ledger.rotate_key()


async def refusals_and_conflicts(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await asyncio.gather(*(ledger.write(record(n % 4, tokens=n % 8)) for n in range(40)), return_exceptions=True)
    await ledger.write(record(0, attempt=2, verdict=Verdict.REJECT))
    with pytest.raises(LedgerError):
        await ledger._store.fork_run("child", "run-1", 99, None, 7)
    await ledger.write(record(77))


async def tenants_sharing_runs(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    for number in range(30):
        await ledger.write(record(number, tenant_id=("default", "acme", "bolt")[number % 3]))


async def odd_names(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await ledger.write(record(0, node_id='"commitments":{', step_id="\x00", tool='\\"commitments":{"'))
    await ledger.write(record(1, run_id="\U0001f600 \u2028 '; DROP TABLE entries; --", tenant_id="\u00e9"))
    await ledger.write(record(1, step_id="e\u0301", input='"commitments":{}'))


async def huge_and_empty_payloads(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await ledger.write(record(0, input="x" * 3_000_000, output=None))
    await ledger.write(StepRecord(run_id="run-1", node_id="n"))


async def a_vacuum(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await ledger.write(record(0))
    look(ledger.place, "VACUUM")
    await ledger.write(record(1))


async def a_clock_that_steps_back(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    for number in range(10):
        await ledger.write(record(number, started_us=2_000_000_000_000_000 - number * 3_600_000_000))


async def an_empty_fork_and_an_open_intent(ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord) -> None:
    await ledger.write_intent(Intent(run_id="run-1", step_id="s", node_id="n"))
    await ledger._store.fork_run("child", "run-1", 0, None, 7)
    await ledger.close_run("child")


HISTORIES: list[History] = [
    many_writers, one_after_the_other, two_ledgers_taking_turns, reopening, approval_and_resume, erasing,
    forks_of_forks, rotating_keys, refusals_and_conflicts, tenants_sharing_runs, odd_names, huge_and_empty_payloads,
    a_vacuum, a_clock_that_steps_back, an_empty_fork_and_an_open_intent,
]  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)
async def test_an_honest_history_raises_no_alarm(
    history: History, ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord
) -> None:
    await ledger.write(record(1_000, run_id="before"))
    early, keys = await ledger.checkpoint(), await ledger.verifiers()
    await history(ledger, record, escalated)
    result = await ledger.verify_ledger(since=early, keys=keys)
    assert (result["errors"], result["valid"], result["uncovered"]) == ([], True, 0)
    for run in await ledger.list_runs():
        chain = await ledger.verify_chain(run, checkpoint=[early, await ledger.checkpoint()], keys=keys)
        assert (chain["errors"], chain["valid"], chain["uncovered"]) == ([], True, 0)


async def test_what_is_written_while_it_is_verified_raises_no_alarm(ledger: ReplayLedger, record: MakeRecord) -> None:
    async def write() -> None:
        for number in range(150):
            await ledger.write(record(number, run_id=f"run-{number % 3}"))

    await ledger.write(record(1_000))
    task = asyncio.create_task(write())
    while not task.done():
        await asyncio.sleep(0.01)
        result = await ledger.verify_ledger()
        assert result["errors"] == []
        assert (await ledger.verify_chain("run-1"))["errors"] in ([], ["the ledger has no run 'run-1'"])
    await task


async def test_a_ledger_without_a_key_says_that_nothing_is_signed(place: str | Path, record: MakeRecord) -> None:
    async with ReplayLedger(place, key=None) as ledger:
        for number in range(300):
            await ledger.write(record(number))
        result = await ledger.verify_ledger()
        assert (result["valid"], result["errors"], result["uncovered"]) == (True, [], 300)
        assert "checkpoint" in result["not_checked"]
        assert "checkpoint" in (await ledger.verify_chain("run-1"))["not_checked"]


async def test_a_ledger_that_is_not_there_has_nothing_to_verify(path: Path) -> None:
    async with ReplayLedger(path) as ledger:
        with pytest.raises(LedgerError, match="no ledger"):
            await ledger.verify_ledger()
        assert not (await ledger.verify_chain("r"))["valid"]
    assert not path.exists()


async def test_keys_from_outside_that_are_not_the_ledgers_are_an_alarm(
    ledger: ReplayLedger, record: MakeRecord, tmp_path: Path
) -> None:
    await ledger.write(record(0))
    stranger = str(KeyFile(tmp_path / "stranger").load("stranger", True).verifier)
    for result in (await ledger.verify_ledger(keys=[stranger]), await ledger.verify_chain("run-1", keys=[stranger])):
        assert not result["valid"]
        assert {finding["layer"] for finding in result["findings"]} == {"checkpoint"}


async def test_a_file_anchor_keeps_what_follows_and_refuses_what_contradicts(
    ledger: ReplayLedger, record: MakeRecord, tmp_path: Path, path: Path
) -> None:
    anchor = FileAnchor(tmp_path / "checkpoints.jsonl")
    assert await anchor.latest() is None
    notes = []
    for number in range(3):
        await ledger.write(record(number))
        notes.append(await ledger.checkpoint())
        await ledger.anchor(anchor)
        await ledger.anchor(anchor)
    assert await anchor.latest() == notes[-1]
    assert anchor.path.read_text().count("checkpoint") == 3
    with pytest.raises(AnchorError, match="contradicts"):
        await anchor.publish(notes[0])
    with anchor.path.open("a") as file:
        file.write('{"checkpoint": "cut sho')
    assert await anchor.latest() == notes[-1]
    await ledger.write(record(9))
    await ledger.anchor(anchor)
    assert await anchor.latest() == await ledger.checkpoint()
    async with ReplayLedger(tmp_path / "other.db") as other:
        await other.write(record(0))
        with pytest.raises(AnchorError, match="use another place"):
            await other.anchor(anchor)
        with pytest.raises(AnchorError, match="cannot be written"):
            await other.anchor(FileAnchor(tmp_path / "no such folder" / "file"))


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True).stdout


async def test_a_git_anchor_commits_and_pushes(ledger: ReplayLedger, record: MakeRecord, tmp_path: Path) -> None:
    work, remote = tmp_path / "work", tmp_path / "remote.git"
    work.mkdir()
    git(tmp_path, "init", "-q", "--bare", str(remote))
    git(work, "init", "-q", "-b", "main")
    git(work, "remote", "add", "origin", str(remote))
    anchor = GitAnchor(work, remote="origin")
    assert await anchor.latest() is None
    await ledger.write(record(0))
    first = await ledger.checkpoint()
    (receipt,) = await ledger.anchor(anchor)
    assert receipt.where.split()[-1] == git(remote, "rev-parse", "main").strip()
    await ledger.write(record(1))
    await ledger.anchor(anchor)
    await ledger.anchor(anchor)
    assert git(work, "log", "--format=%s").splitlines() == [
        "Checkpoint of 2 entries",
        "Checkpoint of 1 entries",
    ]
    (work / "checkpoint.txt").write_text("scribble")
    latest = await anchor.latest()
    assert latest is not None
    assert read_checkpoint(latest).size == 2
    with pytest.raises(AnchorError, match="contradicts"):
        await anchor.publish(first)
    assert (await ledger.verify_ledger(anchors=[anchor]))["held_size"] == 2
    with pytest.raises(AnchorError, match="failed"):
        await GitAnchor(tmp_path).latest()


def test_the_ledger_under_attack_is_made_by_honest_calls(tmp_path: Path) -> None:
    held = asyncio.run(write_ledger(tmp_path / "runs.db"))

    async def check() -> dict[str, Any]:
        async with ReplayLedger(tmp_path / "runs.db", clock=ManualClock()) as ledger:
            return await ledger.verify_ledger(since=list(held.values())[:3])

    assert asyncio.run(check())["errors"] == []
