"""Take a step through its gates: combine answers, collect facts, and stop at the first enforced denial."""

from __future__ import annotations

from typing import Any

from meshflow.decision import UNSET, Decision, Effect, Obligation
from meshflow.facts import FACT_OF_STAGE
from meshflow.kernel.accumulate import join_facts
from meshflow.kernel.ask import Answer, ask
from meshflow.kernel.bind import Binding
from meshflow.kernel.compile import CompiledStage, Pipeline
from meshflow.kernel.digest import can_change, digest
from meshflow.record import StageResult
from meshflow.stages import SENSITIVE_DATA, Kind
from meshflow.step import Purpose, StepContext, StepState

_DENY, _ESCALATE, _ALLOW, _ABSTAIN = Effect.DENY, Effect.ESCALATE, Effect.ALLOW, Effect.ABSTAIN
_OUTPUT = Kind.OUTPUT
_LAST_REPLACING_GATE = SENSITIVE_DATA.number
_SILENT = Decision.abstain()


class Passage:
    """One step on its way through the stages: its state, every answer so far, and what stopped it."""

    __slots__ = (
        "context", "denial", "duties", "escalations", "explaining", "input_digest", "output", "pipeline", "results",
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
        self.explaining = explaining
        self.input_digest = digest(state.input) if can_change(state.input) else None

    async def pass_stage(self, compiled: CompiledStage, *extra: Any) -> None:
        """Ask a stage's providers, then its shadows. After it, ``denial`` is set if the step may not go on."""
        stage = compiled.stage
        for group in compiled.groups:
            answered = False
            for binding in group:
                decision = self._settle(binding, await ask(binding, self.state, self.context, *extra))
                effect = decision.effect
                if effect is _DENY:
                    self._deny(decision.code, decision.reason)
                    if not self.explaining:
                        return
                if effect is not _ABSTAIN:
                    answered = True
                    if compiled.first:
                        break
                if extra and decision.replacement is not UNSET:
                    extra = (decision.replacement, *extra[1:])
            if not answered and stage.silence_denies:
                self._note_denial(stage.name, "kernel", f"{stage.name}.no_decision", "no provider gave an answer")
                if not self.explaining:
                    return
        for binding in compiled.shadows:
            await self._ask_shadow(binding, extra)

    def deny(self, stage: str, cause: str, reason: str) -> None:
        """Record a denial that the kernel itself decides."""
        self._note_denial(stage, "kernel", f"{stage}.{cause}", reason)

    def unmet_duties(self) -> list[str]:
        """Return the obligations that no provider met which ran after they were laid on the step."""
        ran: dict[str, int] = {}
        numbers = {compiled.stage.name: compiled.stage.number for compiled in self._all_stages()}
        for result in self.results:
            if result.enforced:
                ran[result.plugin] = max(ran.get(result.plugin, 0), numbers.get(result.stage, 0))
        meets = {binding.name: binding.meets for compiled in self._all_stages() for binding in compiled.bindings}
        return [
            duty.name
            for number, duty in self.duties
            if not any(duty.name in meets.get(name, ()) and last > number for name, last in ran.items())
        ]

    def _all_stages(self) -> tuple[CompiledStage, ...]:
        return (*self.pipeline.entry, *self.pipeline.gates, self.pipeline.output)

    async def _ask_shadow(self, binding: Binding, extra: tuple[Any, ...]) -> None:
        state = self.state.look(Purpose.SHADOW)
        answer = await ask(binding, state, StepContext(state), *extra)
        self._check_input(binding)
        decision, cause, reason = _judge(binding, answer, state)
        if decision is None:
            decision = Decision.deny(f"{binding.stage.name}.{cause}", reason)
        self._note(binding, decision, answer.elapsed_ns, enforced=False)

    def _settle(self, binding: Binding, answer: Answer) -> Decision:
        """Judge an enforced answer, note it, and apply what it carries."""
        decision, cause, reason = _judge(binding, answer, self.state)
        if decision is not None and binding.watched and self._input_changed():
            decision, cause, reason = None, "input_mutated", f"{binding.name} changed the step's input in place"
        if decision is None:
            decision = Decision.deny(f"{binding.stage.name}.{cause}", reason)
        elif decision.effect is _ALLOW or decision.effect is _ESCALATE:
            problem = self._apply(binding, decision)
            if problem is not None:
                decision = Decision.deny(f"{binding.stage.name}.{problem[0]}", problem[1])
        self._note(binding, decision, answer.elapsed_ns, enforced=True)
        return decision

    def _apply(self, binding: Binding, decision: Decision) -> tuple[str, str] | None:
        stage = binding.stage
        if decision.fact is not None:
            wanted = FACT_OF_STAGE.get(stage.name)
            if wanted is None or not isinstance(decision.fact, wanted):
                return "invalid_decision", f"{binding.name} gave a fact of type {type(decision.fact).__name__}"
            facts = self.state.facts
            facts[stage.name] = join_facts(facts.get(stage.name), decision.fact)
        elif stage.name in FACT_OF_STAGE and stage.silence_denies and stage.name not in self.state.facts:
            return "invalid_decision", f"{binding.name} allowed without the fact {FACT_OF_STAGE[stage.name].__name__}"
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

    def _check_input(self, binding: Binding) -> None:
        if binding.watched and self._input_changed():
            self.deny(binding.stage.name, "input_mutated", f"{binding.name}, a shadow, changed the step's input")

    def check_input_before_execution(self) -> None:
        """Deny a step whose input was changed by any hook since a digest was last taken."""
        if self._input_changed():
            self.deny("execution", "input_mutated", "the step's input changed while it passed the gates")

    def _note(self, binding: Binding, decision: Decision, elapsed_ns: int, *, enforced: bool) -> None:
        self.results.append(
            StageResult(
                binding.stage.name,
                binding.name,
                decision.effect,
                decision.code,
                decision.reason,
                enforced,
                elapsed_ns,
                decision.replacement is not UNSET,
                decision.evidence,
            )
        )

    def _note_denial(self, stage: str, plugin: str, code: str, reason: str) -> None:
        self.results.append(StageResult(stage, plugin, _DENY, code, reason))
        self._deny(code, reason)

    def _deny(self, code: str, reason: str) -> None:
        if self.denial is None:
            self.denial = (code, reason)


def _judge(binding: Binding, answer: Answer, state: StepState) -> tuple[Decision | None, str, str]:
    """Return the decision, or None with the cause and the reason of a denial."""
    if answer.cause:
        return None, answer.cause, answer.reason
    if state.touched:
        state.touched = False
        return None, "context_written", f"{binding.name} tried to write to the step context"
    value = answer.value
    if value is None:
        return _SILENT, "", ""
    if type(value) is not Decision:
        return None, "invalid_decision", f"{binding.name} answered {type(value).__name__}; answer a Decision or None"
    return value, "", ""
