"""Take a step through its gates: combine answers, collect facts, and stop at the first enforced denial."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshflow.decision import UNSET, Decision, Effect, Obligation
from meshflow.kernel.accumulate import join_facts
from meshflow.kernel.ask import Failure, ask
from meshflow.kernel.bind import Binding
from meshflow.kernel.compile import CompiledStage, Pipeline
from meshflow.kernel.digest import can_change, digest
from meshflow.kernel.redact import Redacted
from meshflow.record import StageResult
from meshflow.stages import SENSITIVE_DATA, Kind
from meshflow.step import Purpose, StepContext, StepState

_DENY, _ESCALATE, _ALLOW, _ABSTAIN = Effect.DENY, Effect.ESCALATE, Effect.ALLOW, Effect.ABSTAIN
_OUTPUT = Kind.OUTPUT
_LAST_REPLACING_GATE = SENSITIVE_DATA.number
_SILENT = Decision.abstain()
_new_tuple = tuple.__new__  # StageResult's own __new__ is a Python function and costs twice as much


class Passage:
    """One step on its way through the stages: its state, every answer so far, and what stopped it."""

    __slots__ = (
        "context", "denial", "duties", "escalations", "explaining", "input_digest",
        "kept", "output", "pipeline", "results",
        "state",
    )  # fmt: skip

    def __init__(self, pipeline: Pipeline, state: StepState, *, explaining: bool = False) -> None:
        self.pipeline = pipeline
        self.state = state
        self.context = StepContext(state)
        self.results: list[StageResult] = []
        self.escalations: list[tuple[str, str]] = []
        self.denial: tuple[str, str] | None = None
        self.duties: list[tuple[int, Obligation]] = []
        self.output: Any = None
        self.kept: Redacted | None = None
        self.explaining = explaining
        self.input_digest = digest(state.input) if can_change(state.input) else None

    async def pass_stages(self, stages: Iterable[CompiledStage]) -> None:
        """Pass stages in order, up to the first denial; past it when explaining."""
        for compiled in stages:
            await self.pass_stage(compiled)
            if self.denial is not None and not self.explaining:
                return

    async def pass_stage(self, compiled: CompiledStage, *extra: Any) -> None:
        """Ask a stage's providers, then its shadows. After it, ``denial`` is set if the step may not go on."""
        state, context, first = self.state, self.context, compiled.first
        for group in compiled.groups:
            answered = False
            for binding in group:
                decision = self._settle(binding, await ask(binding, state, context, *extra))
                effect = decision.effect
                if effect is _ALLOW:
                    answered = True
                    if first:
                        break
                elif effect is _DENY:
                    self._deny(decision.code, decision.reason)
                    if not self.explaining:
                        return
                elif effect is _ESCALATE:
                    answered = True
                    if first:
                        break
                if extra and decision.replacement is not UNSET:
                    extra = (decision.replacement, *extra[1:])
            if not answered and compiled.stage.silence_denies:
                self.deny(compiled.stage.name, "no_decision", "no provider gave an answer")
                if not self.explaining:
                    return
        for binding in compiled.shadows:
            await self._ask_shadow(binding, extra)

    def deny(self, stage: str, cause: str, reason: str) -> None:
        """Record a denial that the kernel itself decides."""
        self._note_denial(stage, "kernel", f"{stage}.{cause}", reason)

    def unmet_duties(self) -> list[str]:
        """Return the obligations that no provider met which ran after they were laid on the step."""
        if not self.duties:
            return []
        stages = self._all_stages()
        numbers = {compiled.stage.name: compiled.stage.number for compiled in stages}
        meets = {binding.name: binding.meets for compiled in stages for binding in compiled.bindings}
        last_run = {one.plugin: numbers.get(one.stage, 0) for one in self.results if one.enforced}
        return [
            duty.name
            for number, duty in self.duties
            if not any(duty.name in meets.get(name, ()) and last > number for name, last in last_run.items())
        ]

    def _all_stages(self) -> tuple[CompiledStage, ...]:
        return (*self.pipeline.entry, *self.pipeline.gates, self.pipeline.output)

    async def _ask_shadow(self, binding: Binding, extra: tuple[Any, ...]) -> None:
        state = self.state.look(Purpose.SHADOW)
        decision = _judged(binding, await ask(binding, state, StepContext(state), *extra), state)
        if binding.watched and self._input_changed():
            self.deny(binding.stage.name, "input_mutated", f"{binding.name}, a shadow, changed the step's input")
        self._note(binding, decision, state.elapsed_ns, enforced=False)

    def _settle(self, binding: Binding, answer: Any) -> Decision:
        """Judge an enforced answer, note it, and apply what it carries."""
        state = self.state
        elapsed_ns = state.elapsed_ns
        if answer is None and not state.touched:
            decision = _SILENT
        elif type(answer) is Decision and not state.touched:
            decision = answer
        else:
            decision = _judged(binding, answer, state)
        if self.input_digest is not None and binding.watched and self._input_changed():
            decision = _denial(binding, "input_mutated", f"{binding.name} changed the step's input in place")
        effect = decision.effect
        if effect is _ALLOW or effect is _ESCALATE:
            problem = self._apply(binding, decision)
            if problem is not None:
                decision = _denial(binding, *problem)
        self._note(binding, decision, elapsed_ns, enforced=True)
        return decision

    def _apply(self, binding: Binding, decision: Decision) -> tuple[str, str] | None:
        stage, fact = binding.stage, decision.fact
        if fact is not None:
            if binding.fact_type is None or not isinstance(fact, binding.fact_type):
                return "invalid_decision", f"{binding.name} gave a fact of type {type(fact).__name__}"
            facts = self.state.facts
            old = facts.get(stage.name)
            facts[stage.name] = fact if old is None else join_facts(old, fact)
        elif binding.needs_fact and stage.name not in self.state.facts:
            return "invalid_decision", f"{binding.name} allowed without a fact"
        if decision.replacement is not UNSET:
            problem = self._replace(binding, decision.replacement)
            if problem is not None:
                return problem
        for duty in decision.obligations:
            if duty.name not in self.pipeline.met_after[stage.number]:
                return "obligation_unmet", f"no later provider meets the obligation {duty.name!r} of {binding.name}"
            self.duties.append((stage.number, duty))
            self.state.obligations = (*self.state.obligations, duty)
        if decision.effect is _ESCALATE:
            self.escalations.append((decision.code, decision.reason))
        return None

    def _replace(self, binding: Binding, replacement: Any) -> tuple[str, str] | None:
        if binding.stage.kind is _OUTPUT:
            stream = self.state.stream
            if stream is not None and stream.final:
                return "too_late", f"{binding.name} would change a stream that has been released"
            self.output = replacement
            return None
        if binding.stage.number > _LAST_REPLACING_GATE:
            return "invalid_decision", f"{binding.name} may not replace the input after {SENSITIVE_DATA.name}"
        self.state.input = replacement
        self.input_digest = digest(replacement) if can_change(replacement) else None
        return None

    def _input_changed(self) -> bool:
        return self.input_digest is not None and digest(self.state.input) != self.input_digest

    def check_input_before_execution(self) -> None:
        """Deny a step whose input was changed by any hook since a digest was last taken."""
        if self._input_changed():
            self.deny("execution", "input_mutated", "the step's input changed while it passed the gates")

    def _note(self, binding: Binding, decision: Decision, elapsed_ns: int, *, enforced: bool) -> None:
        self.results.append(
            _new_tuple(
                StageResult,
                (
                    binding.stage.name,
                    binding.name,
                    decision.effect,
                    decision.code,
                    decision.reason,
                    enforced,
                    elapsed_ns,
                    decision.replacement is not UNSET,
                    decision.evidence,
                ),
            )
        )

    def _note_denial(self, stage: str, plugin: str, code: str, reason: str) -> None:
        self.results.append(StageResult(stage, plugin, _DENY, code, reason))
        self._deny(code, reason)

    def _deny(self, code: str, reason: str) -> None:
        if self.denial is None:
            self.denial = (code, reason)


def _judged(binding: Binding, answer: Any, state: StepState) -> Decision:
    """Return an answer as a decision; what is none denies."""
    if state.touched:
        state.touched = False
        return _denial(binding, "context_written", f"{binding.name} tried to write to the step context")
    if answer is None:
        return _SILENT
    if type(answer) is Decision:
        return answer
    if type(answer) is Failure:
        return _denial(binding, *answer)
    reason = f"{binding.name} answered {type(answer).__name__}; answer a Decision or None"
    return _denial(binding, "invalid_decision", reason)


def _denial(binding: Binding, cause: str, reason: str) -> Decision:
    return Decision.deny(f"{binding.stage.name}.{cause}", reason)
