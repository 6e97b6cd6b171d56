"""Deleting and anonymising runs, erasing by subject, and legal holds."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from forgery import look

from meshflow.clock import ManualClock
from meshflow.errors import LedgerError
from meshflow.facts import Principal
from meshflow.ledger import ApprovalRefusedError, Intent, ReplayLedger
from meshflow.ledger.bundle import verify_bundle
from meshflow.ledger.erasure import LegalHoldError

from .conftest import MakeRecord

SECRET = "a-very-recognisable-secret"


async def valid(ledger: ReplayLedger, run_id: str = "run-1") -> bool:
    result = await ledger.verify_chain(run_id)
    assert result["errors"] == []
    return bool(result["valid"])


async def test_a_deleted_run_lists_no_steps_and_still_verifies(ledger: ReplayLedger, record: MakeRecord) -> None:
    for number in range(3):
        await ledger.write(record(number))
    await ledger.write_intent(Intent(run_id="run-1", step_id="step-9", node_id="n", tenant_id="acme", input="asked"))
    assert await ledger.delete_run("run-1") == 3 * 5 + 1
    assert await ledger.get_run("run-1") == []
    assert await ledger.entries("run-1", "intent") == []
    assert await ledger.unfinished("run-1") == []
    with pytest.raises(LedgerError, match="no step 0"):
        await ledger.load_state("run-1", 0)
    with pytest.raises(LedgerError, match="no step -1"):
        await ledger.load_state("run-1", -1)
    assert await ledger.list_runs() == ["run-1"]
    summary = await ledger.run_summary("run-1")
    assert summary["deleted"] is True
    assert summary["total_cost_micro_usd"] == 4_500
    assert await valid(ledger)


async def test_a_tombstone_says_what_went_why_and_by_whose_authority(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record())
    await ledger.delete_run("run-1", reason="ticket 17", authority="data protection officer")
    (stone,) = await ledger.entries("run-1", "erasure")
    assert (stone["reason"], stone["authority"], stone["code"]) == ("ticket 17", "data protection officer", "deleted")
    assert stone["erased"] == []
    assert stone["tenant_id"] == "acme"


async def test_deleting_twice_erases_nothing_and_records_nothing(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record())
    assert await ledger.delete_run("run-1") == 5
    assert await ledger.delete_run("run-1") == 0
    assert await ledger.anonymize_run("run-1") == 0
    assert len(await ledger.entries("run-1", "erasure")) == 1


async def test_a_run_that_was_anonymised_can_still_be_deleted(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record())
    assert await ledger.anonymize_run("run-1") == 5
    assert await ledger.anonymize_run("run-1") == 0
    (step,) = await ledger.get_run("run-1")
    assert (step["verdict"], step["cost_usd"], step["timestamp"]) == ("commit", 0.0015, "2023-11-14T22:13:20.000000Z")
    assert step["principal"] is None
    assert step["input_task"] is None
    assert (await ledger.run_summary("run-1"))["deleted"] is False
    assert await ledger.delete_run("run-1") == 0
    assert await ledger.get_run("run-1") == []
    assert await valid(ledger)


async def test_anonymising_chosen_fields_leaves_the_others(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record())
    assert await ledger.anonymize_run("run-1", fields=["principal"]) == 1
    (step,) = await ledger.get_run("run-1")
    assert step["erased"] == ["principal"]
    assert step["input_task"] == {"text": "question 0"}
    for fields in ("principal", ["verdict"]):
        with pytest.raises(LedgerError, match="no erasable fields"):
            await ledger.anonymize_run("run-1", fields=fields)
    with pytest.raises(LedgerError, match="reason"):
        await ledger.anonymize_run("run-1", reason=" ")


async def test_arguments_go_with_the_salt_that_could_confirm_a_guess(
    ledger: ReplayLedger, escalated: MakeRecord
) -> None:
    await ledger.write(escalated())
    await ledger.anonymize_run("run-1", fields=["input"])
    (step,) = await ledger.get_run("run-1")
    assert step["erased"] == ["input", "request_salt"]


async def test_an_unknown_run_cannot_be_erased(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record())
    for call in (ledger.delete_run("run-2"), ledger.anonymize_run("run-1", tenant="bolt")):
        with pytest.raises(LedgerError, match="no run"):
            await call


async def test_a_tenant_deletes_its_own_part_of_a_shared_run(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record(0))
    await ledger.write(record(1, tenant_id="bolt"))
    assert await ledger.delete_run("run-1", tenant="bolt") == 5
    assert [step["tenant_id"] for step in await ledger.get_run("run-1")] == ["acme"]
    assert await ledger.entries("run-1", "erasure", tenant="acme") == []
    assert (await ledger.run_summary("run-1", tenant="acme"))["deleted"] is False
    assert await ledger.delete_run("run-1") == 5
    assert await ledger.get_run("run-1") == []
    assert [stone["tenant_id"] for stone in await ledger.entries("run-1", "erasure")] == ["bolt", "acme"]
    assert await valid(ledger)


async def test_steps_written_after_the_deletion_are_listed(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record(0))
    await ledger.delete_run("run-1")
    await ledger.write(record(1))
    assert [step["step_index"] for step in await ledger.get_run("run-1")] == [1]
    assert await ledger.delete_run("run-1") == 5
    assert await valid(ledger)


async def test_a_fork_inherits_the_erasure_of_what_it_forked(ledger: ReplayLedger, record: MakeRecord) -> None:
    for number in range(3):
        await ledger.write(record(number))
    await ledger._store.fork_run("fork", "run-1", 2, None, 1)
    await ledger._store.fork_run("fork-of-fork", "fork", 2, None, 1)
    await ledger.write(record(7, "fork"))
    await ledger.anonymize_run("run-1", fields=["input"])
    assert [step["erased"] for step in await ledger.get_run("fork")] == [["input"], ["input"], []]
    await ledger.delete_run("run-1")
    assert [step["step_id"] for step in await ledger.get_run("fork")] == ["step-7"]
    assert await ledger.get_run("fork-of-fork") == []
    with pytest.raises(LedgerError, match="no step 1"):
        await ledger.load_state("fork", 1)
    for run_id in ("run-1", "fork", "fork-of-fork"):
        assert await valid(ledger, run_id)


async def test_a_deleted_fork_lists_nothing_that_it_inherited(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record(0))
    await ledger._store.fork_run("fork", "run-1", 1, None, 1)
    assert await ledger.delete_run("fork") == 0
    assert await ledger.get_run("fork") == []
    assert len(await ledger.get_run("run-1")) == 1
    assert await valid(ledger, "fork")


async def test_a_closed_run_can_be_deleted_and_held(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record())
    await ledger.close_run("run-1")
    number = await ledger.hold("run-1", reason="case 9", authority="counsel")
    await ledger.release_hold(number, reason="settled", authority="counsel")
    assert await ledger.delete_run("run-1") == 5
    assert (await ledger.verify_chain("run-1"))["state"] == "closed"


async def test_nothing_can_be_decided_or_found_of_erased_approvals(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    await ledger.write(escalated())
    await ledger.decide_approval("ap-1", approve=True, approver="bob", reason="fine")
    assert (await ledger.find_approval("run-1", "step-0")) is not None
    await ledger.anonymize_run("run-1", fields=["approver"])
    assert await ledger.find_approval("run-1", "step-0") is None
    await ledger.write(escalated(1, "ap-2"))
    await ledger.delete_run("run-1")
    assert await ledger.pending_approvals() == []
    assert await ledger.find_approval("run-1", "step-0") is None
    with pytest.raises(ApprovalRefusedError):
        await ledger.decide_approval("ap-2", approve=True, approver="bob")
    assert await ledger.next_attempt("run-1", "step-0") == 2
    assert await valid(ledger)


async def test_a_subject_is_erased_across_runs(ledger: ReplayLedger, record: MakeRecord) -> None:
    carol = Principal("carol", "agent-9")
    for number, run_id in enumerate(("b", "a", "c")):
        await ledger.write(record(number, run_id))
        await ledger.write(record(number + 10, run_id, principal=carol))
    await ledger.write_intent(Intent(run_id="d", step_id="s", node_id="n", principal=carol, input="asked"))
    report = await ledger.erase_subject("carol", reason="request 4", authority="dpo")
    assert report == {"erased": 17, "runs": {"a": 5, "b": 5, "c": 5, "d": 2}, "held": {}}
    assert [step["erased"] == [] for step in await ledger.get_run("a")] == [True, False]
    assert (await ledger.erase_subject("carol"))["erased"] == 0
    assert (await ledger.erase_subject("nobody"))["runs"] == {}
    await ledger.write(record(20, "a", principal=carol))
    assert (await ledger.erase_subject("agent-9"))["runs"] == {"a": 5}
    for run_id in "abcd":
        assert await valid(ledger, run_id)


async def test_a_subject_is_erased_in_one_tenant_alone(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record(0, "a"))
    await ledger.write(record(0, "b", tenant_id="bolt"))
    assert (await ledger.erase_subject("alice", tenant="bolt"))["runs"] == {"b": 5}
    assert (await ledger.get_run("a"))[0]["erased"] == []


async def test_what_an_approver_said_goes_with_the_approver(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    await ledger.write(escalated())
    await ledger.decide_approval("ap-1", approve=True, approver="bob", reason="known to me")
    assert await ledger.erase_subject("bob") == {"erased": 2, "runs": {"run-1": 2}, "held": {}}
    (approval,) = await ledger.entries("run-1", "approval")
    assert approval["erased"] == ["approver", "reason"]


async def test_many_runs_of_a_subject_are_erased_page_by_page(ledger: ReplayLedger, record: MakeRecord) -> None:
    ids = [f"run-{number}" for number in range(1_100)]
    await asyncio.gather(*(ledger.write(record(0, run_id)) for run_id in ids))
    report = await ledger.erase_subject("alice")
    assert report["runs"] == dict.fromkeys(ids, 5)


async def test_a_held_run_is_not_erased(ledger: ReplayLedger, record: MakeRecord, clock: ManualClock) -> None:
    await ledger.write(record())
    await ledger.write(record(0, "other"))
    number = await ledger.hold("run-1", reason="case 9", authority="counsel", tenant="acme")
    for call in (ledger.delete_run("run-1"), ledger.anonymize_run("run-1"), ledger.delete_run("run-1", tenant="acme")):
        with pytest.raises(LegalHoldError, match="case 9"):
            await call
    assert len(await ledger.get_run("run-1")) == 1
    report = await ledger.erase_subject("alice")
    assert report["runs"] == {"other": 5}
    assert "legal hold" in report["held"]["run-1"]
    (hold,) = await ledger.holds()
    assert (hold["hold"], hold["run_id"], hold["tenant_id"]) == (number, "run-1", "acme")
    assert await ledger.holds(tenant="bolt") == []
    with pytest.raises(LedgerError, match="no hold"):
        await ledger.release_hold(number, reason="x", authority="y", tenant="bolt")
    assert await ledger.release_hold(number, reason="settled", authority="counsel") is True
    assert await ledger.release_hold(number, reason="settled", authority="counsel") is False
    assert await ledger.holds() == []
    assert (await ledger.holds(released=True))[0]["released_at"] is not None
    records = await ledger.entries("run-1", "retention")
    assert [(one["code"], one["hold"], one["reason"]) for one in records] == [
        ("hold", number, "case 9"), ("release", number, "settled"),
    ]  # fmt: skip
    assert await ledger.delete_run("run-1") == 5
    assert await valid(ledger)


async def test_a_tenant_is_not_told_the_operators_reason(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record())
    await ledger.hold("run-1", reason="secret investigation", authority="counsel")
    with pytest.raises(LegalHoldError) as caught:
        await ledger.delete_run("run-1", tenant="acme")
    assert "secret" not in str(caught.value)


async def test_a_hold_on_a_fork_covers_what_it_inherits(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record())
    await ledger._store.fork_run("fork", "run-1", 1, None, 1)
    await ledger.hold("fork", reason="case 9", authority="counsel")
    with pytest.raises(LegalHoldError):
        await ledger.delete_run("run-1")


async def test_a_held_subject_is_not_erased_anywhere(ledger: ReplayLedger, record: MakeRecord, path: Path) -> None:
    carol = Principal("carol-the-subject", "agent-9")
    await ledger.write(record(0))
    await ledger.write(record(1, principal=carol))
    number = await ledger.hold(subject="carol-the-subject", reason="case 9", authority="counsel")
    for call in (ledger.delete_run("run-1"), ledger.anonymize_run("run-1", fields=["output"])):
        with pytest.raises(LegalHoldError, match=f"hold {number}"):
            await call
    assert (await ledger.erase_subject("carol-the-subject"))["erased"] == 0
    assert (await ledger.erase_subject("alice"))["runs"] == {"run-1": 5}
    (entry,) = await ledger.entries("meshflow.holds", "retention")
    assert "carol" not in str(entry) + str(await ledger.holds())
    assert await ledger.release_hold(number, reason="settled", authority="counsel")
    assert (await ledger.erase_subject("carol-the-subject"))["erased"] == 5
    assert await valid(ledger, "meshflow.holds")
    await ledger.aclose()
    assert_gone(path, b"carol-the-subject")


async def test_a_hold_needs_a_run_or_a_subject_that_is_there(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record())
    with pytest.raises(LedgerError, match="one of the two"):
        await ledger.hold(reason="r", authority="a")
    with pytest.raises(LedgerError, match="one of the two"):
        await ledger.hold("run-1", subject="alice", reason="r", authority="a")
    with pytest.raises(LedgerError, match="no run"):
        await ledger.hold("run-2", reason="r", authority="a")
    with pytest.raises(LedgerError, match="no run"):
        await ledger.hold("run-1", reason="r", authority="a", tenant="bolt")
    assert await ledger.holds(released=True) == []


def assert_gone(path: Path, needle: bytes) -> None:
    files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
    assert files
    for file in files:
        assert needle not in file.read_bytes(), file.name


@pytest.mark.parametrize("way", ["delete", "anonymise", "subject"])
async def test_nothing_erased_is_left_in_any_file(
    path: Path, record: MakeRecord, escalated: MakeRecord, clock: ManualClock, way: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    secret = {"text": SECRET, SECRET: [SECRET] * 300}
    texts: dict[str, Any] = {"input": secret, "output": secret, "metadata": {"note": SECRET}, "reason": SECRET}
    caplog.set_level(logging.DEBUG)
    async with ReplayLedger(path, clock=clock) as ledger:
        who = Principal(SECRET, SECRET, claims={"mail": SECRET})
        for number in range(60):
            await ledger.write(record(number, "kept"))
            await ledger.write(record(number, principal=who, **texts))
        await ledger.write(escalated(99, principal=who, **texts))
        await ledger.decide_approval("ap-1", approve=False, approver=SECRET + "2", reason=SECRET)
        await ledger.write(escalated(98, "ap-2", required=2, principal=who, **texts))
        for voter in ("3", "4"):
            await ledger.decide_approval(
                "ap-2", approve=True, approver=SECRET + voter, reason=SECRET, edited={SECRET: SECRET}
            )
        assert len(await ledger.entries("run-1", "vote")) == 1
        await ledger.fork("run-1", 30, new_run_id="fork")
        await ledger.write_intent(Intent(run_id="run-1", step_id="i", node_id="n", principal=who, input=secret))
        assert SECRET.encode() in b"".join(file.read_bytes() for file in path.parent.iterdir())
        if way == "delete":
            await ledger.delete_run("run-1")
        elif way == "anonymise":
            await ledger.anonymize_run("run-1")
        else:
            await ledger.erase_subject(SECRET)
            for approver in "234":
                await ledger.erase_subject(SECRET + approver)
        assert_gone(path, b"recognisable")
        kinds = [await ledger.entries("run-1", kind) for kind in ("step", "approval", "vote", "intent", "erasure")]
        assert SECRET not in str(kinds)
        assert SECRET not in await ledger.export_run("run-1") + await ledger.export_run("fork")
        assert SECRET not in await ledger.export_run_csv("run-1") + await ledger.export_run_csv("fork")
        bundle = path.with_name("evidence.jsonl")
        await ledger.export_bundle(bundle, None)
        assert b"recognisable" not in bundle.read_bytes()
        assert verify_bundle(bundle, await ledger.verifiers())["valid"]
        with pytest.raises(LedgerError) as caught:
            await ledger.write(record(0, input=secret))
        assert SECRET not in str(caught.value)
        assert await valid(ledger)
        assert await valid(ledger, "kept")
    assert_gone(path, b"recognisable")
    assert SECRET not in caplog.text


async def test_a_subject_that_was_erased_is_out_of_the_index(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record())
    await ledger.erase_subject("nobody")
    assert look(ledger.place, "SELECT count(*) FROM subjects") == [(2,)]  # type: ignore[attr-defined]
    await ledger.anonymize_run("run-1", fields=["principal"])
    assert look(ledger.place, "SELECT count(*) FROM subjects") == [(0,)]  # type: ignore[attr-defined]


async def test_writers_go_on_while_runs_are_erased(place: str | Path, record: MakeRecord) -> None:
    async with ReplayLedger(place) as writer, ReplayLedger(place) as eraser:
        await writer.write(record(0))

        async def write() -> None:
            for number in range(1, 120):
                await writer.write(record(number, f"run-{number % 4}"))

        async def erase() -> int:
            gone = 0
            for _ in range(12):
                gone += (await eraser.erase_subject("alice"))["erased"]
                await asyncio.sleep(0.001)
            return gone

        _, gone = await asyncio.gather(write(), erase())
        gone += (await eraser.erase_subject("alice"))["erased"]
        assert gone == 120 * 5
        for run_id in await writer.list_runs():
            assert await valid(writer, run_id)
