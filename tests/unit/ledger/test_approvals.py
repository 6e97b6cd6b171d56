from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from meshflow.clock import ManualClock
from meshflow.ledger import ApprovalRefusedError, ReplayLedger
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
    assert (found.arguments_digest, found.salt, found.fingerprint) == ("d" * 64, "salt-of-arguments", "f" * 64)
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
def test_who_asked_may_not_approve(approver: str, path: object, escalated: MakeRecord, clock: ManualClock) -> None:
    async def main() -> None:
        async with ReplayLedger(str(path), clock=clock) as ledger:
            await ledger.write(escalated())
            assert await refused(ledger, approver=approver) == "self_approval"
            assert len(await ledger.pending_approvals()) == 1

    asyncio.run(main())


async def test_nobody_may_not_approve(ledger: ReplayLedger, escalated: MakeRecord) -> None:
    await ledger.write(escalated())
    assert await refused(ledger, approver="  ") == "approver"


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
