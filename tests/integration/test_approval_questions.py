"""What an approval answers: the questions that were asked, of the data they were asked about, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshflow import NodeInput, RuntimeOutcome, Status, StepRuntime
from meshflow.facts import Confidentiality, Origin, TaintLabels

POLICY = """
package meshflow.policy
default decision := {"allow": true}
decision := {"allow": true, "escalate": true, "reasons": reasons} if count(reasons) > 0
reasons contains {"code": "amount", "message": "more than 1000"} if input.input.amount > 1000
reasons contains {"code": "stranger", "message": "the payee is unknown"} if input.input.to != "known"
"""
PAY = NodeInput(
    node_id="pay", input={"amount": 5000, "to": "known"}, handler=lambda given: given, run_id="r", step_id="s"
)
MAIL = replace(PAY, kind="tool", tool="mail", risk="irreversible")


async def approved(runtime: StepRuntime, step: NodeInput, **answer: Any) -> RuntimeOutcome:
    asked = await runtime.run(step)
    assert asked.approval_id is not None, asked
    await runtime.ledger.decide_approval(asked.approval_id, approve=True, approver="grace", **answer)
    return asked


def runtime_of(**options: Any) -> StepRuntime:
    return StepRuntime(config={"ledger": {"path": ":memory:"}}, **options)


async def test_an_edit_that_another_rule_of_the_policy_asks_about_waits_again(tmp_path: Path) -> None:
    (tmp_path / "pay.rego").write_text(POLICY, "utf-8")
    async with runtime_of(policy=str(tmp_path)) as runtime:
        await approved(runtime, PAY, edited={"amount": 500, "to": "stranger"})
        again = await runtime.run(replace(PAY, resume=True))
        assert (again.status, again.code) == (Status.PAUSED, "approval.incomplete")
        assert again.approval_id is not None
        (waiting,) = await runtime.ledger.pending_approvals()
        assert "policy_evaluation.escalated:stranger" in waiting["codes"]
        await runtime.ledger.decide_approval(again.approval_id, approve=True, approver="grace")
        done = await runtime.run(replace(PAY, resume=True))
    assert (done.status, done.output) == (Status.COMPLETED, {"amount": 500, "to": "stranger"})


async def test_an_edit_that_the_same_rule_asks_about_runs(tmp_path: Path) -> None:
    (tmp_path / "pay.rego").write_text(POLICY, "utf-8")
    async with runtime_of(policy=str(tmp_path)) as runtime:
        await approved(runtime, PAY, edited={"amount": 2000, "to": "known"})
        done = await runtime.run(replace(PAY, resume=True))
    assert (done.status, done.output) == (Status.COMPLETED, {"amount": 2000, "to": "known"})


@pytest.mark.parametrize(
    ("labels", "status"),
    [
        (TaintLabels(Origin.TOOL, Confidentiality.PUBLIC), Status.COMPLETED),
        (TaintLabels(Origin.EXTERNAL, Confidentiality.PUBLIC), Status.PAUSED),
        (TaintLabels(Origin.TOOL, Confidentiality.TENANT), Status.PAUSED),
    ],
)
async def test_data_of_worse_labels_than_were_approved_waits_again(labels: TaintLabels, status: Status) -> None:
    seen = TaintLabels(Origin.TOOL, Confidentiality.PUBLIC)
    async with runtime_of() as runtime:
        await approved(runtime, replace(MAIL, labels=seen))
        again = await runtime.run(replace(MAIL, labels=labels, resume=True))
        assert again.status is status
        if status is Status.PAUSED:
            assert again.code == "approval.incomplete"
            assert again.approval_id is not None
            await runtime.ledger.decide_approval(again.approval_id, approve=True, approver="grace")
            assert (await runtime.run(replace(MAIL, labels=labels, resume=True))).status is Status.COMPLETED


async def test_an_edit_that_the_gates_mask_runs_masked() -> None:
    step = replace(PAY, ask="pay?")
    async with runtime_of() as runtime:
        await approved(runtime, step, edited={"card": "5500 0000 0000 0004"})
        done = await runtime.run(replace(step, resume=True))
    assert done.status is Status.COMPLETED
    assert "5500" not in str(done.output)
