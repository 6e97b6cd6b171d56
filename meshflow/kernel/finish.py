"""Finish a step whatever happens: redact, record, count, settle; in a task that cancellation cannot stop."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from meshflow.facts import Confidentiality, Origin, RiskTier
from meshflow.kernel.ask import ask, describe
from meshflow.kernel.bind import Failure
from meshflow.kernel.compile import Pipeline
from meshflow.kernel.gate import Passage
from meshflow.kernel.redact import Redacted, plain, recorded_words, redact, unscanned, with_recorded_words
from meshflow.record import (
    STATUS_OF_VERDICT,
    ApprovalRequest,
    OpenOutcome,
    OpenRecord,
    RuntimeOutcome,
    Status,
    StepRecord,
    Verdict,
)
from meshflow.step import StepContext

log = logging.getLogger("meshflow.kernel")

# Enum members and their names go through Python code of the enum module at each look-up; hoisted, they cost nothing.
_COMMIT, _COMPLETED = Verdict.COMMIT, Status.COMPLETED
_RISKS = tuple(tier.label for tier in RiskTier)
_ORIGINS = tuple(origin.name.lower() for origin in Origin)
_CONFIDENTIALITIES = tuple(one.name.lower() for one in Confidentiality)


class Ending:
    """How a step ended, before it is written."""

    __slots__ = (
        "code",
        "cost_micro_usd",
        "executed",
        "kept_output",
        "output",
        "reason",
        "request",
        "tokens",
        "verdict",
    )

    def __init__(self, verdict: Verdict, code: str = "", reason: str = "") -> None:
        self.verdict = verdict
        self.code = code
        self.reason = reason
        self.output: Any = None
        self.kept_output: Any = None
        self.executed = False
        self.cost_micro_usd = 0
        self.tokens = 0
        self.request: ApprovalRequest | None = None


async def finish(passage: Passage, ending: Ending) -> RuntimeOutcome:
    """Write what happened and return it. No outcome with an output leaves here unless its record was written."""
    pipeline, state, context = passage.pipeline, passage.state, passage.context
    fields = _fields(passage, ending)
    record = _record(passage, ending, unscanned(pipeline, fields) or await redact(pipeline, state, fields))
    committed = ending.verdict is _COMMIT
    outcome = OpenOutcome()
    outcome.status = _COMPLETED if committed else STATUS_OF_VERDICT[ending.verdict]
    outcome.output = ending.output if committed else None
    outcome.record = record
    outcome.code = ending.code
    outcome.reason = ending.reason
    outcome.recorded = True
    outcome.approval_id = ending.request.approval_id if ending.request is not None else None
    outcome.__class__ = RuntimeOutcome
    for binding in pipeline.audit:
        answer = await ask(binding, state, context, record)
        if type(answer) is Failure:
            log.error("step %r of run %r is not recorded: %s", record.step_id, record.run_id, answer.reason)
            outcome = outcome.failed("audit_ledger.record_failed", answer.reason, recorded=False)
    for binding in pipeline.sla:
        answer = await ask(binding, state, context, record)
        if type(answer) is Failure:
            log.warning("%s did not count step %r: %s", binding.name, record.step_id, answer.reason)
    if pipeline.settlers:
        await _settle(pipeline, context, record)
    return outcome  # type: ignore[no-any-return]


async def _settle(pipeline: Pipeline, context: StepContext, record: StepRecord) -> None:
    for name, settle in pipeline.settlers:
        try:
            waiting = settle(context, record)
            if waiting is not None:
                await waiting
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.error("step %r is not settled: %s", record.step_id, describe(name, error))


def _fields(passage: Passage, ending: Ending) -> dict[str, Any]:
    """Return what must pass redaction; the input has passed it already where an intent was written."""
    metadata = passage.state.step.metadata
    fields: dict[str, Any] = {
        "output": _plain(ending.kept_output),
        "metadata": _copied(metadata),
        "reason": ending.reason,
        "results": recorded_words(passage.results) if passage.worded else [],
    }
    if passage.kept is None:
        fields["input"] = passage.state.input
    return fields


def _copied(metadata: Any) -> dict[str, Any]:
    try:
        return dict(metadata)
    except Exception as error:  # a mapping of the caller's own making
        return {"meshflow:withheld": {"type": type(metadata).__name__, "cause": describe("reading it", error)}}


def _record(passage: Passage, ending: Ending, redacted: Redacted) -> StepRecord:
    state, step, facts, kept = passage.state, passage.state.step, passage.state.facts, passage.kept
    texts = redacted.fields
    state.recorded_input = texts["input"] if kept is None else kept.fields["input"]
    scope, labels = facts.get("tenant_scoping"), facts.get("taint_propagation")
    risk, hold = facts.get("risk_classification"), facts.get("budget_check")
    record: Any = OpenRecord()
    record.run_id = state.run_id
    record.node_id = step.node_id
    record.step_id = state.step_id
    record.attempt = state.attempt
    record.node_kind = step.kind
    record.tool = step.tool
    record.action = step.action
    record.tenant_id = scope.tenant_id if scope is not None else ""
    record.principal = facts.get("identity_verification")
    record.verdict = ending.verdict
    record.code = ending.code
    record.reason = texts["reason"] if isinstance(texts["reason"], str) else "withheld"
    record.input = state.recorded_input
    record.output = texts["output"]
    record.metadata = texts["metadata"]
    record.results = with_recorded_words(passage.results, texts["results"])
    record.executed = ending.executed
    record.intended = state.intended or ending.executed
    record.cost_micro_usd = ending.cost_micro_usd
    record.reserved_micro_usd = hold.micro_usd if hold is not None else 0
    record.tokens = ending.tokens
    record.risk = _RISKS[risk] if risk is not None else None
    record.origin = _ORIGINS[labels.origin] if labels is not None else None
    record.confidentiality = _CONFIDENTIALITIES[labels.confidentiality] if labels is not None else None
    record.uncertainty_ppm = record.carbon_mg_co2 = None
    record.started_us = state.started_us
    record.duration_ns = state.clock.monotonic_ns() - state.begun_ns
    record.fingerprint = state.fingerprint
    record.redaction = redacted.how if kept is None or kept.how == "stage" else kept.how
    record.unsafe = passage.pipeline.unsafe
    record.approval_request = ending.request
    record.approval_id = state.approval.approval_id if state.approval is not None else None
    record.__class__ = StepRecord
    return record  # type: ignore[no-any-return]


def _plain(output: Any) -> Any:
    try:
        return plain(output)
    except Exception as error:  # an object's own code; the ledger keeps the type of what has no other form
        log.warning("an output of type %s has no JSON form: %s", type(output).__name__, describe("it", error))
        return output
