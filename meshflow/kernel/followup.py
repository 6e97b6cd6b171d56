"""What those who drive the steps of a run ask between them: whose it is, what they carry on, how often they ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshflow.facts import TaintLabels
from meshflow.kernel.ask import drive
from meshflow.kernel.core import Core
from meshflow.kernel.gate import Passage
from meshflow.kernel.redact import redact
from meshflow.record import RuntimeOutcome
from meshflow.step import Purpose, StepContext, StepState


async def entry_of(core: Core, state: StepState) -> StepContext | None:
    """Return a step with the principal and the tenant that stages 1 and 2 give it, counting nothing; None if denied."""
    state.purpose = Purpose.EXPLAIN
    passage = Passage(core.base, state, explaining=True)
    await drive(state.asking, passage.pass_gates(passage.pipeline.entry))
    return None if passage.denial is not None else passage.context


def labels_of(core: Core, outcome: RuntimeOutcome) -> TaintLabels | None:
    """Return the labels of what a step put out.

    The taint provider knows them while it remembers the step (``labels_of``). Where it does not, they are those of the
    step's input as recorded, and nothing more can be said; None for a step that was denied before it had any.
    """
    record = outcome.record
    for choice in core.tenants.get(record.tenant_id, core.base).choices:
        if choice.stage.hook != "propagate_taint":
            continue
        for slot in choice.slots:
            known = getattr(slot.provider.plugin, "labels_of", None)
            found = known(record.tenant_id, record.run_id, record.step_id) if callable(known) else None
            if isinstance(found, TaintLabels):
                return found
    if record.origin is None or record.confidentiality is None:
        return None
    return TaintLabels.named(record.origin, record.confidentiality)


async def may_have_run(core: Core, run_id: str, step_id: str, after: int) -> bool:
    """Return whether an attempt at a step behind a number has run, or may have; False without a ledger to ask."""
    for binding in core.base.audit:
        ask_ledger = getattr(getattr(binding.provider.plugin, "ledger", None), "may_have_run", None)
        if callable(ask_ledger):
            return bool(await ask_ledger(run_id, step_id, after=after))
    return False


async def redacted(
    core: Core, state: StepState, tenant: str | None, words: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """Return a person's words as a record may keep them; None where stage 8 could not scan them."""
    pipeline = core.tenants.get(tenant, core.base) if tenant is not None else core.base
    passage = Passage(pipeline, state, explaining=True)
    kept = await drive(state.asking, redact(passage.pipeline, state, words))
    return None if kept.how == "withheld" else kept.fields


async def next_attempt(core: Core, run_id: str, step_id: str) -> int:
    """Return the number for the next try of a step, by what the ledger behind stage 14 holds; 1 without a ledger."""
    for binding in core.base.audit:
        ask_ledger = getattr(getattr(binding.provider.plugin, "ledger", None), "next_attempt", None)
        if callable(ask_ledger):
            number = await ask_ledger(run_id, step_id)
            return int(number)
    return 1
