from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from meshflow.clock import ManualClock
from meshflow.errors import ConfigError, LedgerConflictError, LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.plugin import (
    Host,
    NodeInput,
    Principal,
    RiskTier,
    StepContext,
    StepRecord,
    TaintLabels,
    TenantScope,
    Verdict,
)
from meshflow.plugin.base import Plugin
from meshflow.plugin.protocols import Auditor
from meshflow.record import ApprovalRequest
from meshflow.step import StepState
from meshflow_ledger import CODES, LedgerPlugin, LedgerSettings

ALICE = Principal("alice", "agent-7")


def a_context(clock: ManualClock, step_id: str = "s1") -> StepContext:
    step = NodeInput(node_id="refund", kind="tool", tool="pay", input={"raw": "4111 1111"}, run_id="r", step_id=step_id)
    state = StepState(step, "r", step_id, clock, clock.now_us(), "f" * 64)
    state.recorded_input = {"raw": "<CARD>"}
    state.facts = {
        "identity_verification": ALICE,
        "tenant_scoping": TenantScope("acme"),
        "risk_classification": RiskTier.IRREVERSIBLE,
        "taint_propagation": TaintLabels(),
    }
    return StepContext(state)


def a_record(clock: ManualClock, step_id: str = "s1", **changes: object) -> StepRecord:
    values = {"run_id": "r", "node_id": "refund", "step_id": step_id, "tenant_id": "acme", "principal": ALICE}
    return StepRecord(**(values | {"started_us": clock.now_us()} | changes))  # type: ignore[arg-type]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def plugin(tmp_path: Path, clock: ManualClock) -> AsyncIterator[LedgerPlugin]:
    plugin = LedgerPlugin(LedgerSettings(), Host(clock=clock, base=tmp_path))
    await plugin.startup()
    yield plugin
    await plugin.shutdown()


async def test_an_intent_is_on_disk_redacted_before_the_outcome(
    plugin: LedgerPlugin, clock: ManualClock, tmp_path: Path
) -> None:
    await plugin.record_intent(a_context(clock))
    (intent,) = await plugin.ledger.unfinished("r")
    assert intent["input_task"] == {"raw": "<CARD>"}
    assert (intent["tool"], intent["risk"], intent["origin"], intent["tenant_id"]) == (
        "pay",
        "irreversible",
        "trusted",
        "acme",
    )
    assert intent["principal"]["subject"] == "alice"
    assert intent["fingerprint"] == "f" * 64
    for file in tmp_path.iterdir():
        assert b"4111" not in file.read_bytes()
    await plugin.record_audit(a_context(clock), a_record(clock))
    assert await plugin.ledger.unfinished("r") == []
    assert (await plugin.ledger.verify_chain("r"))["valid"]


async def test_a_second_intent_of_an_attempt_denies(plugin: LedgerPlugin, clock: ManualClock) -> None:
    await plugin.record_intent(a_context(clock))
    clock.advance(1)
    with pytest.raises(LedgerConflictError, match="new attempt"):
        await plugin.record_intent(a_context(clock))


async def test_a_decision_is_found_for_the_resumed_step(plugin: LedgerPlugin, clock: ManualClock) -> None:
    assert await plugin.find_approval(a_context(clock)) is None
    request = ApprovalRequest("ap-1", "d" * 64, "salt", clock.now_us() + 1_000_000, ("tool_permission.review",))
    paused = a_record(clock, verdict=Verdict.ESCALATE, code="tool_permission.review", approval_request=request)
    await plugin.record_audit(a_context(clock), paused)
    await plugin.ledger.decide_approval("ap-1", approve=True, approver="bob")
    approval = await plugin.find_approval(a_context(clock))
    assert approval is not None
    assert (approval.approved, approval.approver, approval.principal) == (True, "bob", ALICE)
    assert await plugin.find_approval(a_context(clock, "s2")) is None


async def test_the_path_starts_from_the_base_and_nothing_opens_before_startup(tmp_path: Path) -> None:
    plugin = LedgerPlugin(LedgerSettings(path="deep.db"), Host(base=tmp_path))
    assert plugin.ledger.path == tmp_path / "deep.db"
    assert list(tmp_path.iterdir()) == []
    await plugin.startup()
    assert (tmp_path / "deep.db").exists()
    await plugin.shutdown()


async def test_an_unusable_path_stops_the_start(tmp_path: Path) -> None:
    plugin = LedgerPlugin(LedgerSettings(path="no/such/folder/runs.db"), Host(base=tmp_path))
    with pytest.raises(LedgerError, match="folder"):
        await plugin.startup()
    await plugin.shutdown()


async def test_a_given_ledger_is_used_and_left_open(tmp_path: Path, clock: ManualClock) -> None:
    async with ReplayLedger(tmp_path / "given.db") as given:
        plugin = LedgerPlugin(LedgerSettings(), Host(clock=clock, base=tmp_path, ledger=given))
        await plugin.startup()
        await plugin.record_audit(a_context(clock), a_record(clock))
        await plugin.shutdown()
        assert await given.list_runs() == ["r"]
    assert not (tmp_path / "meshflow_runs.db").exists()


async def test_startup_after_shutdown_opens_again(plugin: LedgerPlugin, clock: ManualClock) -> None:
    await plugin.record_audit(a_context(clock), a_record(clock))
    await plugin.shutdown()
    await plugin.startup()
    await plugin.record_audit(a_context(clock), a_record(clock, "s2"))
    assert len(await plugin.ledger.get_run("r")) == 2


def test_a_thing_that_is_no_ledger_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a ReplayLedger"):
        LedgerPlugin(LedgerSettings(), Host(ledger=object()))


def test_postgres_is_refused_when_the_ledger_is_made() -> None:
    with pytest.raises(ConfigError, match="not supported"):
        _ = LedgerPlugin(LedgerSettings(path="postgresql://u:p@h/db")).ledger


@pytest.mark.parametrize("wrong", [{"path": ""}, {"busy_timeout_ms": -1}, {"queue_limit": 0}, {"pth": "x"}])
def test_a_wrong_setting_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LedgerSettings.model_validate(wrong)


def test_the_plugin_is_an_auditor_without_codes_of_its_own() -> None:
    auditor: Auditor = LedgerPlugin(LedgerSettings())
    assert isinstance(auditor, Plugin)
    assert LedgerPlugin.section == "ledger"
    assert CODES == {}
    assert all(field.description for field in LedgerSettings.model_fields.values())
