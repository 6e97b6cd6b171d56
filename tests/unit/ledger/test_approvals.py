from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from forgery import look

from meshflow.clock import ManualClock
from meshflow.digest import arguments_digest
from meshflow.errors import LedgerConflictError, LedgerError
from meshflow.facts import Principal
from meshflow.ledger import ApprovalRefusedError, Intent, ReplayLedger
from meshflow.record import StepRecord

MakeRecord = Callable[..., StepRecord]


async def refused(ledger: ReplayLedger, approval_id: str = "ap-1", approver: str = "bob") -> str:
    with pytest.raises(ApprovalRefusedError) as caught:
        await ledger.decide_approval(approval_id, approve=True, approver=approver)
    return caught.value.cause


async def test_a_paused_step_waits_until_it_is_decided(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    await ledger.write(escalated())
    (waiting,) = await ledger.pending_approvals()
    assert waiting["approval_id"] == "ap-1"
    assert waiting["codes"] == ["policy_evaluation.review"]
    assert waiting["reason"] == "a refund needs a person"
    assert waiting["input_task"] == {"text": "question 0"}
    assert waiting["principal"]["subject"] == "alice"
    assert waiting["expired"] is False
    assert await ledger.find_approval("run-1", "step-0") is None
    decided = await ledger.decide_approval("ap-1", approve=True, approver="bob", reason="checked the order")
    assert decided["approved"] is True
    assert await ledger.pending_approvals() == []
    found = await ledger.find_approval("run-1", "step-0")
    assert found is not None
    assert (found.approved, found.approver, found.reason) == (True, "bob", "checked the order")
    assert (found.arguments_digest, found.salt, found.fingerprint) == ("d" * 64, "5a" * 16, "f" * 64)
    assert (found.principal.subject, found.principal.roles) == ("alice", ("ops",))
    assert (found.holds_output, found.held_output) == (False, None)
    assert (await ledger.verify_chain("run-1"))["valid"]


async def test_a_held_output_comes_back_with_the_approval(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    await ledger.write(escalated(holds_output=True))
    await ledger.decide_approval("ap-1", approve=False, approver="bob")
    found = await ledger.find_approval("run-1", "step-0")
    assert found is not None
    assert not found.approved
    assert found.held_output == {"answer": 19.99, "nothing": None}


async def test_an_unknown_id_is_refused(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    assert await refused(ledger) == "unknown"
    await ledger.write(escalated())
    assert await refused(ledger, "ap-2") == "unknown"


async def test_another_tenant_cannot_decide_or_see(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    await ledger.write(escalated())
    assert await ledger.pending_approvals(tenant="bolt") == []
    with pytest.raises(ApprovalRefusedError, match="no step"):
        await ledger.decide_approval("ap-1", approve=True, approver="bob", tenant="bolt")
    assert len(await ledger.pending_approvals(tenant="acme")) == 1


async def test_a_decision_is_made_once(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    await ledger.write(escalated())
    await ledger.decide_approval("ap-1", approve=False, approver="bob")
    assert await refused(ledger) == "decided"


async def test_of_racing_decisions_one_stands(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    await ledger.write(escalated())
    outcomes = await asyncio.gather(
        *(ledger.decide_approval("ap-1", approve=n % 2 == 0, approver=f"person-{n}") for n in range(12)),
        return_exceptions=True,
    )
    made = [outcome for outcome in outcomes if isinstance(outcome, dict)]
    assert len(made) == 1
    assert {error.cause for error in outcomes if isinstance(error, ApprovalRefusedError)} == {"decided"}
    found = await ledger.find_approval("run-1", "step-0")
    assert found is not None
    assert found.approver == made[0]["approver"]
    assert found.approved is made[0]["approved"]


@pytest.mark.parametrize("approver", ["alice", "agent-7", " Alice ", "ALICE", "\uff21lice"])
def test_who_asked_may_not_approve(approver: str, place: object, escalated: MakeRecord, clock: ManualClock) -> None:
    async def main() -> None:
        async with ReplayLedger(str(place), clock=clock) as ledger:
            await ledger.write(escalated())
            assert await refused(ledger, approver=approver) == "self_approval"
            assert len(await ledger.pending_approvals()) == 1

    asyncio.run(main())


@pytest.mark.parametrize("nobody", ["", "  ", "\u200b\u2060", "\x00", "bob\ud800", "b" * 321, None, 7])
async def test_nobody_may_not_approve(ledger: ReplayLedger, escalated: MakeRecord, nobody: Any) -> None:
    await ledger.write(escalated())
    assert await refused(ledger, approver=nobody) == "approver"


@pytest.mark.parametrize("approver", ["ALICE@example.com", "Alice Liddell", "a.liddell", "ａ.liddell"])
async def test_who_asked_may_not_approve_under_another_of_their_names(
    ledger: ReplayLedger, escalated: MakeRecord, approver: str
) -> None:
    claims = {"email": "alice@example.com", "name": "Alice  Liddell", "preferred_username": "a.liddell", "age": 7}
    await ledger.write(escalated(principal=Principal("u-17", "agent-7", claims=claims)))
    assert await refused(ledger, approver=approver) == "self_approval"
    assert (await ledger.decide_approval("ap-1", approve=True, approver="bob"))["decided"]


async def test_a_run_that_is_closed_takes_no_answer_and_says_so(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    await ledger.write(escalated(required=2))
    await ledger.close_run("run-1")
    for approve in (True, False):
        with pytest.raises(LedgerConflictError, match="closed"):
            await ledger.decide_approval("ap-1", approve=approve, approver="bob")


async def test_two_steps_under_one_approval_are_decided_by_nobody(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    await ledger.write(escalated())
    await ledger.write(escalated(1))
    with pytest.raises(LedgerError, match="2 steps wait for approval"):
        await ledger.decide_approval("ap-1", approve=True, approver="bob")


async def test_a_decision_knows_the_step_and_what_was_asked(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    await ledger.write(escalated(node_kind="tool", tool="refund", action="pay"))
    await ledger.decide_approval("ap-1", approve=True, approver="bob")
    found = await ledger.find_approval("run-1", "step-0")
    assert found is not None
    assert (found.tenant_id, found.node_id, found.node_kind) == ("acme", "node-0", "tool")
    assert (found.tool, found.action, found.codes) == ("refund", "pay", ("policy_evaluation.review",))


async def test_an_output_is_used_when_it_is_out_and_not_by_an_intent(
    ledger: ReplayLedger, escalated: MakeRecord, record: MakeRecord
) -> None:
    await ledger.write(escalated(holds_output=True))
    await ledger.decide_approval("ap-1", approve=True, approver="bob")
    intent = Intent(run_id="run-1", step_id="step-0", node_id="node-0", attempt=2, started_us=1, approval_id="ap-1")
    await ledger.write_intent(intent)  # and whoever wrote it was killed
    found = await ledger.find_approval("run-1", "step-0")
    assert found is not None
    assert (found.used, found.attempt) == (False, 2)
    await ledger.write(record(attempt=3, executed=False, approval_id="ap-1"))
    found = await ledger.find_approval("run-1", "step-0")
    assert found is not None
    assert found.used


async def test_an_expired_request_is_marked_and_refused(
    ledger: ReplayLedger, escalated: MakeRecord, clock: ManualClock
) -> None:
    await ledger.write(escalated())
    clock.advance(59.9)
    assert not (await ledger.pending_approvals())[0]["expired"]
    clock.advance(0.1)
    assert (await ledger.pending_approvals())[0]["expired"]
    assert await refused(ledger) == "expired"


async def test_an_erased_principal_leaves_nothing_to_decide(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    await ledger.write(escalated())
    await ledger.erase_payloads("run-1", fields=["principal"], reason="request", authority="dpo")
    assert await refused(ledger) == "no_principal"


async def test_a_step_asked_twice_answers_with_the_latest_decision(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    await ledger.write(escalated(approval_id="ap-1"))
    await ledger.decide_approval("ap-1", approve=False, approver="bob")
    await ledger.write(escalated(approval_id="ap-2", attempt=2))
    assert [waiting["approval_id"] for waiting in await ledger.pending_approvals()] == ["ap-2"]
    await ledger.decide_approval("ap-2", approve=True, approver="carol")
    found = await ledger.find_approval("run-1", "step-0")
    assert found is not None
    assert (found.approval_id, found.approver) == ("ap-2", "carol")


class TestSeveralPeople:
    async def test_the_last_of_those_needed_decides(self, ledger: ReplayLedger, escalated: MakeRecord) -> None:
        await ledger.write(escalated(required=2))
        first = await ledger.decide_approval("ap-1", approve=True, approver="bob")
        assert (first["decided"], first["approvals"], first["required"]) == (False, 1, 2)
        assert await ledger.find_approval("run-1", "step-0") is None
        assert len(await ledger.pending_approvals()) == 1
        second = await ledger.decide_approval("ap-1", approve=True, approver="carol")
        assert (second["decided"], second["approvals"]) == (True, 2)
        found = await ledger.find_approval("run-1", "step-0")
        assert found is not None
        assert (found.approvers, found.approver, found.approved) == (("bob",), "carol", True)
        assert await ledger.pending_approvals() == []
        assert (await ledger.verify_chain("run-1"))["valid"]

    @pytest.mark.parametrize("again", ["bob", " BOB ", "ｂｏｂ", "b\u200bob", "bob\u2060", "\u00adbob"])
    async def test_nobody_counts_twice(self, ledger: ReplayLedger, escalated: MakeRecord, again: str) -> None:
        await ledger.write(escalated(required=2))
        await ledger.decide_approval("ap-1", approve=True, approver="bob")
        assert await refused(ledger, approver=again) == "voted"

    async def test_one_who_denies_decides_alone(self, ledger: ReplayLedger, escalated: MakeRecord) -> None:
        await ledger.write(escalated(required=3))
        await ledger.decide_approval("ap-1", approve=True, approver="bob")
        decided = await ledger.decide_approval("ap-1", approve=False, approver="carol")
        assert decided["decided"] is True
        found = await ledger.find_approval("run-1", "step-0")
        assert found is not None
        assert not found.approved

    async def test_of_many_at_once_just_as_many_count_as_answered(
        self, ledger: ReplayLedger, escalated: MakeRecord
    ) -> None:
        await ledger.write(escalated(required=4))
        answers = [ledger.decide_approval("ap-1", approve=True, approver=f"person-{number}") for number in range(12)]
        done = [one for one in await asyncio.gather(*answers, return_exceptions=True) if isinstance(one, dict)]
        votes = await ledger.entries("run-1", "vote")
        assert len(done) == len(votes) + len(await ledger.entries("run-1", "approval"))
        assert len({vote["approver"] for vote in votes}) == len(votes) <= 3

    async def test_a_vote_is_erased_with_its_run(self, ledger: ReplayLedger, escalated: MakeRecord) -> None:
        await ledger.write(escalated(required=2))
        await ledger.decide_approval("ap-1", approve=True, approver="bob")
        await ledger.delete_run("run-1")
        assert all(b"bob" not in row[0] for row in look(ledger.place, "SELECT data FROM payloads"))  # type: ignore
        if ledger.path is not None:
            assert b"bob" not in ledger.path.read_bytes()
        assert (await ledger.verify_chain("run-1"))["valid"]


class TestEditing:
    async def test_edited_arguments_come_back_with_their_own_digest(
        self, ledger: ReplayLedger, escalated: MakeRecord
    ) -> None:
        await ledger.write(escalated())
        await ledger.decide_approval("ap-1", approve=True, approver="bob", edited={"cents": 5})
        found = await ledger.find_approval("run-1", "step-0")
        assert found is not None
        assert (found.edited, found.edited_input) == (True, {"cents": 5})
        assert found.arguments_digest == arguments_digest({"cents": 5}, found.salt)

    async def test_a_denial_edits_nothing(self, ledger: ReplayLedger, escalated: MakeRecord) -> None:
        await ledger.write(escalated())
        with pytest.raises(ApprovalRefusedError, match="only arguments that are approved"):
            await ledger.decide_approval("ap-1", approve=False, approver="bob", edited={})

    async def test_a_held_output_is_not_edited(self, ledger: ReplayLedger, escalated: MakeRecord) -> None:
        await ledger.write(escalated(holds_output=True))
        with pytest.raises(ApprovalRefusedError, match="only arguments"):
            await ledger.decide_approval("ap-1", approve=True, approver="bob", edited={})

    async def test_several_must_approve_the_same(self, ledger: ReplayLedger, escalated: MakeRecord) -> None:
        await ledger.write(escalated(required=2))
        await ledger.decide_approval("ap-1", approve=True, approver="bob", edited={"cents": 5})
        assert await refused(ledger, approver="carol") == "edit"
        decided = await ledger.decide_approval("ap-1", approve=True, approver="carol", edited={"cents": 5})
        assert decided["decided"]

    async def test_an_edit_that_was_erased_approves_nothing(self, ledger: ReplayLedger, escalated: MakeRecord) -> None:
        await ledger.write(escalated())
        await ledger.decide_approval("ap-1", approve=True, approver="bob", edited={"cents": 5})
        await ledger.anonymize_run("run-1", fields=["input"])
        assert await ledger.find_approval("run-1", "step-0") is None


async def test_an_approval_that_leads_back_to_itself_is_refused(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    await ledger.write(replace(escalated(), approval_id="ap-1"))
    await ledger.decide_approval("ap-1", approve=True, approver="bob")
    with pytest.raises(LedgerError, match="leads back to it"):
        await asyncio.wait_for(ledger.find_approval("run-1", "step-0"), 10)
