"""Processes that decide at once, steps that are handed in at once, and processes killed in between; on both stores."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from meshflow import ReplayLedger
from meshflow.facts import Principal
from meshflow.names import folded_name
from meshflow.record import ApprovalRequest, StepRecord, Verdict

ROUNDS = 40 if os.environ.get("MESHFLOW_SOAK") == "full" else 6

VOTER = """
import asyncio, json, sys, time
from meshflow.ledger import ApprovalRefusedError, ReplayLedger

async def main(place):
    async with ReplayLedger(place) as ledger:
        await ledger.pending_approvals()
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            await asyncio.sleep(max(0.0, asked["at"] - time.time()))
            try:
                made = await ledger.decide_approval(asked["id"], approve=asked["approve"], approver=asked["who"])
                print("decided" if made["decided"] else "voted", flush=True)
            except ApprovalRefusedError as refused:
                print(f"refused:{refused.cause}", flush=True)

asyncio.run(main(sys.argv[1]))
"""

DESK = """
import asyncio, os, sys, time
from meshflow import NodeInput, StepRuntime

place, verb, run_id = sys.argv[1:4]
at = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
risk = sys.argv[5] if len(sys.argv) > 5 else "irreversible"
effects = os.open("effects", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

async def pay(arguments):
    os.write(effects, f"{run_id} {arguments['cents']}\\n".encode())
    if verb == "hang":
        print("running", flush=True)
        await asyncio.sleep(60)
    return "paid"

async def main():
    config = {"ledger": {"path": place}, "tools": {"approval_from": "read_only"}}
    async with StepRuntime(config=config) as runtime:
        await asyncio.sleep(max(0.0, at - time.time()))
        step = NodeInput(node_id="pay", kind="tool", tool="pay", risk=risk, input={"cents": 500}, handler=pay,
                         run_id=run_id, step_id="s", resume=verb != "ask")
        outcome = await runtime.run(step)
        print(outcome.status.value, outcome.code, outcome.approval_id, flush=True)
        if verb == "ask":
            await asyncio.sleep(60)

asyncio.run(main())
"""


class Voters:
    """Processes that are told to decide at one moment."""

    def __init__(self, place: str, count: int) -> None:
        self._workers = [
            subprocess.Popen(
                [sys.executable, "-c", VOTER, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(count)
        ]
        for worker in self._workers:
            assert self._said(worker) == "ready"

    def together(self, approval_id: str, *answers: tuple[str, bool], at: float | None = None) -> list[str]:
        """Have each process give one answer at the same moment; return how they ended."""
        at = time.time() + 0.03 if at is None else at
        asked = list(zip(self._workers, answers, strict=False))
        for worker, (who, approve) in asked:
            assert worker.stdin is not None
            worker.stdin.write(json.dumps({"id": approval_id, "who": who, "approve": approve, "at": at}) + "\n")
            worker.stdin.flush()
        return [self._said(worker) for worker, _ in asked]

    @staticmethod
    def _said(worker: subprocess.Popen[str]) -> str:
        assert worker.stdout is not None
        return worker.stdout.readline().strip()

    def close(self) -> None:
        for worker in self._workers:
            worker.communicate(timeout=30)


@pytest.fixture
async def opened(place: str) -> AsyncIterator[ReplayLedger]:
    async with ReplayLedger(place) as ledger:
        await ledger.write({"run_id": "made", "node_id": "n", "step_id": "s"})
        yield ledger


@pytest.fixture
def voters(place: str, opened: ReplayLedger) -> Iterator[Voters]:
    several = Voters(place, 3)
    yield several
    several.close()


async def ask(ledger: ReplayLedger, number: int, required: int, expires_at_us: int | None = None) -> str:
    """Write a step that waits; return the approval's id."""
    now_us = time.time_ns() // 1_000
    request = ApprovalRequest(
        f"apr-{number}", "d" * 64, "5a" * 16, expires_at_us or now_us + 60_000_000, ("policy_evaluation.review",),
        required=required,
    )  # fmt: skip
    record = StepRecord(
        run_id=f"run-{number}", node_id="pay", step_id="s", tenant_id="acme", verdict=Verdict.ESCALATE,
        code="policy_evaluation.review", principal=Principal("alice", "agent-7"), approval_request=request,
        started_us=now_us, fingerprint="f" * 64,
    )  # fmt: skip
    await ledger.write(record)
    return request.approval_id


async def check(ledger: ReplayLedger, number: int, required: int, answers: Sequence[str]) -> str:
    """Assert what must hold of a request whatever raced; return how it stands."""
    run_id = f"run-{number}"
    votes, decisions = await ledger.entries(run_id, "vote"), await ledger.entries(run_id, "approval")
    counted = Counter(answers)
    assert len(decisions) == counted["decided"] <= 1
    people = [folded_name(vote["approver"]) for vote in votes]
    assert len(people) == len(set(people)) < required
    assert "alice" not in people
    assert (await ledger.verify_chain(run_id))["valid"]
    found = await ledger.find_approval(run_id, "s")
    if found is None:
        assert not decisions
        return "waits"
    if found.approved:
        assert len({*people, folded_name(found.approver)}) == required
        assert [folded_name(one) for one in found.approvers] == people
    return "approved" if found.approved else "denied"


class TestAtOnce:
    async def test_one_person_in_two_processes_is_one_person(self, voters: Voters, opened: ReplayLedger) -> None:
        for number in range(ROUNDS):
            approval_id = await ask(opened, number, 2)
            said = voters.together(approval_id, ("bob", True), (" BOB\ufe0f", True), ("ｂｏｂ", True))
            assert said.count("voted") == 1
            assert set(said) <= {"voted", "refused:voted", "refused:raced"}
            assert await check(opened, number, 2, said) == "waits"

    async def test_of_two_last_votes_one_decides(self, voters: Voters, opened: ReplayLedger) -> None:
        for number in range(ROUNDS):
            approval_id = await ask(opened, number, 2)
            first = voters.together(approval_id, ("bob", True))
            said = voters.together(approval_id, ("carol", True), ("dave", True), ("bob", True))
            assert said.count("decided") == 1
            assert set(said) <= {"decided", "refused:decided", "refused:voted", "refused:raced"}
            assert await check(opened, number, 2, first + said) == "approved"

    async def test_of_yes_and_no_at_once_one_stands(self, voters: Voters, opened: ReplayLedger) -> None:
        for number in range(ROUNDS):
            approval_id = await ask(opened, number, 1)
            said = voters.together(approval_id, ("bob", True), ("carol", False), ("dave", number % 2 == 0))
            assert Counter(said) == {"decided": 1, "refused:decided": 2}
            assert await check(opened, number, 1, said) in ("approved", "denied")

    async def test_a_no_between_votes_ends_it(self, voters: Voters, opened: ReplayLedger) -> None:
        for number in range(ROUNDS):
            approval_id = await ask(opened, number, 4)  # more than say yes before the no is in, whatever the order
            first = voters.together(approval_id, ("bob", True))
            said = voters.together(approval_id, ("carol", True), ("dave", False), ("erin", True))
            said += voters.together(approval_id, ("frank", True), ("grace", True))
            assert await check(opened, number, 4, first + said) == "denied"

    async def test_who_asked_is_not_one_of_those_who_race(self, voters: Voters, opened: ReplayLedger) -> None:
        approval_id = await ask(opened, 0, 2)
        said = voters.together(approval_id, ("ALICE", True), ("ａgent-7", True), ("bob", True))
        assert Counter(said) == {"refused:self_approval": 2, "voted": 1}
        assert await check(opened, 0, 2, said) == "waits"

    async def test_a_decision_that_races_the_end_is_made_before_it_or_not_at_all(
        self, voters: Voters, opened: ReplayLedger
    ) -> None:
        for number in range(ROUNDS):
            end = time.time() + 0.1
            end_us = int(end * 1e6)
            approval_id = await ask(opened, number, 2, expires_at_us=end_us)
            first = voters.together(approval_id, ("bob", True))
            said = voters.together(approval_id, ("carol", True), ("dave", True), at=end - 0.004 + number * 0.001)
            stands = await check(opened, number, 2, first + said)
            for entry in [*await opened.entries(f"run-{number}", "vote"),
                          *await opened.entries(f"run-{number}", "approval")]:  # fmt: skip
                assert entry["started_us"] < end_us
            await asyncio.sleep(max(0.0, end - time.time()))
            late = voters.together(approval_id, ("erin", True))
            assert late == ["refused:decided" if stands == "approved" else "refused:expired"]


def desk(place: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DESK, place, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def said(worker: subprocess.Popen[str]) -> list[str]:
    assert worker.stdout is not None
    return worker.stdout.readline().split()


def killed(worker: subprocess.Popen[str]) -> list[str]:
    """Return what a process says, and kill it once it has."""
    with worker:
        words = said(worker)
        os.kill(worker.pid, signal.SIGKILL)
    return words


def ended(worker: subprocess.Popen[str]) -> list[str]:
    with worker:
        return said(worker)


def approve(place: str, approval_id: str) -> None:
    """Decide by the command line, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "meshflow.cli", "approvals", "approve", approval_id, "--as", "grace", "--ledger", place],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def effects(tmp_path: Path) -> list[str]:
    return (tmp_path / "effects").read_text().split()


@pytest.mark.slow
@pytest.mark.parametrize("risk", ["irreversible", "read_only"])
async def test_what_was_approved_executes_once_whoever_is_killed(place: str, tmp_path: Path, risk: str) -> None:
    status, _, approval_id = killed(desk(place, "ask", "r", 0, risk))  # killed before anybody decides
    assert (status, effects(tmp_path)) == ("paused", [])
    approve(place, approval_id)
    at = time.time() + 2
    outcomes = [ended(worker) for worker in [desk(place, "resume", "r", at, risk) for _ in range(2)]]
    assert effects(tmp_path) == ["r", "500"]
    assert [one[0] for one in outcomes].count("completed") == 1
    assert ended(desk(place, "resume", "r", 0, risk))[1] == "approval.used"
    async with ReplayLedger(place) as ledger:
        assert (await ledger.verify_chain("r"))["valid"]
        assert await ledger.unfinished("r") == []


@pytest.mark.slow
async def test_what_was_killed_while_it_ran_is_not_run_again_on_the_same_approval(place: str, tmp_path: Path) -> None:
    _, _, approval_id = killed(desk(place, "ask", "r"))
    approve(place, approval_id)
    assert killed(desk(place, "hang", "r")) == ["running"]
    assert ended(desk(place, "resume", "r"))[1] == "approval.used"
    assert effects(tmp_path) == ["r", "500"]
    async with ReplayLedger(place) as ledger:
        assert [one["step_id"] for one in await ledger.unfinished("r")] == ["s"]
