"""Handlers of every kind, well-behaved and hostile."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from decimal import Decimal
from typing import Any

import pytest

from meshflow.clock import ManualClock
from meshflow.plugin import (
    Decision,
    Effect,
    Execution,
    Metered,
    NodeInput,
    RiskTier,
    StepContext,
    TaintLabels,
    TenantScope,
    context_for,
    current_step,
)
from meshflow.step import Purpose
from meshflow_executor import CODES, ExecutorPlugin, ExecutorSettings


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., ExecutorPlugin]]:
    made: list[ExecutorPlugin] = []

    def executor(**settings: Any) -> ExecutorPlugin:
        made.append(ExecutorPlugin(ExecutorSettings.model_validate({"shutdown_ms": 500, "grace_ms": 50} | settings)))
        return made[-1]

    yield executor
    for plugin in made:
        await plugin.shutdown()


Make = Callable[..., ExecutorPlugin]


def context(handler: Any, value: Any = 1, *, clock: ManualClock | None = None, **fields: Any) -> StepContext:
    tier = fields.pop("tier", RiskTier.EXTERNAL_IO)
    tenant = fields.pop("tenant_id", "t")
    step = NodeInput(node_id=fields.pop("node_id", "n"), handler=handler, input=value, **fields)
    return context_for(step, clock=clock, risk_classification=tier, tenant_scoping=TenantScope(tenant))


async def execute(plugin: ExecutorPlugin, handler: Any, value: Any = 1, **fields: Any) -> Execution:
    answer = await plugin.execute_step(context(handler, value, **fields))
    assert isinstance(answer, Execution), answer
    assert not answer.failure_code or answer.failure_code in CODES
    return answer


async def refused(plugin: ExecutorPlugin, handler: Any, **fields: Any) -> str:
    answer = await plugin.execute_step(context(handler, **fields))
    assert isinstance(answer, Decision), answer
    assert answer.effect is Effect.DENY
    assert answer.code in CODES
    return answer.code


async def plus_one(value: int) -> int:
    return value + 1


def sync_plus_one(value: int) -> int:
    assert threading.current_thread() is not threading.main_thread()
    return value + 1


class AsyncCallable:
    async def __call__(self, value: int) -> int:
        return value + 1

    async def method(self, value: int) -> int:
        return value + 1


class Child(AsyncCallable):
    pass


def returns_a_coroutine(value: int) -> Any:
    return plus_one(value)


@pytest.mark.parametrize(
    "handler",
    [
        plus_one,
        sync_plus_one,
        returns_a_coroutine,
        AsyncCallable(),
        Child(),
        AsyncCallable().method,
        functools.partial(plus_one),
        functools.partial(sync_plus_one),
        lambda value: value + 1,
        (1).__add__,
    ],
)
async def test_any_callable_runs(make: Make, handler: Any) -> None:
    answer = await execute(make(), handler)
    assert (answer.output, answer.failure_code, answer.tries) == (2, "", 1)
    assert answer.cost_micro_usd is None


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_the_current_step_and_context_variables_reach_the_handler(make: Make, asynchronous: bool) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="unset")
    variable.set("set")

    def sync_look(_: Any) -> tuple[str, str]:
        found = current_step()
        assert found is not None
        return found.idempotency_key, variable.get()

    async def look(value: Any) -> tuple[str, str]:
        return sync_look(value)

    answer = await execute(make(), look if asynchronous else sync_look)
    assert answer.output == ("run:step", "set")
    assert current_step() is None


async def test_a_step_without_a_handler_is_refused(make: Make) -> None:
    assert await refused(make(), None) == "execution.no_handler"


async def test_a_look_executes_nothing(make: Make) -> None:
    called: list[Any] = []
    look = StepContext(context(called.append)._state.look(Purpose.EXPLAIN))
    answer = await make().execute_step(look)
    assert isinstance(answer, Decision)
    assert answer.code == "execution.look_only"
    assert called == []


@pytest.mark.parametrize("timeout_ms", [0, -5, 1.5, float("nan"), True, "10"])
async def test_a_timeout_that_makes_no_sense_is_refused(make: Make, timeout_ms: Any) -> None:
    assert await refused(make(), plus_one, timeout_ms=timeout_ms) == "execution.invalid_timeout"


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("bad\nvalue"), "ValueError: bad\nvalue"),
        (StopIteration(5), "StopIteration: 5"),
        (asyncio.CancelledError("self"), "CancelledError"),
        (TimeoutError("own"), "TimeoutError: own"),
        (UnspeakableError(), "UnspeakableError: its text cannot be had: ValueError"),
    ],
)
@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_exception_is_a_failure_with_its_type_and_text(
    make: Make, error: BaseException, reason: str, asynchronous: bool
) -> None:
    def fail(_: Any) -> None:
        raise error

    async def fail_async(_: Any) -> None:
        raise error

    answer = await execute(make(), fail_async if asynchronous else fail)
    assert answer.failure_code == "execution.handler_error"
    if asynchronous and isinstance(error, StopIteration):
        assert answer.failure_reason == "RuntimeError: coroutine raised StopIteration"
    else:
        assert answer.failure_reason.startswith(reason)
    assert "Traceback" not in answer.failure_reason
    assert answer.output is None


async def test_a_reason_is_cut_short(make: Make) -> None:
    async def fail(_: Any) -> None:
        raise ValueError("x" * 1_000_000)

    assert len((await execute(make(), fail)).failure_reason) <= 500


async def test_a_handler_that_takes_no_input_is_a_failure(make: Make) -> None:
    async def none() -> None: ...

    assert (await execute(make(), none)).failure_reason.startswith("TypeError")


class OddError(BaseException):
    pass


@pytest.mark.parametrize("asynchronous", [True, False])
async def test_an_exception_that_is_no_exception_is_passed_on(make: Make, asynchronous: bool) -> None:
    def fail(_: Any) -> None:
        raise OddError

    async def fail_async(_: Any) -> None:
        raise OddError

    with pytest.raises(OddError):
        await make().execute_step(context(fail_async if asynchronous else fail))


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt()"])
@pytest.mark.parametrize("prefix", ["async ", ""])
def test_an_exit_ends_the_process(error: str, prefix: str) -> None:
    code = f"""
