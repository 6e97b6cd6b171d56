"""Finish a step whatever happens: redact, record, count, settle; in a task that cancellation cannot stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from meshflow.kernel.ask import Failure, ask, describe
from meshflow.kernel.compile import Pipeline
from meshflow.kernel.gate import Passage
from meshflow.kernel.redact import recorded_words, redact, with_recorded_words
from meshflow.record import (
    STATUS_OF_VERDICT,
    ApprovalRequest,
    RuntimeOutcome,
    StepRecord,
    Verdict,
)
from meshflow.step import StepContext

log = logging.getLogger("meshflow.kernel")
T = TypeVar("T")


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


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Await work that must finish: cancelled callers wait for it, then get their cancellation.

    The work runs in a task of its own, and the caller waits for a future beside it (what ``asyncio.shield`` does, at
    three quarters of its cost).
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        ended = loop.create_future()
        task.add_done_callback(lambda _, ended=ended: None if ended.done() else ended.set_result(None))  # type: ignore[misc]
        try:
            await ended
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and not task.cancelled():
        task.exception()
        raise cancelled
    return task.result()


async def finish(passage: Passage, ending: Ending) -> RuntimeOutcome:
    """Write what happened and return it. No outcome with an output leaves here unless its record was written."""
    record = await _record(passage, ending)
    pipeline, state, context = passage.pipeline, passage.state, passage.context
    outcome = RuntimeOutcome(
        status=STATUS_OF_VERDICT[ending.verdict],
        output=ending.output if ending.verdict is Verdict.COMMIT else None,
        record=record,
        code=ending.code,
        reason=ending.reason,
        approval_id=ending.request.approval_id if ending.request is not None else None,
    )
    for binding in pipeline.audit:
        answer = await ask(binding, state, context, record)
        if type(answer) is Failure:
            log.error("step %s of run %s is not recorded: %s", record.step_id, record.run_id, answer.reason)
            outcome = outcome.failed("audit_ledger.record_failed", answer.reason, recorded=False)
    for binding in pipeline.sla:
        answer = await ask(binding, state, context, record)
        if type(answer) is Failure:
            log.warning("%s did not count step %s: %s", binding.name, record.step_id, answer.reason)
    await _settle(pipeline, context, record)
    return outcome


async def _settle(pipeline: Pipeline, context: StepContext, record: StepRecord) -> None:
    for name, settle in pipeline.settlers:
        try:
            waiting = settle(context, record)
            if waiting is not None:
                await waiting
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.error("step %s is not settled: %s", record.step_id, describe(name, error))


async def _record(passage: Passage, ending: Ending) -> StepRecord:
    state, step = passage.state, passage.state.step
    fields: dict[str, Any] = {
        "output": ending.kept_output,
        "metadata": dict(step.metadata),
        "reason": ending.reason,
        "results": recorded_words(passage.results),
    }
    if passage.kept is None:
        fields["input"] = state.input
    kept = await redact(passage.pipeline, state, fields)
    facts = state.facts
    fields = {**(passage.kept.fields if passage.kept is not None else {}), **kept.fields}
    state.recorded_input = fields["input"]
    how = kept.how if passage.kept is None or passage.kept.how == "stage" else passage.kept.how
    scope, labels = facts.get("tenant_scoping"), facts.get("taint_propagation")
    risk, hold = facts.get("risk_classification"), facts.get("budget_check")
    return StepRecord(
        run_id=state.run_id,
        node_id=step.node_id,
        step_id=state.step_id,
        attempt=state.attempt,
        node_kind=step.kind,
        tool=step.tool,
        action=step.action,
        tenant_id=scope.tenant_id if scope is not None else "",
        principal=facts.get("identity_verification"),
        verdict=ending.verdict,
        code=ending.code,
        reason=fields["reason"] if isinstance(fields["reason"], str) else "withheld",
        input=fields["input"],
        output=fields["output"],
        metadata=fields["metadata"],
        results=with_recorded_words(passage.results, fields["results"]),
        executed=ending.executed,
        cost_micro_usd=ending.cost_micro_usd,
        reserved_micro_usd=hold.micro_usd if hold is not None else 0,
        tokens=ending.tokens,
        risk=risk.label if risk is not None else None,
        origin=labels.origin.name.lower() if labels is not None else None,
        confidentiality=labels.confidentiality.name.lower() if labels is not None else None,
        started_us=state.started_us,
        duration_ns=state.clock.monotonic_ns() - state.begun_ns,
        fingerprint=state.fingerprint,
        redaction=how,
        unsafe=passage.pipeline.unsafe,
        approval_request=ending.request,
        approval_id=state.approval.approval_id if state.approval is not None else None,
    )
