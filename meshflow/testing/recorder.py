"""The contract of a recorder: stages 14 and 15."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshflow.decision import Effect
from meshflow.facts import Principal
from meshflow.record import StageResult, StepRecord, Verdict
from meshflow.stages import AUDIT
from meshflow.step import NodeInput, StepContext
from meshflow.testing import steps
from meshflow.testing.answers import shown
from meshflow.testing.base import PluginConformance, Subject, run
from meshflow.testing.stall import best_of_three_ms

RUN = "run-1"


class RecorderConformance(PluginConformance):
    """Tests a plugin against the contract of stage 14 or 15.

    Override ``stored`` to say which steps someone else would find, and ``break_storage`` to take the storage away:
    without them durability and failure cannot be tested, and those tests are skipped.
    """

    stage: ClassVar[str] = AUDIT.name

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.stage != AUDIT.name:  # stage 15 counts what it is given, may lose it, and writes no intents
            cls.test_audit_provider_records_intents = None  # type: ignore[assignment,method-assign]
            cls.test_record_is_kept_before_the_hook_returns = None  # type: ignore[assignment,method-assign]
            cls.test_failing_storage_raises = None  # type: ignore[assignment,method-assign]
            cls.test_same_record_twice_is_kept_once = None  # type: ignore[assignment,method-assign]
            cls.test_record_that_contradicts_another_is_refused = None  # type: ignore[assignment,method-assign]

    async def stored(self, folder: Path) -> Collection[str] | None:
        """Return the step ids that a new reader finds under ``folder`` while the plugin under test is still open."""
        return None

    def break_storage(self, folder: Path, subject: Subject) -> bool:
        """Make the storage of a started plugin fail, and return True; the next record must raise."""
        return False

    def records(self) -> Iterable[StepRecord]:
        """Return records of every kind: completed, denied, failed, paused, and with odd words in them."""
        return _records()

    def context(self, subject: Subject, record: StepRecord) -> StepContext:
        """Return the context that a record belongs to."""
        step = NodeInput(
            node_id=record.node_id,
            run_id=record.run_id,
            step_id=record.step_id,
            attempt=record.attempt,
            input=record.input,
        )
        context = steps.context_at(self.stage_under_test, step, subject.plugin.host.clock)
        context._state.recorded_input = record.input
        context._state.started_us = record.started_us
        return context

    async def record(self, subject: Subject, record: StepRecord, *, intent: bool = True) -> Any:
        """Write a record as the kernel does: its intent first, at stage 14, then what happened."""
        context = self.context(subject, record)
        if intent and self.stage == AUDIT.name and record.executed:
            await subject.call("record_intent", context)
        answer = await subject.call(self.stage_under_test.hook, context, record)
        assert not context._state.touched, "it wrote to the context, which is read-only"
        return answer

    def test_audit_provider_records_intents(self, tmp_path: Path) -> None:
        """A plugin that serves stage 14 also writes the intent before a step with side effects runs."""
        assert "record_intent" in self._subject(tmp_path).hooks

    def test_records_every_kind_of_ending(self, tmp_path: Path) -> None:
        """Each record is taken without an exception, changed by nobody, and answered with None."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                for record in self.records():
                    before = shown(record)
                    assert await self.record(subject, record) is None
                    assert shown(record) == before

        run(check())

    def test_record_is_kept_before_the_hook_returns(self, tmp_path: Path) -> None:
        """When the hook has returned a new reader finds the record, with nothing flushed or closed in between."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                written: set[str] = set()
                for record in self.records():
                    await self.record(subject, record)
                    written.add(record.step_id)
                    found = await self.stored(tmp_path)
                    if found is None:
                        pytest.skip("override stored() to say what a new reader finds")
                    assert written <= set(found)

        run(check())

    def test_same_record_twice_is_kept_once(self, tmp_path: Path) -> None:
        """A record that is handed over again, as after a crash, is neither an error nor a second entry."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                for record in self.records():
                    await self.record(subject, record)
                    await self.record(subject, record, intent=False)
                found = await self.stored(tmp_path)
                assert found is None or len(list(found)) == len(set(found))

        run(check())

    def test_record_that_contradicts_another_is_refused(self, tmp_path: Path) -> None:
        """One attempt at a step has one record; another one under its name raises and changes nothing."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                record = next(iter(self.records()))
                await self.record(subject, record)
                with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the storage calls it
                    await self.record(subject, replace(record, output="something else"), intent=False)

        run(check())

    def test_failing_storage_raises(self, tmp_path: Path) -> None:
        """A record that was not written is an exception: the kernel withholds the outcome. It never passes silently."""

        async def check() -> None:
            subject = self._subject(tmp_path)
            await subject.call("startup")
            first, second = list(self.records())[:2]
            await self.record(subject, first)
            if not self.break_storage(tmp_path, subject):
                await subject.call("shutdown")
                pytest.skip("override break_storage() to take the storage away")
            with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the storage calls it
                await self.record(subject, second)

        run(check())

    def test_many_records_at_once_are_all_kept(self, tmp_path: Path) -> None:
        """Steps end side by side: no record is lost, none mixed up."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                first = next(iter(self.records()))
                many = [replace(first, step_id=f"many-{n}", node_id=f"n{n}") for n in range(100)]
                await asyncio.gather(*(self.record(subject, record) for record in many))
                found = await self.stored(tmp_path)
                assert found is None or {record.step_id for record in many} <= set(found)

        run(check())

    def test_does_not_hold_up_the_event_loop(self, tmp_path: Path) -> None:
        """Writing leaves the loop: while one record is on its way to disk all other steps go on."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                for number, record in enumerate(self.records()):
                    tries = (self.record(subject, replace(record, step_id=f"stall-{number}-{n}")) for n in range(3))
                    await self.record(subject, replace(record, step_id=f"stall-{number}-first"))
                    stall_ms = await best_of_three_ms(partial(next, tries), self.stall_ms)
                    assert stall_ms <= self.stall_ms, f"nothing else ran for {stall_ms:.0f} ms: {record!r:.200}"

        run(check())

    def test_survives_cancellation(self, tmp_path: Path) -> None:
        """After a cancelled call the same record can be handed over again, and is kept once."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                for turns, record in enumerate(self.records()):
                    task = asyncio.create_task(self.record(subject, record))
                    for _ in range(turns + 1):
                        await asyncio.sleep(0)
                    task.cancel()
                    _, pending = await asyncio.wait({task}, timeout=5)
                    assert not pending, "a cancelled call went on for 5 s"
                    await self.record(subject, record, intent=False)
                found = await self.stored(tmp_path)
                assert found is None or {record.step_id for record in self.records()} <= set(found)

        run(check())

    def test_opens_again_where_it_left_off(self, tmp_path: Path) -> None:
        """After a shutdown and a new start what was kept is still there, and more can be added."""

        async def check() -> None:
            first, second = list(self.records())[:2]
            async with self.opened(tmp_path) as subject:
                await self.record(subject, first)
            async with self.opened(tmp_path) as subject:
                await self.record(subject, second)
                found = await self.stored(tmp_path)
                assert found is None or {first.step_id, second.step_id} <= set(found)

        run(check())


