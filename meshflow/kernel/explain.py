"""What would happen to a step: every stage's answer, without executing or changing anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

from meshflow.kernel.approve import ask_for_caller
from meshflow.kernel.ask import drive
from meshflow.kernel.core import Core
from meshflow.kernel.flow import enter_tenant
from meshflow.kernel.gate import Passage
from meshflow.kernel.redact import recorded_words, redact, with_recorded_words
from meshflow.record import StageResult, Status
from meshflow.step import Purpose, StepState


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answers of stages 1 to 11, all of them, and how the step would end before it runs.

    ``status`` is COMPLETED where nothing stands in the way up to execution. ``input`` is redacted. ``tenant_id`` is
    that of stage 2, None where it has not said. ``facts`` are plain values by stage, without the principal.
    """

    status: Status
    code: str
    reason: str
    results: tuple[StageResult, ...]
    input: Any
    facts: Mapping[str, Any]
    fingerprint: str
    tenant_id: str | None = None


async def explain(core: Core, state: StepState) -> Explanation:
    """Take a step through the gates with everything set to look only, past denials."""
    state.purpose = Purpose.EXPLAIN
    passage = Passage(core.base, state, explaining=True)
    await drive(state.asking, passage.pass_gates(passage.pipeline.entry))
    await drive(state.asking, passage.pass_gates(enter_tenant(core, passage)))
    if state.step.ask is not None:
        ask_for_caller(passage, state.step.ask)
    status, (code, reason) = Status.COMPLETED, ("", "")
    if passage.denial is not None:
        status, (code, reason) = Status.DENIED, passage.denial
    elif passage.escalations:
        status, (code, reason) = Status.PAUSED, passage.escalations[0]
    kept = await redact(
        passage.pipeline,
        state,
        {"input": state.input, "reason": reason, "results": recorded_words(passage.results)},
    )
    return Explanation(
        status,
        code,
        str(kept.fields["reason"]),
        with_recorded_words(passage.results, kept.fields["results"]),
        kept.fields["input"],
        {name: _plain(fact) for name, fact in state.facts.items() if name != "identity_verification"},
        state.fingerprint,
        passage.context.tenant_id,
    )


def _plain(fact: object) -> Any:
    """Return a fact as JSON has it: fields by name, and a tier or a label by its own, in lower case."""
    if isinstance(fact, Enum):
        return fact.name.lower()
    if is_dataclass(fact):
        return {one.name: _plain(getattr(fact, one.name)) for one in fields(fact)}
    if isinstance(fact, Mapping):
        return {str(key): _plain(value) for key, value in fact.items()}
    if isinstance(fact, (tuple, list)):
        return [_plain(one) for one in fact]
    return fact if fact is None or isinstance(fact, (bool, int, float, str)) else repr(fact)
