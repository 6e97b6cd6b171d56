"""The hooks: fifteen stages and the lifecycle around them. Each docstring is the contract of its hook.

For every stage: the context is read-only; an exception, a time-out or an answer that is neither a Decision nor None
denies the step (``<stage>.stage_error``, ``.stage_timeout``, ``.invalid_decision``); None abstains. Hooks are ``async
def``; a plain ``def`` is allowed where it only computes. With ``context.look_only`` nothing may be reserved or changed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pluggy

from meshflow.decision import Decision
from meshflow.record import StepRecord
from meshflow.stages import Stage
from meshflow.step import Approval, Execution, StepContext

PROJECT = "meshflow"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

CallNext = Callable[..., Awaitable[Any]]


class StageSpecs:
    """One hook for each of the fifteen stages, in the order in which they run."""

    @hookspec
    async def verify_identity(self, context: StepContext) -> Decision | None:
        """Stage 1. Say who asks. ALLOW carries a Principal. First answer wins; silence denies.

        Reads ``context.step.credential`` and ``agent_id``. On a resumed step ``context.approval.principal`` is who
        asked; check only that the principal has not been revoked since.
        """

    @hookspec
    async def scope_tenant(self, context: StepContext) -> Decision | None:
        """Stage 2. Say whose data the step may touch. ALLOW carries a TenantScope. First answer; silence denies."""

    @hookspec
    async def limit_rate(self, context: StepContext) -> Decision | None:
        """Stage 3. Count the step against rate limits. ALLOW carries a RateLease. First answer wins; silence denies."""

    @hookspec
    async def check_budget(self, context: StepContext) -> Decision | None:
        """Stage 4. Reserve what the step may cost. ALLOW carries a BudgetReservation. First answer; silence denies.

        The reservation is settled or released in ``settle_step``, which always runs.
        """

    @hookspec
    async def evaluate_policy(self, context: StepContext) -> Decision | None:
        """Stage 5. Decide by who, what, where and when. A denial by any provider stands; silence of all denies.

        Risk, labels and findings do not exist yet. ALLOW may carry obligations.
        """

    @hookspec
    async def apply_compliance_profile(self, context: StepContext) -> Decision | None:
        """Stage 6. Apply the profile packs. ALLOW may carry a ComplianceProfile and obligations. Silence passes."""

    @hookspec
    async def guard_input(self, context: StepContext) -> Decision | None:
        """Stage 7. Look at the input for attacks. ALLOW may replace the input. Silence passes."""

    @hookspec
    async def scan_sensitive_data(self, context: StepContext) -> Decision | None:
        """Stage 8. Find sensitive data. ALLOW carries Findings and may replace the input. Silence passes.

        The kernel also calls this hook with purpose ``record`` over everything that the ledger is about to keep
        (``context.input`` is then a mapping of record fields); a denial or failure there withholds the text.
        """

    @hookspec
    async def classify_risk(self, context: StepContext) -> Decision | None:
        """Stage 9. Say how much harm the step can do. ALLOW carries a RiskTier. First answer wins; silence denies."""

    @hookspec
    async def propagate_taint(self, context: StepContext) -> Decision | None:
        """Stage 10. Join the labels of all that the step reads. ALLOW carries TaintLabels. Silence denies."""

    @hookspec
    async def authorize_tool(self, context: StepContext) -> Decision | None:
        """Stage 11. Decide on the tool and its arguments, with risk and labels known. Silence of all denies.

        A provider answers ALLOW for steps that call no tool.
        """

    @hookspec
    async def execute_step(self, context: StepContext) -> Execution | Decision | None:
        """Stage 12. Run the handler on ``context.input``. Exactly one provider. Answer an Execution.

        A Decision may only deny, before the handler has begun (an open circuit). Cancellation must reach the handler.
        """

    @hookspec
    async def guard_output(self, context: StepContext, output: Any) -> Decision | None:
        """Stage 13. Look at the output before anyone gets it. ALLOW may replace it. Silence passes.

        For a stream the hook is called on text not yet released, with ``context.stream`` telling what went before, and
        at the end on the whole with ``context.stream.final``; a replacement of the whole is not possible any more then.
        """

    @hookspec
    async def record_audit(self, context: StepContext, record: StepRecord) -> None:
        """Stage 14. Write the record durably before returning. An exception fails the step and withholds its output."""

    @hookspec
    async def record_sla(self, context: StepContext, record: StepRecord) -> None:
        """Stage 15. Count the step. An exception is reported in the outcome's log and changes nothing else."""


class LifecycleSpecs:
    """What is called around the stages."""

    @hookspec
    async def startup(self) -> None:
        """Open what the plugin needs; once, before the first step. Hooks are then called from several event loops."""

    @hookspec
    async def shutdown(self) -> None:
        """Close what ``startup`` opened; after the last step."""

    @hookspec
    def wrap_stage(self, stage: Stage, call_next: CallNext) -> CallNext | None:
        """Return an async callable around ``call_next``, or None to leave it; called once a provider, at compile time.

        The wrapper must hand on the identical answer that ``call_next`` gave; another one is ``invalid_decision``.
        """

    @hookspec
    async def record_intent(self, context: StepContext) -> None:
        """Write durably that a step with side effects is about to run. An exception denies the step before it runs."""

    @hookspec
    async def settle_step(self, context: StepContext, record: StepRecord) -> None:
        """Release or settle what a stage reserved; in reverse order of the stages, always, after the recorders."""

    @hookspec
    async def find_approval(self, context: StepContext) -> Approval | None:
        """Return a person's answer for a resumed step. Only the enforced audit provider is asked."""
