"""Take a step through its gates: combine answers, collect facts, and stop at the first enforced denial."""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter_ns
from types import CoroutineType
from typing import Any

from meshflow.decision import UNSET, Decision, Effect, Obligation
from meshflow.digest import can_change, digest
from meshflow.kernel.accumulate import join_facts
from meshflow.kernel.ask import Asking, ask, failure, too_late
from meshflow.kernel.bind import Binding, Failure
from meshflow.kernel.compile import Pipeline
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
        "kept", "output", "pipeline", "results", "state", "worded",
    )  # fmt: skip

    def __init__(self, pipeline: Pipeline, state: StepState, *, explaining: bool = False) -> None:
        self.pipeline = pipeline
        self.state = state
        self.context = StepContext(state)
        state.asking = Asking()
        self.results: list[StageResult] = []
        self.worded = False  # whether any result has free text, which must pass redaction
        self.escalations: list[tuple[str, str]] = []
        self.denial: tuple[str, str] | None = None
        self.duties: list[tuple[int, Obligation]] = []
        self.output: Any = None
        self.kept: Redacted | None = None
        self.explaining = explaining
        self.input_digest = digest(state.input) if can_change(state.input) else None

    async def pass_gates(self, bindings: Iterable[Binding]) -> None:
        """Ask providers in order. After it, ``denial`` is set if the step may not go on.

        The first enforced denial ends it, except when explaining. To be run by ``drive``: the hook is called in line,
        not through ``ask``, and its answer noted in line, which halves what a gate costs.
        """
        state, context, note = self.state, self.context, self.results.append
        asking, facts = state.asking, state.facts
        answered = False
        for binding in bindings:
            if not binding.enforced:
                await self._ask_shadow(binding)
                if self.denial is not None and not self.explaining:
                    return
                continue
            if answered and binding.first:
                answered = not binding.closes
                continue
            asking.binding = binding
            asking.begun_ns = begun_ns = perf_counter_ns()
            try:
                answer = binding.call(context)
                if type(answer) is CoroutineType:
                    answer = await answer
            except BaseException as error:
                elapsed_ns = perf_counter_ns() - begun_ns
                asking.binding = None
                answer = failure(binding, asking, error)
            else:
                elapsed_ns = perf_counter_ns() - begun_ns
                asking.binding = None
                if elapsed_ns > binding.timeout_ns:
                    answer = too_late(binding)
            if answer is None:
                answer = _SILENT
            if type(answer) is not Decision or state.touched or self.input_digest is not None:
                answer = self._judged(binding, answer)
            effect, fact = answer.effect, answer.fact
            if effect is _ALLOW or effect is _ESCALATE:
                bare = effect is _ALLOW and answer.replacement is UNSET and not answer.obligations
                if bare and type(fact) is binding.fact_type and binding.stage_name not in facts:
                    facts[binding.stage_name] = fact  # the most frequent case of ``_applied``
                elif not bare or fact is not None or binding.needs_fact:
                    answer = self._applied(binding, answer)
                    effect = answer.effect
            note(_new_tuple(StageResult, (
                binding.stage_name, binding.name, effect, answer.code, answer.reason, True, elapsed_ns,
                answer.replacement is not UNSET, answer.evidence,
            )))  # fmt: skip
            if answer.reason or answer.evidence:
                self.worded = True
            if effect is _DENY:
                self._deny(answer.code, answer.reason)
                if not self.explaining:
                    await self._ask_shadows_of(binding)
                    return
                answered = True
            elif effect is not _ABSTAIN:
                answered = True
            if binding.closes:
                if not answered and binding.silence_denies:
                    self.deny(binding.stage_name, "no_decision", "no provider gave an answer")
                    if not self.explaining:
                        await self._ask_shadows_of(binding)
                        return
                answered = False

    async def pass_output(self, output: Any) -> None:
        """Ask stage 13 about an output; each provider sees what those before it have left in ``output``."""
        state, context = self.state, self.context
        self.output = output
        for binding in self.pipeline.output:
            if not binding.enforced:
                await self._ask_shadow(binding, self.output)
                continue
            answer = await ask(binding, state, context, self.output)
            decision = self._judged(binding, answer)
            if decision.effect is _ALLOW or decision.effect is _ESCALATE:
                decision = self._applied(binding, decision)
            self._note(binding, decision, state.elapsed_ns, enforced=True)
            if decision.effect is _DENY:
                self._deny(decision.code, decision.reason)
                await self._ask_shadows_of(binding, self.output)
                return

    def deny(self, stage: str, cause: str, reason: str) -> None:
        """Record a denial that the kernel itself decides."""
        self._note_denial(stage, "kernel", f"{stage}.{cause}", reason)

    def unmet_duties(self) -> list[str]:
        """Return the obligations that no provider met which ran after they were laid on the step."""
        if not self.duties:
            return []
        pipeline = self.pipeline
        bindings = (*pipeline.entry, *pipeline.gates, *pipeline.output)
        numbers = {binding.stage_name: binding.stage.number for binding in bindings}
        meets = {binding.name: binding.meets for binding in bindings}
        last_run = {one.plugin: numbers.get(one.stage, 0) for one in self.results if one.enforced}
        return [
            duty.name
            for number, duty in self.duties
            if not any(duty.name in meets.get(name, ()) and last > number for name, last in last_run.items())
        ]

    async def _ask_shadows_of(self, denying: Binding, *extra: Any) -> None:
        """Ask the shadows of a stage that denied: where they would have allowed is what a roll-out needs to know."""
        pipeline = self.pipeline
        for binding in (*pipeline.entry, *pipeline.gates, *pipeline.output):
            if binding.stage is denying.stage and not binding.enforced:
                await self._ask_shadow(binding, *extra)

    async def _ask_shadow(self, binding: Binding, *extra: Any) -> None:
        state = self.state.look(Purpose.SHADOW)
        decision = _judged(binding, await ask(binding, state, StepContext(state), *extra), state)
        if binding.watched and self._input_changed():
            self.deny(binding.stage.name, "input_mutated", f"{binding.name}, a shadow, changed the step's input")
        self._note(binding, decision, state.elapsed_ns, enforced=False)

    def _judged(self, binding: Binding, answer: Any) -> Decision:
        """Return an enforced answer as a decision; one that is none denies, and so does a changed input."""
        decision = _judged(binding, answer, self.state)
        if binding.watched and self._input_changed():
            return _denial(binding, "input_mutated", f"{binding.name} changed the step's input in place")
        return decision

    def _applied(self, binding: Binding, decision: Decision) -> Decision:
        """Apply what an allowance or an escalation carries, and return it; return a denial for what it may not."""
        fact, facts, name = decision.fact, self.state.facts, binding.stage_name
        if fact is not None:
            if binding.fact_type is None or not isinstance(fact, binding.fact_type):
                return _denial(binding, "invalid_decision", f"{binding.name} gave a fact of type {type(fact).__name__}")
            facts[name] = join_facts(facts[name], fact) if name in facts else fact
        elif binding.needs_fact and name not in facts:
            return _denial(binding, "invalid_decision", f"{binding.name} allowed without a fact")
        if decision.replacement is not UNSET:
            problem = self._replace(binding, decision.replacement)
            if problem is not None:
                return _denial(binding, *problem)
        if decision.obligations:
            problem = self._oblige(binding, decision.obligations)
            if problem is not None:
                return _denial(binding, *problem)
        if decision.effect is _ESCALATE:
            self.escalations.append((decision.code, decision.reason))
        return decision

    def _oblige(self, binding: Binding, obligations: Iterable[Obligation]) -> tuple[str, str] | None:
        number = binding.stage.number
        for duty in obligations:
            if duty.name not in self.pipeline.met_after[number]:
                return "obligation_unmet", f"no later provider meets the obligation {duty.name!r} of {binding.name}"
            self.duties.append((number, duty))
            self.state.obligations = (*self.state.obligations, duty)
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
        self.take_input(replacement)
        return None

    def take_input(self, replacement: Any) -> None:
        """Go on with another input."""
        self.state.input = replacement
        self.input_digest = digest(replacement) if can_change(replacement) else None

    def _input_changed(self) -> bool:
        return self.input_digest is not None and digest(self.state.input) != self.input_digest

    def check_input_before_execution(self) -> None:
        """Deny a step whose input was changed by any hook since a digest was last taken."""
        if self._input_changed():
            self.deny("execution", "input_mutated", "the step's input changed while it passed the gates")

    def note(self, result: StageResult) -> None:
        """Keep a result for the record."""
        self.results.append(result)
        self.worded = self.worded or bool(result.reason or result.evidence)

    def _note(self, binding: Binding, decision: Decision, elapsed_ns: int, *, enforced: bool) -> None:
        replaced = decision.replacement is not UNSET
        self.note(StageResult(
            binding.stage_name, binding.name, decision.effect, decision.code, decision.reason, enforced, elapsed_ns,
            replaced, decision.evidence,
        ))  # fmt: skip

    def _note_denial(self, stage: str, plugin: str, code: str, reason: str) -> None:
        self.note(StageResult(stage, plugin, _DENY, code, reason))
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
