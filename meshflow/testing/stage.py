"""The contract of a gate: stages 1 to 11, and 13."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import pytest

from meshflow.clock import Clock
from meshflow.decision import UNSET, Decision
from meshflow.record import StepRecord, Verdict
from meshflow.stages import SENSITIVE_DATA, Kind
from meshflow.step import NodeInput, Purpose, StepContext
from meshflow.testing import steps
from meshflow.testing.answers import comparable, problems, shown
from meshflow.testing.base import PluginConformance, Subject, run
from meshflow.testing.stall import best_of_three_ms

LOOKS = 1_000
LOOKING_S = 2.0


class StageConformance(PluginConformance):
    """Tests a plugin against the contract of one gate.

    Override ``steps`` (or ``contexts``, where facts differ from step to step) with what your plugin decides on; the kit
    adds hostile inputs of its own. At stage 13 the input of each context is handed over as the output as well.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if getattr(cls, "stage", None) != SENSITIVE_DATA.name:
            cls.test_redacts_what_a_record_keeps = None  # type: ignore[assignment,method-assign]

    facts: ClassVar[Mapping[str, Any]] = {}
    """Facts of earlier stages, by stage name, in place of the kit's own."""

    def steps(self) -> Iterable[NodeInput]:
        """Return steps that make the plugin show all that it can answer."""
        return steps.ordinary_steps()

    def contexts(self, clock: Clock) -> Iterable[StepContext]:
        """Return the steps as the stage sees them; new ones at each call."""
        return [self.context(step, clock) for step in self.steps()]

    def context(self, step: NodeInput, clock: Clock) -> StepContext:
        """Return a step as the stage sees it."""
        return steps.context_at(self.stage_under_test, step, clock, **self.facts)

    async def ask(self, subject: Subject, context: StepContext) -> Any:
        """Call the stage's hook, and settle what it reserved."""
        answer = await subject.call(self.stage_under_test.hook, *self._arguments(context))
        if not context.look_only:
            await subject.call("settle_step", context, _record(context))
        return answer

    def _arguments(self, context: StepContext) -> tuple[Any, ...]:
        return (context, context.input) if self.stage_under_test.kind is Kind.OUTPUT else (context,)

    def _problems(self, answer: object, context: StepContext) -> list[str]:
        return problems(self.stage_under_test, answer, context)

    def test_answers_as_the_stage_asks(self, tmp_path: Path) -> None:
        """A Decision or None; code, fact, replacement and obligations as the stage has them; words fit to be stored."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                for context in self.contexts(subject.plugin.host.clock):
                    answer = await self.ask(subject, context)
                    assert not self._problems(answer, context), f"for {context.step!r:.300}"

        run(check())

    def test_reason_and_evidence_repeat_no_sensitive_value(self, tmp_path: Path) -> None:
        """Reasons and evidence go into records: they name places and kinds, never the text itself."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                clock = subject.plugin.host.clock
                for value in (" ".join(steps.CANARIES), {"text": list(steps.CANARIES)}):
                    step = NodeInput(
                        node_id="canary", kind="tool", tool="mail", input=value, credential=steps.CANARIES[2]
                    )
                    answer = await self.ask(subject, self.context(step, clock))
                    words = f"{answer.reason} {dict(answer.evidence)}" if isinstance(answer, Decision) else ""
                    assert not [canary for canary in steps.CANARIES if canary in words]

        run(check())

    def test_changes_neither_step_nor_context(self, tmp_path: Path) -> None:
        """A new input is a replacement in the decision; changing the old one in place denies the step."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                for context in self.contexts(subject.plugin.host.clock):
                    before = shown((context.step, context.input, dict(context.facts)))
                    await subject.call(self.stage_under_test.hook, *self._arguments(context))
                    assert shown((context.step, context.input, dict(context.facts))) == before
                    assert not context._state.touched

        run(check())

    @pytest.mark.parametrize("purpose", [Purpose.SHADOW, Purpose.EXPLAIN])
    def test_same_question_has_the_same_answer(self, tmp_path: Path, purpose: Purpose) -> None:
        """To someone who only looks, the plugin says the same of the same context."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                for context in self.contexts(subject.plugin.host.clock):
                    context = steps.looking(context, purpose)
                    first = comparable(await self.ask(subject, context))
                    assert comparable(await self.ask(subject, context)) == first

        run(check())

    def test_looking_changes_nothing(self, tmp_path: Path) -> None:
        """However often a step is explained or shadowed, no quota is used and the enforced answer stays as it was."""

        async def check() -> None:
            async with self.opened(tmp_path / "looked") as looked, self.opened(tmp_path / "fresh") as fresh:
                contexts = list(self.contexts(looked.plugin.host.clock))
                for context in contexts:
                    await self._look_often(looked, steps.looking(context), LOOKING_S / len(contexts))
                for context in contexts:
                    assert comparable(await self.ask(looked, context)) == comparable(await self.ask(fresh, context))

        (tmp_path / "looked").mkdir()
        (tmp_path / "fresh").mkdir()
        run(check())

    async def _look_often(self, subject: Subject, context: StepContext, seconds: float) -> None:
        end = perf_counter() + seconds
        for _ in range(LOOKS):
            await self.ask(subject, context)
            if perf_counter() > end:
                break

    def test_hostile_steps_are_answered_in_time(self, tmp_path: Path) -> None:
        """Nothing that a caller, a model or a tool can put into a step makes the hook raise or outlast its time-out."""

        async def check() -> None:
            found = []
            async with self.opened(tmp_path) as subject:
                for name, step in steps.hostile_steps():
                    context = self.context(step, subject.plugin.host.clock)
                    found += [f"{name}: {problem}" for problem in await self._hostile(subject, context)]
            assert not found, "\n".join(found)

        run(check(), 600)

    async def _hostile(self, subject: Subject, context: StepContext) -> list[str]:
        begun = perf_counter()
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await self.ask(subject, context)
        except Exception as error:
            return [f"it raised {type(error).__name__}: {shown(error):.300}"]
        seconds = perf_counter() - begun
        late = [f"it took {seconds:.1f} s; {self.timeout_s} s is the limit"] if seconds > self.timeout_s else []
        return late + self._problems(answer, context)

    def test_steps_without_earlier_facts_are_answered(self, tmp_path: Path) -> None:
        """An earlier stage may be disabled or replaced: a missing fact is None, and doubt denies with a code."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                for context in self.contexts(subject.plugin.host.clock):
                    context._state.facts.clear()
                    assert not await self._hostile(subject, context)

        run(check())

    def test_does_not_hold_up_the_event_loop(self, tmp_path: Path) -> None:
        """One step's work never makes all others wait: what takes long leaves the loop or gives way now and then."""

        async def check() -> None:
            found = []
            async with self.opened(tmp_path) as subject:
                clock = subject.plugin.host.clock
                for name, variants in self._loads(clock):
                    await self._hostile(subject, next(variants))  # not the first call: what is made once is no stall
                    tries = (self._hostile(subject, variant) for variant in variants)
                    stall_ms = await best_of_three_ms(partial(next, tries), self.stall_ms)
                    if stall_ms > self.stall_ms:
                        found.append(f"{name}: nothing else ran for {stall_ms:.0f} ms")
            assert not found, "\n".join(found)

        run(check(), 600)

    def _loads(self, clock: Clock) -> Iterator[tuple[str, Iterator[StepContext]]]:
        """Yield each step under a name, four times over: a hostile one with another text each time."""
        for context in self.contexts(clock):
            yield "an ordinary step", iter([steps.looking(context)] * 4)
        for variants in zip(*(steps.hostile_steps(f" {number}") for number in range(4)), strict=True):
            yield variants[0][0], (steps.looking(self.context(step, clock)) for _, step in variants)

    def test_survives_cancellation(self, tmp_path: Path) -> None:
        """A cancelled call ends at once as cancelled, and the next one is answered as if it had not been."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                for context in self.contexts(subject.plugin.host.clock):
                    context = steps.looking(context)
                    expected = comparable(await self.ask(subject, context))
                    for turns in (1, 2, 5):
                        await _cancel_after(turns, asyncio.create_task(self.ask(subject, context)))
                    assert comparable(await self.ask(subject, context)) == expected

        run(check())

    def test_many_steps_at_once_are_all_answered(self, tmp_path: Path) -> None:
        """Steps run side by side: no answer is lost, and none gets in another's way."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                clock = subject.plugin.host.clock
                contexts = [context for _ in range(10) for context in self.contexts(clock)]
                answers = await asyncio.gather(*(self.ask(subject, context) for context in contexts))
                for context, answer in zip(contexts, answers, strict=True):
                    assert not self._problems(answer, context)

        run(check())

    def test_settling_twice_is_harmless(self, tmp_path: Path) -> None:
        """``settle_step`` always runs, for steps that never reached the stage as well, and may come again."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                for context in self.contexts(subject.plugin.host.clock):
                    await subject.call("settle_step", context, _record(context))
                    await self.ask(subject, context)
                    await subject.call("settle_step", context, _record(context))

        run(check())

    def test_redacts_what_a_record_keeps(self, tmp_path: Path) -> None:
        """Stage 8 alone: asked with purpose ``record``, it hands back a mapping with the same fields."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                for context in self.contexts(subject.plugin.host.clock):
                    fields = {
                        "input": context.input,
                        "output": None,
                        "metadata": {},
                        "reason": "",
                        "results": [["a", {}]],
                    }
                    recording = steps.looking(context, Purpose.RECORD)
                    recording._state.input = fields
                    answer = await self.ask(subject, recording)
                    assert not self._problems(answer, recording)
                    if isinstance(answer, Decision) and answer.replacement is not UNSET:
                        assert isinstance(answer.replacement, Mapping)
                        assert answer.replacement.keys() == fields.keys()

        run(check())


async def _cancel_after(turns: int, task: asyncio.Task[Any]) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    if task.done():
        return
    task.cancel()
    _, pending = await asyncio.wait({task}, timeout=2)
    assert not pending, "a cancelled call went on for 2 s"
    assert task.cancelled(), "a cancelled call swallowed its cancellation"


def _record(context: StepContext) -> StepRecord:
    return StepRecord(
        run_id=context.run_id,
        node_id=context.step.node_id,
        step_id=context.step_id,
        tenant_id=context.tenant_id or "",
        verdict=Verdict.REJECT,
    )
