"""An approval held against everything but what it was given for: by the default plugins, on both stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshflow import Decision, NodeInput, ReplayLedger, RuntimeOutcome, Status, StepRuntime
from meshflow.ledger import ApprovalRefusedError
from meshflow.ledger.format.chain import entry_hash
from meshflow.ledger.format.entry import COLUMNS, FIELD_NUMBER, seal
from meshflow.ledger.format.payload import payload_bytes
from meshflow.plugin import Plugin, Settings, hookimpl
from meshflow.step import StepContext

POLICY = """
package meshflow.policy
decision := {"allow": input.arguments.cents < 10000, "escalate": true}
"""
STEP = NodeInput(
    node_id="pay", kind="tool", tool="refund", action="pay", risk="irreversible", input={"cents": 500},
    run_id="r", step_id="s", tenant="acme",
)  # fmt: skip


class LookSettings(Settings):
    """None."""


class Look(Plugin[LookSettings]):
    """Asks a person about what the tool ``report`` puts out."""

    settings_type = LookSettings

    def __init__(self) -> None:
        super().__init__(LookSettings())

    @hookimpl
    async def guard_output(self, context: StepContext, output: Any) -> Decision | None:
        return Decision.escalate("output_guardrails.look", "look") if context.step.tool == "report" else None


class Desk:
    def __init__(self, ledger: ReplayLedger, config: dict[str, Any]) -> None:
        self.ledger = ledger
        self.config = config
        self.ran: list[Any] = []
        self.runtime = StepRuntime(ledger, config=config, plugins={"look": Look()})

    async def run(self, step: NodeInput = STEP, **changes: Any) -> RuntimeOutcome:
        return await self.runtime.run(replace(step, handler=self._handle, **changes))

    async def again(self, step: NodeInput = STEP, **changes: Any) -> RuntimeOutcome:
        return await self.run(step, resume=True, **changes)

    async def asked(self, step: NodeInput = STEP, **answer: Any) -> str:
        """Have a step wait, and a person approve it; return the approval's id."""
        outcome = await self.run(step)
        assert outcome.approval_id is not None, outcome
        await self.ledger.decide_approval(outcome.approval_id, approve=True, approver="grace", **answer)
        return outcome.approval_id

    def _handle(self, arguments: Any) -> str:
        self.ran.append(arguments)
        return f"paid {arguments['cents']}"


@pytest.fixture
async def desk(place: str, tmp_path: Path) -> AsyncIterator[Desk]:
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "pay.rego").write_text(POLICY)
    async with ReplayLedger(place) as ledger:
        one = Desk(ledger, {"plugins": {"rego": {"bundle": str(tmp_path / "policy")}}})
        async with one.runtime:
            yield one


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"tenant": "globex"}, "approval.other_tenant"),
        ({"tool": "wire"}, "approval.other_step"),
        ({"node_id": "wire"}, "approval.other_step"),
        ({"action": "wire"}, "approval.other_step"),
        ({"kind": "http"}, "approval.other_step"),
        ({"input": {"cents": 501}}, "approval.arguments_changed"),
        ({"input": {"cents": 500.0}}, "approval.arguments_changed"),
        ({"run_id": "r2"}, "approval.pending"),
        ({"step_id": "s2"}, "approval.pending"),
    ],
)
async def test_an_approval_is_for_one_step_of_one_tenant(desk: Desk, changes: dict[str, Any], code: str) -> None:
    await desk.asked()
    outcome = await desk.again(**changes)
    assert (outcome.code, outcome.output, desk.ran) == (code, None, [])
    assert (await desk.again()).output == "paid 500"
    assert (await desk.again()).code == "approval.used"
    assert desk.ran == [{"cents": 500}]


async def test_a_held_output_goes_to_the_tenant_of_whom_it_is(desk: Desk) -> None:
    report = replace(STEP, tool="report")
    await desk.asked(report)
    held = await desk.again(report)
    assert (held.status, held.code) == (Status.PAUSED, "output_guardrails.look")
    assert held.approval_id is not None
    await desk.ledger.decide_approval(held.approval_id, approve=True, approver="grace")
    stolen = await desk.again(report, tenant="globex")
    assert (stolen.code, stolen.output, "paid" in repr(stolen)) == ("approval.other_tenant", None, False)
    assert (await desk.again(report)).output == "paid 500"
    assert (await desk.again(report)).code == "approval.used"
    assert len(desk.ran) == 1


class TestEdits:
    async def test_an_edit_that_the_policy_denies_does_not_run(self, desk: Desk) -> None:
        await desk.asked(edited={"cents": 20_000})
        assert (await desk.again()).code == "policy_evaluation.denied"
        assert desk.ran == []

    async def test_an_edit_stays_with_a_step_that_waits_again(self, desk: Desk) -> None:
        report = replace(STEP, tool="report")
        await desk.asked(report, edited={"cents": 7})
        held = await desk.again(report)
        assert held.approval_id is not None
        (waiting,) = await desk.ledger.pending_approvals()
        assert (waiting["input_task"], waiting["output_content"]) == ({"cents": 7}, "paid 7")
        await desk.ledger.decide_approval(held.approval_id, approve=True, approver="grace")
        assert ((await desk.again(report)).output, desk.ran) == ("paid 7", [{"cents": 7}])

    async def test_an_edit_does_not_reach_another_tenant(self, desk: Desk) -> None:
        await desk.asked(edited={"cents": 987_654_321_012})
        outcome = await desk.again(tenant="globex")
        assert outcome.code == "approval.other_tenant"
        assert "987654321012" not in repr(outcome)

    @pytest.mark.parametrize("edited", [{"cents": b"5"}, {"cents": {1, 2}}, {5: "cents"}])
    async def test_an_edit_that_the_ledger_would_change_is_refused(self, desk: Desk, edited: Any) -> None:
        with pytest.raises(ApprovalRefusedError) as refused:
            await desk.asked(edited=edited)
        assert refused.value.cause == "edit"