def _records() -> list[StepRecord]:
    base = StepRecord(
        run_id=RUN,
        node_id="answer",
        step_id="completed",
        principal=Principal("conformance", "agent"),
        input="Please summarise the report.",
        output={"text": "Here it is.", "price": 19.99},
        results=(
            StageResult("policy_evaluation", "policy", Effect.ALLOW, "", "allowed", evidence={"rule": "default"}),
        ),
        executed=True,
        cost_micro_usd=1_250,
        reserved_micro_usd=10_000,
        started_us=1_700_000_000_000_000,
        duration_ns=1_500_000,
        fingerprint="0" * 64,
    )
    denial = StageResult("budget_check", "limits", Effect.DENY, "budget_check.exhausted", "the cap is reached")
    return [
        base,
        replace(
            base,
            step_id="denied",
            verdict=Verdict.REJECT,
            code=denial.code,
            reason=denial.reason,
            output=None,
            results=(denial,),
            executed=False,
            cost_micro_usd=0,
        ),
        replace(
            base, step_id="failed", verdict=Verdict.ERROR, code="execution.timeout", reason="too late", output=None
        ),
        replace(base, step_id="second-attempt", attempt=2),
        replace(base, step_id="anonymous", principal=None, tenant_id="", executed=False, verdict=Verdict.REJECT),
        replace(
            base, step_id="odd-words", output="\u202e\u200b\U0001f468 e\u0301", metadata={"kéy": [None, True, 1.5]}
        ),
        replace(base, step_id="large", output="word " * 200_000),
        replace(base, step_id="overrun", cost_micro_usd=2**53 - 1, tokens=2**40),
    ]
