"""One attempt, one execution: what is over cannot run again, and an approval covers one execution."""

from __future__ import annotations

import asyncio

import pytest

from meshflow import NodeInput, ReplayLedger, Status, StepRuntime

POLICY = """
package meshflow.policy
decision := {"allow": input.input != "forbidden", "escalate": input.input == "ask"}
"""


@pytest.fixture
async def desk(tmp_path):
    from meshflow import Policy

    ledger = ReplayLedger(tmp_path / "ledger.db")
    async with StepRuntime(ledger=ledger, policy=Policy.from_rego(POLICY)) as runtime:
        yield runtime, ledger
    await ledger.aclose()


def step(ran, text, **more):
    return NodeInput(node_id="pay", input=text, handler=ran.append, run_id="r", step_id="s", **more)


async def test_an_attempt_that_was_denied_cannot_run_under_the_same_number(desk):
    runtime, ledger = desk
    ran = []
    assert (await runtime.run(step(ran, "forbidden"))).status is Status.DENIED
    again = await runtime.run(step(ran, "harmless"))
    assert (again.ok, ran) == (False, [])
    number = await ledger.next_attempt("r", "s")
    assert (await runtime.run(step(ran, "harmless", attempt=number))).ok
    assert ran == ["harmless"]
    assert (await ledger.verify_chain("r"))["valid"]


async def test_of_many_hands_that_give_in_one_attempt_one_executes(desk):
    runtime, ledger = desk
    ran = []
    outcomes = await asyncio.gather(*(runtime.run(step(ran, "harmless")) for _ in range(20)))
    assert ran == ["harmless"]
    assert sum(outcome.ok for outcome in outcomes) == 1
    verdicts = [entry["verdict"] for entry in await ledger.get_run("r")]
    assert sorted(verdicts) == ["commit"] + ["reject"] * 19
    assert await ledger.unfinished("r") == []


async def test_an_approval_is_used_up_by_one_execution(desk):
    runtime, ledger = desk
    ran = []
    paused = await runtime.run(step(ran, "ask"))
    await ledger.decide_approval(paused.approval_id, approve=True, approver="grace")
    outcomes = await asyncio.gather(*(runtime.run(step(ran, "ask", resume=True)) for _ in range(5)))
    assert ran == ["ask"]
    assert sum(outcome.ok for outcome in outcomes) == 1
    later = await runtime.run(step(ran, "ask", resume=True, attempt=9))
    assert (later.code, ran) == ("approval.used", ["ask"])


async def test_a_refused_attempt_does_not_use_an_approval_up(desk):
    runtime, ledger = desk
    ran = []
    paused = await runtime.run(step(ran, "ask"))
    await ledger.decide_approval(paused.approval_id, approve=True, approver="grace")
    assert (await runtime.run(step(ran, "other", resume=True))).code == "approval.arguments_changed"
    assert (await runtime.run(step(ran, "ask", resume=True))).ok
    assert ran == ["ask"]
