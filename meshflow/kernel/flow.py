"""One step from start to outcome: gates, approval, intent, execution, release, and an ending that always comes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

from meshflow.decision import Decision, Effect
from meshflow.facts import RiskTier
from meshflow.kernel.approve import ask_for_caller, objection, request_approval, settle_escalations, shortfall
from meshflow.kernel.ask import ask, describe, drive
from meshflow.kernel.bind import Binding, Failure
from meshflow.kernel.core import Core
from meshflow.kernel.finish import Ending, finish
from meshflow.kernel.gate import Passage
from meshflow.kernel.redact import redact
from meshflow.kernel.release import Release
from meshflow.kernel.resume import unanswered
from meshflow.kernel.shield import to_the_end
from meshflow.record import RuntimeOutcome, StageResult, Verdict
from meshflow.step import Approval, Execution, StepState

log = logging.getLogger(__name__)
# Hoisted, since a look-up of an enum's member runs Python code of the enum module.
_ALLOW, _DENY, _READ_ONLY = Effect.ALLOW, Effect.DENY, RiskTier.READ_ONLY
_COMMIT, _REJECT, _ESCALATE, _ERROR = Verdict.COMMIT, Verdict.REJECT, Verdict.ESCALATE, Verdict.ERROR


class Flow:
    """The way of one step. ``run`` gives its outcome; ``chunks`` the parts of a stream, then ``outcome`` is set."""

    __slots__ = ("core", "executing", "execution", "outcome", "passage", "state")

    def __init__(self, core: Core, state: StepState) -> None:
        self.core = core
        self.state = state
        self.passage = Passage(core.base, state)
        self.execution: Execution | None = None
        self.executing = False
        self.outcome: RuntimeOutcome | None = None

    async def run(self) -> RuntimeOutcome:
        """Take the step all the way. Cancellation waits until the step is recorded, then goes on."""
        if self.state.step.resume and (pending := await unanswered(self.core, self.state)) is not None:
            self.outcome = pending
            return pending
        try:
            ending = await drive(self.state.asking, self._ending())
        except BaseException as error:
            self.outcome = await self._finish(self._interrupted(error))
            raise
        self.outcome = await self._finish(ending)
        self._announce()
        return self.outcome

    async def chunks(self, begin: Callable[[], Awaitable[None]]) -> AsyncIterator[Any]:
        """Yield released parts; when iteration ends the step is recorded and ``outcome`` is set."""
        if not self.core.started:
            await begin()
        if self.state.step.resume and (pending := await unanswered(self.core, self.state)) is not None:
            self.outcome = pending
            return
        release = Release(self.passage)
        try:
            if await drive(self.state.asking, self._admitted()):
                await self._execute()
            if self.execution is not None and self.execution.stream is not None and not self._stopped():
                async for part in release.parts(self.execution.stream):
                    yield part
                ending = self._streamed(release)
            else:
                ending = await self._whole()
        except BaseException as error:
            self.outcome = await self._finish(self._interrupted(error, release.prefix))
            raise
        self.outcome = await self._finish(ending)
        self._announce()
        if ending.verdict is _COMMIT and not release.released and self.outcome.ok:
            yield self.outcome.output

    def _announce(self) -> None:
        """Tell of a step that waits, once its record is written."""
        outcome, notifier = self.outcome, self.core.notifier
        if notifier is not None and outcome is not None and outcome.approval_id is not None and outcome.recorded:
            notifier.announce(outcome.record)

    def _finish(self, ending: Ending) -> Coroutine[Any, Any, RuntimeOutcome]:
        return to_the_end(self.state.asking, finish(self.passage, ending))

    async def _ending(self) -> Ending:
        if not await self._admitted():
            return self._refused()
        await self._execute()
        if self.execution is not None and self.execution.stream is not None and not self._stopped():
            release = Release(self.passage)
            async for _ in release.parts(self.execution.stream):
                pass
            return self._streamed(release)
        return await self._whole()

    async def _admitted(self) -> bool:
        """Pass the gates; settle whether a person must approve; write the intent."""
        passage = self.passage
        await passage.pass_gates(passage.pipeline.entry)
        if passage.denial is None and self.state.approval is not None:
            self._take_up(self.state.approval)
        if passage.denial is None:
            await passage.pass_gates(enter_tenant(self.core, passage))
        if passage.denial is None and self.state.step.ask is not None:
            ask_for_caller(passage, self.state.step.ask)
        if passage.denial is None and self.state.approval is not None:
            self._judge_approval(self.state.approval)
        if self._stopped() or not await self._intend():
            return False
        passage.check_input_before_execution()
        return passage.denial is None

    def _take_up(self, approval: Approval) -> None:
        """Refuse an approval that is not of this step; otherwise go on with the input that it is for."""
        problem = objection(approval, self.state)
        if problem is not None:
            self._refuse_approval(problem)
        elif approval.edited:
            self.passage.take_input(approval.edited_input)

    def _judge_approval(self, approval: Approval) -> None:
        """Refuse an approval that does not cover what the gates have left of the step."""
        problem = shortfall(approval, self.state, self.core.approvals)
        if problem is not None:
            self._refuse_approval(problem)
            return
        if approval.holds_output:
            self.passage.escalations.clear()  # what they ask about has been done, and is not done again
        else:
            settle_escalations(self.passage, approval)
        if not self.passage.escalations:
            reason = f"{approval.approver} approved {approval.approval_id}"
            self.passage.note(StageResult("approval", "kernel", _ALLOW, "approval.granted", reason))

    def _refuse_approval(self, problem: tuple[str, str]) -> None:
        self.passage.note(StageResult("approval", "kernel", _DENY, *problem))
        self.passage.denial = problem

    async def _intend(self) -> bool:
        """Have the intent on disk before a step with side effects runs, and before an approval is used."""
        passage, state = self.passage, self.state
        risk = state.facts.get("risk_classification")
        if risk is not None and risk <= _READ_ONLY and state.approval is None:
            return True
        passage.kept = await redact(passage.pipeline, state, {"input": state.input})
        state.recorded_input = passage.kept.fields["input"]
        for name, record_intent in passage.pipeline.intents:
            try:
                waiting = record_intent(passage.context)
                if waiting is not None:
                    await waiting
            except Exception as error:
                passage.deny("audit_ledger", "intent_failed", describe(name, error))
                return False
        state.intended = True
        return True

    async def _execute(self) -> None:
        """Run stage 12, or take the output that an approval holds; leaves ``execution`` or a denial."""
        passage, approval = self.passage, self.state.approval
        if approval is not None and approval.holds_output:
            self.execution = Execution(output=approval.held_output, cost_micro_usd=0)
            return
        self.executing = True
        value = await ask(passage.pipeline.execution, self.state, passage.context)
        elapsed_ns = self.state.elapsed_ns
        if type(value) is Failure:
            value = Execution(failure_code=f"execution.{value.cause}", failure_reason=value.reason)
        if type(value) is Execution:
            self.execution = value
            effect = _DENY if value.failure_code else _ALLOW
            self._note_execution(effect, value.failure_code, value.failure_reason, elapsed_ns)
        elif type(value) is Decision and value.effect is _DENY:
            self.executing = False
            self._note_execution(_DENY, value.code, value.reason, elapsed_ns)
            passage.denial = (value.code, value.reason)
        else:
            name = passage.pipeline.execution.name
            passage.deny("execution", "invalid_decision", f"{name} answered {type(value).__name__}, not an Execution")

    def _note_execution(self, effect: Effect, code: str, reason: str, elapsed_ns: int) -> None:
        name = self.passage.pipeline.execution.name
        self.passage.note(StageResult("execution", name, effect, code, reason, True, elapsed_ns))

    async def _whole(self) -> Ending:
        """Release an output that is not a stream."""
        execution = self.execution
        if self._stopped() or execution is None:
            return self._refused()
        if execution.failure_code:
            return self._ended(_ERROR, execution.failure_code, execution.failure_reason, execution.output)
        passage = self.passage
        await passage.pass_output(execution.output)
        if self.state.approval is not None and self.state.approval.holds_output:
            settle_escalations(passage, self.state.approval)
        return self._released(passage.output)

    def _released(self, output: Any) -> Ending:
        passage = self.passage
        unmet = passage.unmet_duties() if passage.denial is None else []
        if unmet:
            passage.deny("output_guardrails", "obligation_unmet", f"nothing met the obligations {unmet}")
        if passage.denial is not None:
            return self._ended(_REJECT, *passage.denial, output)
        if passage.escalations:
            ending = self._ended(_ESCALATE, *passage.escalations[0], output)
            ending.request = request_approval(passage, self.core.approvals, holds_output=True)
            return ending
        ending = self._ended(_COMMIT, "", "", output)
        ending.output = output
        return ending

    def _streamed(self, release: Release) -> Ending:
        if release.failure is not None:
            return self._ended(_ERROR, *release.failure, release.prefix)
        if self.passage.denial is None and self.passage.escalations:
            if release.whole is not None:
                return self._released(release.whole)  # held with what has not been released, which is asked about
            self.passage.deny("output_guardrails", "not_held", "a gate asked for a person before the stream's end")
        return self._released(release.prefix)

    def _refused(self) -> Ending:
        passage = self.passage
        if passage.denial is not None:
            return self._ended(_REJECT, *passage.denial, None)
        ending = self._ended(_ESCALATE, *passage.escalations[0], None)
        ending.request = request_approval(passage, self.core.approvals)
        return ending

    def _interrupted(self, error: BaseException, released: Any = None) -> Ending:
        if isinstance(error, GeneratorExit):
            return self._ended(_ERROR, "step.abandoned", "the caller stopped reading the stream", released)
        if isinstance(error, asyncio.CancelledError):
            return self._ended(_ERROR, "step.cancelled", "the caller cancelled the step", released)
        return self._ended(_ERROR, "step.interrupted", describe("the step", error), released)

    def _ended(self, verdict: Verdict, code: str, reason: str, output: Any) -> Ending:
        """Return an ending with what the step cost: as reported, or all that was reserved where nobody knows."""
        ending = Ending(verdict, code, reason)
        ending.kept_output = output
        ending.executed = self.executing
        if self.executing:
            hold, execution = self.state.facts.get("budget_check"), self.execution
            if execution is not None and execution.spent is not None:
                execution = self._spent(execution, execution.spent)
            if execution is not None:
                ending.tokens = execution.tokens
            if execution is not None and execution.cost_micro_usd is not None:
                ending.cost_micro_usd = execution.cost_micro_usd
            elif hold is not None:
                ending.cost_micro_usd = hold.micro_usd
                ending.tokens = max(ending.tokens, hold.tokens)
        return ending

    def _spent(self, execution: Execution, spent: Callable[[], tuple[int | None, int]]) -> Execution:
        """Return the execution with what its stream cost; an executor that cannot say leaves it unknown."""
        try:
            cost, tokens = spent()
            known = cost is None or (type(cost) is int and cost >= 0)
            if known and type(tokens) is int and tokens >= 0:
                return replace(execution, cost_micro_usd=cost, tokens=tokens)
        except Exception as error:
            log.warning("the executor cannot say what a stream cost: %s", describe("execution", error))
        return replace(execution, cost_micro_usd=None)

    def _stopped(self) -> bool:
        return self.passage.denial is not None or bool(self.passage.escalations)


def enter_tenant(core: Core, passage: Passage) -> tuple[Binding, ...]:
    """Go on by the pipeline of the tenant that stage 2 has found; return its gates."""
    tenant = passage.context.tenant_id
    passage.pipeline = pipeline = core.tenants.get(tenant, core.base) if tenant is not None else core.base
    passage.state.fingerprint = pipeline.fingerprint
    return pipeline.gates
