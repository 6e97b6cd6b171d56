from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from meshflow.clock import ManualClock
from meshflow.errors import ConfigError, LedgerConflictError, LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.ledger.anchors import ContradictionError
from meshflow.ledger.format.checkpoints import Checkpoint, read_checkpoint
from meshflow.ledger.format.notes import Signer
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
        assert b"4111 1111" not in file.read_bytes()
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


async def test_anchors_take_a_checkpoint_at_shutdown_at_the_latest(tmp_path: Path, clock: ManualClock) -> None:
    settings = LedgerSettings.model_validate({"anchors": [{"use": "file", "path": "kept"}], "anchor_every_s": 3_600})
    plugin = LedgerPlugin(settings, Host(clock=clock, base=tmp_path))
    await plugin.startup()
    await plugin.record_audit(a_context(clock), a_record(clock))
    await plugin.shutdown()
    (anchor,) = plugin.anchors
    latest = await anchor.latest()
    assert latest is not None
    async with ReplayLedger(tmp_path / "meshflow_runs.db") as ledger:
        assert latest == await ledger.checkpoint()


async def test_a_given_ledger_is_anchored_too(tmp_path: Path, clock: ManualClock) -> None:
    settings = LedgerSettings.model_validate({"anchors": [{"use": "file", "path": "kept"}], "key": None})
    async with ReplayLedger(tmp_path / "given.db") as given:
        plugin = LedgerPlugin(settings, Host(clock=clock, base=tmp_path, ledger=given))
        await plugin.startup()
        await plugin.record_audit(a_context(clock), a_record(clock))
        await plugin.shutdown()
        assert await plugin.anchors[0].latest() == await given.checkpoint()


async def test_when_an_anchor_contradicts_nothing_more_happens(tmp_path: Path, clock: ManualClock) -> None:
    settings = LedgerSettings.model_validate({"anchors": [{"use": "file", "path": "kept"}], "anchor_every_s": 1})
    plugin = LedgerPlugin(settings, Host(clock=clock, base=tmp_path))
    await plugin.startup()
    await plugin.record_intent(a_context(clock))
    forged = Checkpoint(await plugin.ledger._store.origin() or "", 9, bytes(32))
    key = Signer.parse((tmp_path / "meshflow_runs.db.key").read_text())
    await plugin.anchors[0].publish(forged.sign(key))
    assert plugin._publisher is not None
    for _ in range(500):
        if plugin._publisher.contradiction:
            break
        await asyncio.sleep(0.01)
    with pytest.raises(ContradictionError, match="cut off"):
        await plugin.record_intent(a_context(clock, "s2"))
    # What began before is recorded and let go; what only reads is recorded and withheld.
    await plugin.record_audit(a_context(clock), a_record(clock, executed=True, risk="irreversible"))
    with pytest.raises(ContradictionError):
        await plugin.record_audit(a_context(clock, "s3"), a_record(clock, "s3", executed=True, risk="read_only"))
    assert len(await plugin.ledger.get_run("r")) == 2
    await plugin.shutdown()
    again = LedgerPlugin(settings, Host(clock=clock, base=tmp_path))
    with pytest.raises(ContradictionError, match="cut off"):
        await again.startup()
    await again.shutdown()


async def test_an_anchor_that_cannot_be_reached_does_not_stop_the_start(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    settings = LedgerSettings.model_validate({"anchors": [{"use": "file", "path": "not/there/kept"}]})
    plugin = LedgerPlugin(settings, Host(clock=clock, base=tmp_path))
    await plugin.startup()
    await plugin.record_audit(a_context(clock), a_record(clock))
    await plugin.shutdown()
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"anchors": [{"use": "fil"}]}, r"ledger\.anchors\.0: no anchor 'fil' \(did you mean file\?\)"),
        ({"anchors": [{"use": "file"}]}, r"ledger\.anchors\.0\.path: is required"),
        ({"anchors": [{"use": "file", "path": "x"}], "key": None}, "ledger.key: anchors keep signed checkpoints"),
    ],
)
def test_anchors_that_make_no_sense_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        LedgerPlugin(LedgerSettings.model_validate(settings))


@pytest.mark.parametrize(("key", "file"), [("auto", "meshflow_runs.db.key"), ("keys/mine", "keys/mine"), (None, None)])
async def test_the_signing_key_is_where_settings_say(
    tmp_path: Path, clock: ManualClock, key: str | None, file: str | None
) -> None:
    (tmp_path / "keys").mkdir()
    settings = LedgerSettings(key=key, checkpoint_every=2)
    plugin = LedgerPlugin(settings, Host(clock=clock, base=tmp_path))
    await plugin.startup()
    sizes = []
    for number in range(3):
        await plugin.record_audit(a_context(clock), a_record(clock, f"s{number}"))
        stored = await plugin.ledger._store.stored_checkpoint()
        sizes.append(0 if stored[1] is None else read_checkpoint(stored[1]).size)
    await plugin.shutdown()
    made = [
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.suffix == ".key" or path.name == "mine"
    ]
    assert (sizes, made) == (([1, 1, 3], [file]) if file else ([0, 0, 0], []))


def test_a_thing_that_is_no_ledger_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a ReplayLedger"):
        LedgerPlugin(LedgerSettings(), Host(ledger=object()))


def test_a_url_is_a_place_and_its_password_is_not_shown() -> None:
    ledger = LedgerPlugin(LedgerSettings(path="postgresql://u:hunter2@h/db")).ledger
    assert (ledger.path, ledger.name) == (None, "postgresql://u@h/db")
    with pytest.raises(ConfigError, match="no place for a ledger") as caught:
        _ = LedgerPlugin(LedgerSettings(path="mysql://u:hunter2@h/db")).ledger
    assert "hunter2" not in str(caught.value)


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