import asyncio
from meshflow.plugin import NodeInput, context_for
from meshflow_executor import ExecutorPlugin, ExecutorSettings
{prefix}def leave(_):
    raise {error}
asyncio.run(ExecutorPlugin(ExecutorSettings()).execute_step(context_for(NodeInput(node_id="n", handler=leave))))
print("still here")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert "still here" not in done.stdout


async def test_a_slow_handler_is_interrupted(make: Make) -> None:
    cleaned: list[bool] = []

    async def slow(_: Any) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            cleaned.append(True)

    answer = await execute(make(timeout_ms=30), slow)
    assert answer.failure_code == "execution.timeout"
    assert answer.cost_micro_usd is None
    assert cleaned == [True]


async def test_a_step_can_lower_the_timeout_and_never_raise_it(make: Make) -> None:
    async def slow(_: Any) -> int:
        await asyncio.sleep(0.1)
        return 1

    plugin = make(tools={"quick": {"timeout_ms": 20}})
    assert (await execute(plugin, slow, timeout_ms=20)).failure_code == "execution.timeout"
    assert (await execute(plugin, slow, timeout_ms=2_000)).output == 1
    answer = await execute(plugin, slow, kind="tool", tool="quick", timeout_ms=2_000)
    assert answer.failure_code == "execution.timeout"


async def test_a_handler_that_swallows_its_cancellation_and_answers_is_late(make: Make) -> None:
    async def stubborn(_: Any) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        return "too late"

    answer = await execute(make(timeout_ms=20), stubborn)
    assert (answer.failure_code, answer.output) == ("execution.timeout", None)


