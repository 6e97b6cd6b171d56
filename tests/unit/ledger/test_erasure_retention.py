"""Retention: which payloads go after how long, and what stays."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from meshflow.clock import ManualClock
from meshflow.errors import LedgerError
from meshflow.ledger import Intent, ReplayLedger
from meshflow.ledger.retention import RetentionRule, duration_us
from meshflow_ledger import LedgerPlugin, LedgerSettings

from .conftest import MakeRecord

DAY_US = 86_400_000_000


def aged(record: MakeRecord, clock: ManualClock, number: int, days: int, run_id: str = "run-1", **changes: object):  # type: ignore[no-untyped-def]
    return record(number, run_id, started_us=clock.now_us() - days * DAY_US, **changes)


async def test_what_is_past_its_time_goes_and_the_rest_stays(
    ledger: ReplayLedger, record: MakeRecord, clock: ManualClock
) -> None:
    await ledger.write(aged(record, clock, 0, 31))
    await ledger.write(aged(record, clock, 1, 29))
    await ledger.write(aged(record, clock, 2, 31, "run-2", tenant_id="bolt"))
    report = await ledger.apply_retention([RetentionRule(keep_us=30 * DAY_US)])
    assert (report.erased, report.runs, report.held) == (10, {"run-1": 5, "run-2": 5}, {})
    assert [len(step["erased"]) for step in await ledger.get_run("run-1")] == [5, 0]
    (stone,) = await ledger.entries("run-1", "erasure")
    assert stone["authority"] == "retention policy"
    assert (await ledger.apply_retention([RetentionRule(keep_us=30 * DAY_US)])).erased == 0
    for run_id in ("run-1", "run-2"):
        assert (await ledger.verify_chain(run_id))["valid"]


async def test_the_first_rule_that_matches_decides(
    ledger: ReplayLedger, record: MakeRecord, escalated: MakeRecord, clock: ManualClock
) -> None:
    await ledger.write(aged(record, clock, 0, 10, tool="refund"))
    await ledger.write(aged(record, clock, 1, 10, tenant_id="acme"))
    await ledger.write(aged(record, clock, 2, 10, "run-2", tenant_id="bolt"))
    rules = [
        RetentionRule(tool="refund", keep_us=365 * DAY_US),
        RetentionRule(tenant="acme", keep_us=7 * DAY_US, fields=frozenset({"input", "output"})),
        RetentionRule(node="node-9", keep_us=0),
    ]
    report = await ledger.apply_retention(rules)
    assert report.runs == {"run-1": 2}
    assert [step["erased"] for step in await ledger.get_run("run-1")] == [[], ["input", "output"]]
    assert (await ledger.get_run("run-2"))[0]["erased"] == []


async def test_intents_and_approvals_are_kept_as_long_as_their_step(
    ledger: ReplayLedger, escalated: MakeRecord, clock: ManualClock
) -> None:
    await ledger.write_intent(
        Intent(run_id="run-1", step_id="step-0", node_id="n", tenant_id="acme", tool="refund", input="x", started_us=1)
    )
    await ledger.write(escalated(0, tool="refund", started_us=1))
    await ledger.decide_approval("ap-1", approve=True, approver="bob", reason="fine")
    clock.advance(100)
    report = await ledger.apply_retention([RetentionRule(tool="other", keep_us=0)])
    assert report.erased == 0
    report = await ledger.apply_retention([RetentionRule(tool="refund", keep_us=0)])
    assert report.erased == 1 + 7 + 2
    assert (await ledger.verify_chain("run-1"))["errors"] == []


async def test_retention_passes_over_what_is_held(ledger: ReplayLedger, record: MakeRecord, clock: ManualClock) -> None:
    await ledger.write(aged(record, clock, 0, 31))
    await ledger.write(aged(record, clock, 1, 31, "run-2"))
    await ledger.hold("run-1", reason="case 9", authority="counsel")
    report = await ledger.apply_retention([RetentionRule(keep_us=0)])
    assert report.runs == {"run-2": 5}
    assert "legal hold" in report.held["run-1"]


async def test_a_sweep_of_one_tenant_leaves_the_others(
    ledger: ReplayLedger, record: MakeRecord, clock: ManualClock
) -> None:
    await ledger.write(aged(record, clock, 0, 31, "a"))
    await ledger.write(aged(record, clock, 0, 31, "b", tenant_id="bolt"))
    assert (await ledger.apply_retention([RetentionRule(keep_us=0)], tenant="bolt")).runs == {"b": 5}


async def test_a_sweep_goes_over_a_long_ledger_page_by_page(ledger: ReplayLedger, record: MakeRecord) -> None:
    await asyncio.gather(*(ledger.write(record(number, f"run-{number % 7}")) for number in range(4_500)))
    report = await ledger.apply_retention([RetentionRule(keep_us=0)], now_us=1_700_000_001_000_000)
    assert report.erased == 4_500 * 5
    assert (await ledger.verify_chain("run-3"))["errors"] == []


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("2 m", 120), ("3h", 10_800), ("30d", 2_592_000), ("1w", 604_800)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert duration_us(text) == seconds * 1_000_000


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "30 days", "999999999w", "\u0663d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(LedgerError, match=r"duration|longer"):
        duration_us(text)
    with pytest.raises(ValidationError):
        LedgerSettings.model_validate({"retention": [{"keep": text}]})


def test_the_plugin_hands_its_rules_to_the_ledger() -> None:
    settings = LedgerSettings.model_validate(
        {"retention": [{"match": {"tenant": "acme", "tool": "refund"}, "keep": "30d", "fields": ["input"]}]}
    )
    (rule,) = LedgerPlugin(settings).retention_rules
    assert rule == RetentionRule(
        keep_us=30 * DAY_US, tenant="acme", tool="refund", fields=frozenset({"input", "request_salt"})
    )
    with pytest.raises(ValidationError):
        LedgerSettings.model_validate({"retention": [{"keep": "1d", "fields": ["verdict"]}]})
