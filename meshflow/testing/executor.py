"""The contract of stage 12, execution."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

from meshflow.decision import Decision, Effect
from meshflow.step import Execution, Metered, NodeInput, StepContext, current_step
from meshflow.testing import steps
from meshflow.testing.base import PluginConformance, Subject, run
from meshflow.testing.stall import best_of_three_ms

SOON_S = 2.0
PATIENCE_S = 30.0
"""How long a handler would go on if nobody stopped it."""


class ExecutorConformance(PluginConformance):
    """Tests a plugin against the contract of stage 12. Override ``expected`` if yours changes a handler's output."""

    stage: ClassVar[str] = "execution"

    def expected(self, output: Any) -> Any:
        """Return what the executor makes of a handler's output."""
        return output

    async def execute(self, subject: Subject, step: NodeInput) -> Any:
        """Run a step at stage 12."""
        return await subject.call("execute_step", self.context(subject, step))

    def context(self, subject: Subject, step: NodeInput) -> StepContext:
        """Return a step that has passed all gates."""
        return steps.context_at(self.stage_under_test, step, subject.plugin.host.clock)

    def test_runs_sync_and_async_handlers_on_the_input(self, tmp_path: Path) -> None:
        """The handler gets the input as the gates left it, and its result is the output, None included."""

        async def asynchronous(value: Any) -> Any:
            await asyncio.sleep(0)
            return value

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                for handler in (lambda value: value, asynchronous):
                    for value in ("text", None, {"a": [1, 2]}):
                        execution = await self.execute(subject, NodeInput(node_id="n", input=value, handler=handler))
                        assert isinstance(execution, Execution)
                        assert (execution.failure_code, execution.output) == ("", self.expected(value))

        run(check())

    def test_sync_handler_does_not_run_on_the_loop(self, tmp_path: Path) -> None:
        """A handler that blocks holds up its own step only, and sees the step that it runs for."""
        seen: list[Any] = []

        def blocking(value: Any) -> Any:
            context = current_step()
            seen.append((threading.get_ident(), context.step_id if context is not None else None))
            time.sleep(0.3)
            return value

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                step = NodeInput(node_id="n", input="x", step_id="s1", handler=blocking)
                stall_ms = await best_of_three_ms(lambda: self.execute(subject, step), self.stall_ms)
                assert stall_ms <= self.stall_ms, f"nothing else ran for {stall_ms:.0f} ms"
                assert seen[0][0] != threading.get_ident()
                assert seen[0][1] == "s1", "current_step() must be the step while its handler runs"

        run(check())

    def test_exception_becomes_a_failure(self, tmp_path: Path) -> None:
        """An exception of the handler is an Execution with a code of the stage; it never leaves the hook."""

        def breaking(_: Any) -> Any:
            raise LookupError("no such order")

        async def breaking_later(_: Any) -> Any:
            await asyncio.sleep(0)
            raise LookupError("no such order")

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                for handler in (breaking, breaking_later):
                    failed(await self.execute(subject, NodeInput(node_id="n", handler=handler)))

        run(check())

    def test_cancellation_inside_the_handler_is_a_failure(self, tmp_path: Path) -> None:
        """A handler that raises CancelledError by itself fails its step; nobody cancelled the caller."""

        async def giving_up(_: Any) -> Any:
            raise asyncio.CancelledError

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                failed(await self.execute(subject, NodeInput(node_id="n", handler=giving_up)))

        run(check())

    def test_handler_that_is_missing_is_refused(self, tmp_path: Path) -> None:
        """A step that nothing can run is denied or fails with a code; it never completes."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                answer = await self.execute(subject, NodeInput(node_id="n", input="x"))
                if isinstance(answer, Decision):
                    assert answer.effect is Effect.DENY
                    assert answer.code.startswith("execution.")
                else:
                    failed(answer)

        run(check())

    def test_timeout_ends_the_step(self, tmp_path: Path) -> None:
        """``timeout_ms`` bounds the handler: an async one is cancelled, a sync one is left behind, both in time."""
        cancelled = asyncio.Event()
        release = threading.Event()

        async def sleeping(_: Any) -> Any:
            try:
                await asyncio.sleep(PATIENCE_S)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        def blocking(_: Any) -> Any:
            release.wait(PATIENCE_S)

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                try:
                    for handler in (sleeping, blocking):
                        begun = perf_counter()
                        step = NodeInput(node_id="n", handler=handler, timeout_ms=50, idempotent=False)
                        failed(await self.execute(subject, step))
                        assert perf_counter() - begun < SOON_S
                finally:
                    release.set()
                assert cancelled.is_set(), "the handler never learnt that its time was over"

        run(check())

    def test_cancellation_reaches_the_handler(self, tmp_path: Path) -> None:
        """When the caller is cancelled the handler is too, and the hook ends as cancelled."""
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def sleeping(_: Any) -> Any:
            begun.set()
            try:
                await asyncio.sleep(PATIENCE_S)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                task = asyncio.create_task(self.execute(subject, NodeInput(node_id="n", handler=sleeping)))
                await begun.wait()
                task.cancel()
                _, pending = await asyncio.wait({task}, timeout=SOON_S)
                assert not pending
                assert task.cancelled()
                assert cancelled.is_set()

        run(check())

    def test_async_iterator_becomes_a_stream(self, tmp_path: Path) -> None:
        """Chunks are handed on as they come; closing the stream closes the handler's iterator."""
        closed: list[str] = []

        async def streaming(value: Any) -> AsyncIterator[str]:
            try:
                for index in range(3):
                    yield f"{value}{index}"
            finally:
                closed.append("closed")

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                step = NodeInput(node_id="n", input="part", handler=streaming)
                execution = await self.execute(subject, step)
                assert isinstance(execution, Execution)
                assert execution.stream is not None
                assert [part async for part in execution.stream] == [
                    self.expected(f"part{index}") for index in range(3)
                ]
                assert closed == ["closed"]
                abandoned = (await self.execute(subject, step)).stream
                await anext(abandoned)
                await abandoned.aclose()
                assert closed == ["closed", "closed"]

        run(check())

    def test_metered_output_is_counted(self, tmp_path: Path) -> None:
        """Cost and tokens of a Metered result go into the Execution; a cost that is no number is not taken for zero."""

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                execution = await self.execute(
                    subject, NodeInput(node_id="n", handler=lambda _: Metered("x", cost_usd="0.25", tokens=7))
                )
                assert (execution.output, execution.cost_micro_usd, execution.tokens) == (
                    self.expected("x"), 250_000, 7,
                )  # fmt: skip
                for cost in (float("nan"), -1, "free"):
                    answer = await self.execute(
                        subject,
                        NodeInput(node_id="n", handler=lambda _, cost=cost: Metered("x", cost_usd=cost)),  # type: ignore[misc]
                    )
                    assert answer.failure_code or answer.cost_micro_usd is None

        run(check())

    def test_many_steps_run_at_once(self, tmp_path: Path) -> None:
        """Steps do not wait for each other: fifty that sleep take little longer than one."""

        async def sleeping(value: Any) -> Any:
            await asyncio.sleep(0.1)
            return value

        async def check() -> None:
            async with self.opened(tmp_path) as subject:
                begun = perf_counter()
                executions = await asyncio.gather(
                    *(self.execute(subject, NodeInput(node_id=f"n{n}", input=n, handler=sleeping)) for n in range(50))
                )
                assert [one.output for one in executions] == [self.expected(n) for n in range(50)]
                assert perf_counter() - begun < SOON_S

        run(check())


def failed(answer: object) -> None:
    """Assert that a step ran and failed, with a code of the stage and a reason for people."""
    assert isinstance(answer, Execution), f"answer an Execution, not {type(answer).__name__}"
    assert answer.failure_code.startswith("execution."), f"failure_code {answer.failure_code!r}"
    assert answer.failure_reason