async def test_a_handler_that_never_gives_in_is_left_behind(make: Make) -> None:
    enough = asyncio.Event()

    async def immortal(_: Any) -> None:
        while not enough.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    plugin = make(timeout_ms=20, grace_ms=20)
    begun = time.monotonic()
    assert (await execute(plugin, immortal)).failure_code == "execution.timeout"
    assert time.monotonic() - begun < 5
    assert len(plugin._tasks.left_behind) == 1
    enough.set()
    await asyncio.sleep(0.05)
    assert not plugin._tasks.left_behind


async def test_a_handler_that_blocks_the_loop_past_its_time_is_late(make: Make) -> None:
    async def blocking(_: Any) -> str:
        time.sleep(0.05)
        return "done"

    assert (await execute(make(timeout_ms=20), blocking)).failure_code == "execution.timeout"


async def test_the_steps_own_clock_judges_too(make: Make) -> None:
    clock = ManualClock()

    async def advance(_: Any) -> str:
        clock.advance(61)
        return "done"

    assert (await execute(make(), advance, clock=clock)).failure_code == "execution.timeout"


async def test_a_wall_clock_that_steps_back_changes_nothing(make: Make) -> None:
    clock = ManualClock()

    async def back(_: Any) -> str:
        clock.set_wall(0)
        return "done"

    assert (await execute(make(), back, clock=clock)).output == "done"


@pytest.mark.parametrize("stubborn", [True, False])
async def test_cancellation_reaches_the_handler_and_is_passed_on(make: Make, stubborn: bool) -> None:
    seen: list[str] = []
    running = asyncio.Event()

    async def wait(_: Any) -> None:
        running.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            seen.append("cancelled")
            if not stubborn:
                raise

    plugin = make()
    task = asyncio.create_task(plugin.execute_step(context(wait)))
    await running.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]


async def test_cancellation_before_the_handler_has_begun_is_passed_on(make: Make) -> None:
    task = asyncio.create_task(make().execute_step(context(plus_one)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), -1, "lots", True, 10**30, [], "1e999999999"])
async def test_a_cost_that_is_none_fails_and_is_unknown(make: Make, cost: Any) -> None:
    async def metered(_: Any) -> Metered:
        return Metered("out", cost_usd=cost, tokens=3)

    answer = await execute(make(), metered)
    assert answer.failure_code == "execution.invalid_cost"
    assert answer.cost_micro_usd is None
    assert answer.output is None


@pytest.mark.parametrize("tokens", [-1, 1.5, True, "3", 2**53, None])
async def test_tokens_that_are_none_fail(make: Make, tokens: Any) -> None:
    answer = await execute(make(), lambda _: Metered("out", cost_usd=1, tokens=tokens))
    assert answer.failure_code == "execution.invalid_cost"
    assert answer.cost_micro_usd is None


async def test_a_metered_output_is_unwrapped(make: Make) -> None:
    labels = TaintLabels()

    async def metered(_: Any) -> Metered:
        return Metered("out", cost_usd=Decimal("0.0000015"), tokens=3, labels=labels)

    answer = await execute(make(), metered)
    assert (answer.output, answer.cost_micro_usd, answer.tokens) == ("out", 2, 3)
    assert answer.labels is labels


def generated(count: int) -> Iterator[int]:
    yield from range(count)


async def test_a_plain_iterable_is_a_whole_output(make: Make) -> None:
    answer = await execute(make(), lambda _: range(3))
    assert answer.stream is None
    assert answer.output == range(3)


async def test_the_fast_path_is_fast(make: Make) -> None:
    plugin, given = make(), context(plus_one)

    async def once(count: int) -> float:
        begun = time.perf_counter()
        for _ in range(count):
            await plugin.execute_step(given)
        return (time.perf_counter() - begun) / count * 1e6

    # 15 us is the aim on a quiet machine; the bound leaves room for a busy one.
    assert min([await once(300) for _ in range(10)]) < 60