async def test_an_approval_does_not_outlast_the_policy_that_asked(desk: Desk, tmp_path: Path) -> None:
    await desk.asked()
    policy = tmp_path / "policy" / "pay.rego"
    policy.write_text(POLICY.replace("10000", "10001"))
    await desk.runtime.reload()
    assert (await desk.again()).code == "approval.policy_changed"
    policy.write_text(POLICY)
    await desk.runtime.reload()
    assert (await desk.again()).output == "paid 500"  # the policy is the one that asked


async def test_more_people_may_be_needed_after_a_reload(desk: Desk) -> None:
    await desk.asked()
    await desk.runtime.reload({**desk.config, "approvals": {"required": 2}})
    assert (await desk.again()).code == "approval.too_few"
    await desk.runtime.reload({**desk.config, "approvals": {"approvers": ["mara"]}})
    assert (await desk.again()).code == "approval.not_an_approver"
    assert desk.ran == []


@pytest.mark.parametrize("answer", ["no", "false", 0, 1, None])
async def test_only_true_is_a_yes(desk: Desk, answer: Any) -> None:
    outcome = await desk.run()
    assert outcome.approval_id is not None
    with pytest.raises(ApprovalRefusedError, match="approve is True or False"):
        await desk.ledger.decide_approval(outcome.approval_id, approve=answer, approver="grace")
    assert (await desk.again()).code == "approval.pending"


async def forge(place: str, ledger: ReplayLedger, approval_id: str) -> None:
    """Insert a decision as the database's owner can: a row that follows the last one, with hashes that fit."""
    (request,) = [entry for entry in await ledger.get_run("r") if entry["approval_request"]]
    asked = request["approval_request"]
    fields = {
        "v": 1, "kind": "approval", "run_id": "r", "step_id": "s", "attempt": request["attempt"], "tenant_id": "acme",
        "node_id": "pay", "approval_id": approval_id, "approved": True, "started_us": request["started_us"] + 1,
        "arguments_digest": asked["arguments_digest"], "edited": False, "votes": [],
    }  # fmt: skip
    draft = seal(fields, {"approver": payload_bytes("grace")})
    previous, seq = bytes.fromhex(request["entry_hash"]), request["seq"] + 1
    values = {
        **dict(zip(COLUMNS, draft.columns, strict=True)), "run_id": "r", "seq": seq, "step_index": None,
        "prev_hash": previous, "entry_hash": entry_hash("r", seq, previous, draft.body), "body": draft.body,
    }  # fmt: skip
    ((name, salt, data),) = draft.payloads
    await insert(place, values, (FIELD_NUMBER[name], salt, data))


async def insert(place: str, values: dict[str, Any], payload: tuple[int, bytes, bytes]) -> None:
    columns = ", ".join(values)
    if "://" not in place:
        import sqlite3

        db = sqlite3.connect(place)
        last = db.execute("SELECT max(id) FROM entries").fetchone()[0] + 1
        marks = ", ".join("?" * (len(values) + 1))
        db.execute(f"INSERT INTO entries (id, {columns}) VALUES ({marks})", (last, *values.values()))
        db.execute(
            "INSERT INTO payloads (id, salt, data) VALUES (?, ?, ?)", (last * 16 + payload[0], payload[1], payload[2])
        )
        db.commit()
        db.close()
        return
    from meshflow.ledger.postgres.address import Address

    address = Address(place)
    connection = await asyncpg.connect(address.dsn, server_settings={"search_path": address.schema})
    try:
        last = await connection.fetchval("SELECT max(id) FROM entries") + 1
        marks = ", ".join(f"${number}" for number in range(1, len(values) + 2))
        await connection.execute(f"INSERT INTO entries (id, {columns}) VALUES ({marks})", last, *values.values())
        await connection.execute(
            "INSERT INTO payloads (id, salt, data) VALUES ($1, $2, $3)", last * 16 + payload[0], *payload[1:]
        )
    finally:
        await connection.close()


@pytest.mark.parametrize("risk", ["irreversible", "read_only"])
async def test_a_decision_that_the_databases_owner_inserted_runs_nothing(desk: Desk, place: str, risk: str) -> None:
    """The row fits its run. What is missing is its leaf in the log, without which nothing more is written."""
    step = replace(STEP, risk=risk)
    outcome = await desk.run(step)
    assert outcome.approval_id is not None
    await forge(place, desk.ledger, outcome.approval_id)
    again = await desk.again(step)
    assert (again.code, again.output, desk.ran) == ("audit_ledger.record_failed", None, [])
    assert not (await desk.ledger.verify_ledger())["valid"]
