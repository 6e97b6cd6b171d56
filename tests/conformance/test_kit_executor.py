"""An executor that breaks one contract of stage 12 fails the test of that contract."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import pytest

from meshflow.plugin import (
    Execution,
    Metered,
    NoSettings,
    Plugin,
    StepContext,
    entered,
    hookimpl,
    to_micro_usd,
)
from meshflow.testing import ExecutorConformance
from meshflow.testing.base import PluginConformance

Attempt = Callable[[object, str], None]


def broken(base: type[Plugin[Any]], /, **members: Any) -> type[Plugin[Any]]:
    return type("Broken", (base,), members)


def trial(kit: type[PluginConformance], plugin: type[Plugin[Any]]) -> PluginConformance:
    return type("Trial", (kit,), {"plugin_type": plugin, "stage": "execution"})()


def own_tests(kit: type) -> list[str]:
    """Return the tests that a kit adds to those of every plugin."""
    names = set(dir(kit)) - set(dir(PluginConformance))
    return sorted(name for name in names if name.startswith("test_"))


class Runs(Plugin[NoSettings]):
    """A sound executor, as short as one can be."""

    @hookimpl
    async def execute_step(self, context: StepContext) -> Execution:
        handler = context.step.handler
        if handler is None:
            return Execution(failure_code="execution.no_handler", failure_reason="nothing to run")
        if inspect.isasyncgenfunction(handler):
            return Execution(stream=handler(context.input))
        try:
            return await self.within(context, handler)
        except TimeoutError:
            return Execution(failure_code="execution.timeout", failure_reason="too late")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return Execution(failure_code="execution.cancelled", failure_reason="the handler gave up")
        except Exception as error:
            return Execution(failure_code="execution.handler_error", failure_reason=repr(error))

    async def within(self, context: StepContext, handler: Any) -> Execution:
        async with asyncio.timeout((context.step.timeout_ms or 60_000) / 1_000):
            with entered(context):
                if inspect.iscoroutinefunction(handler):
                    return self.metered(await handler(context.input))
                return self.metered(await self.in_a_worker(handler, context.input))

    async def in_a_worker(self, handler: Any, value: Any) -> Any:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        copied = copy_context()

        def work() -> None:
            try:
                answer, problem = copied.run(handler, value), None
            except Exception as error:
                answer, problem = None, error
            with suppress(RuntimeError):
                done.get_loop().call_soon_threadsafe(settle, answer, problem)

        def settle(answer: Any, problem: Exception | None) -> None:
            if not done.done():
                done.set_exception(problem) if problem is not None else done.set_result(answer)

        threading.Thread(target=work, daemon=True).start()
        return await done

    def metered(self, answer: Any) -> Execution:
        if not isinstance(answer, Metered):
            return Execution(output=answer)
        try:
            cost = to_micro_usd(answer.cost_usd) if answer.cost_usd is not None else None
        except ValueError:
            cost = None
        return Execution(output=answer.value, cost_micro_usd=cost, tokens=answer.tokens)


async def on_the_loop(self: Any, handler: Any, value: Any) -> Any:
    return handler(value)


async def with_no_limit(self: Any, context: StepContext, handler: Any) -> Execution:
    answer = handler(context.input)
    return self.metered(await answer if inspect.isawaitable(answer) else answer)


async def in_a_task_of_its_own(self: Any, context: StepContext, handler: Any) -> Execution:
    return await asyncio.shield(asyncio.ensure_future(Runs.within(self, context, handler)))


async def one_at_a_time(self: Any, context: StepContext, handler: Any) -> Execution:
    self.lock = getattr(self, "lock", None) or asyncio.Lock()
    async with self.lock:
        return await Runs.within(self, context, handler)


async def unknown_step(self: Any, handler: Any, value: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, handler, value)


@hookimpl
async def raises_on(self: Any, context: StepContext) -> Execution:
    handler = context.step.handler
    if inspect.isasyncgenfunction(handler):
        return Execution(output=[part async for part in handler(context.input)])
    return await Runs.within(self, context, handler)


EXECUTOR_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "forgets None": (
        {"metered": lambda self, answer: Execution(output=answer or "")},
        "test_runs_sync_and_async_handlers_on_the_input",
    ),
    "blocks the loop": ({"in_a_worker": on_the_loop}, "test_sync_handler_does_not_run_on_the_loop"),
    "loses the step": ({"in_a_worker": unknown_step}, "test_sync_handler_does_not_run_on_the_loop"),
    "lets exceptions out": ({"execute_step": raises_on}, "test_exception_becomes_a_failure"),
    "takes a handler's cancellation for its own": (
        {"execute_step": raises_on},
        "test_cancellation_inside_the_handler_is_a_failure",
    ),
    "needs a handler": ({"execute_step": raises_on}, "test_handler_that_is_missing_is_refused"),
    "gathers a stream": ({"execute_step": raises_on}, "test_async_iterator_becomes_a_stream"),
    "shields the handler": ({"within": in_a_task_of_its_own}, "test_cancellation_reaches_the_handler"),
    "takes no cost for nothing": (
        {"metered": lambda self, answer: Execution(output=getattr(answer, "value", answer), cost_micro_usd=0)},
        "test_metered_output_is_counted",
    ),
    "one at a time": ({"within": one_at_a_time}, "test_many_steps_run_at_once"),
}
EXECUTOR_RAISED = (LookupError, asyncio.CancelledError, TypeError)


@pytest.mark.parametrize("name", own_tests(ExecutorConformance))
def test_sound_executor_passes(name: str, attempt: Attempt) -> None:
    attempt(trial(ExecutorConformance, Runs), name)


@pytest.mark.parametrize(("members", "name"), EXECUTOR_FAULTS.values(), ids=EXECUTOR_FAULTS)
def test_fault_of_an_executor_is_found(members: dict[str, Any], name: str, attempt: Attempt) -> None:
    conformance = trial(ExecutorConformance, broken(Runs, **members))
    with pytest.raises((AssertionError, *EXECUTOR_RAISED)):
        attempt(conformance, name)


def test_executor_that_knows_no_time_is_found(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshflow.testing.executor.PATIENCE_S", 0.2)
    conformance = trial(ExecutorConformance, broken(Runs, within=with_no_limit))
    with pytest.raises(AssertionError):
        attempt(conformance, "test_timeout_ends_the_step")


def test_every_test_of_the_executor_kit_has_a_fault_that_it_finds() -> None:
    found = {name for _, name in EXECUTOR_FAULTS.values()} | {"test_timeout_ends_the_step"}
    assert set(own_tests(ExecutorConformance)) == found
