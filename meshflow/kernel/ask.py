"""Call one hook: bounded in time, and turned into a denial by whatever goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from time import perf_counter_ns
from types import CoroutineType
from typing import Any, NamedTuple

from meshflow.kernel.bind import UNANSWERED, Binding
from meshflow.step import StepState

_FATAL = (KeyboardInterrupt, SystemExit, GeneratorExit)


class Answer(NamedTuple):
    """What a hook gave: its value, or what went wrong as a cause (``stage_error``, ``stage_timeout``) and a reason."""

    value: Any
    elapsed_ns: int
    cause: str = ""
    reason: str = ""


class _Rest(Awaitable[Any]):
    """The rest of a coroutine that has been started by hand and waits for ``pending``."""

    __slots__ = ("_coroutine", "_pending")

    def __init__(self, coroutine: CoroutineType[Any, Any, Any], pending: Any) -> None:
        self._coroutine = coroutine
        self._pending = pending

    def __await__(self) -> Generator[Any, Any, Any]:
        pending = self._pending
        while True:
            thrown: BaseException | None = None
            sent: Any = None
            try:
                sent = yield pending
            except BaseException as error:
                thrown = error
            try:
                pending = self._coroutine.send(sent) if thrown is None else self._coroutine.throw(thrown)
            except StopIteration as done:
                return done.value


class _StageTimeout(Exception):
    pass


async def within(coroutine: CoroutineType[Any, Any, Any], seconds: float) -> Any:
    """Await a coroutine with a time-out that costs nothing while the coroutine does not wait.

    Most hooks only compute: they end at the first ``send``, and ``asyncio.timeout`` (2.5 to 3.8 us) is never set up.
    """
    try:
        pending = coroutine.send(None)
    except StopIteration as done:
        return done.value
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            return await _Rest(coroutine, pending)
    except TimeoutError:
        if deadline.expired():
            raise _StageTimeout from None
        raise


async def ask(binding: Binding, state: StepState, *args: Any) -> Answer:
    """Call a binding. Cancellation of the caller passes through; all else comes back as an Answer.

    The clock judges again after the hook has answered: code that blocks the loop, or swallows the cancellation, slips
    past ``asyncio.timeout``.
    """
    if binding.wrapped:
        state.handed = UNANSWERED
    begun = perf_counter_ns()
    try:
        value = binding.call(*args)
        if type(value) is CoroutineType:
            value = await within(value, binding.timeout_s)
    except _StageTimeout:
        return Answer(None, perf_counter_ns() - begun, "stage_timeout", _too_late(binding))
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return Answer(None, perf_counter_ns() - begun, "stage_error", f"{binding.name} raised CancelledError")
    except _FATAL:
        raise
    except BaseException as error:  # a panic of a native extension is a BaseException too
        return Answer(None, perf_counter_ns() - begun, "stage_error", describe(binding.name, error))
    elapsed_ns = perf_counter_ns() - begun
    if elapsed_ns > binding.timeout_ns:
        return Answer(None, elapsed_ns, "stage_timeout", _too_late(binding))
    if binding.wrapped and value is not state.handed:
        return Answer(
            None, elapsed_ns, "invalid_decision", f"a wrapper around {binding.name} did not hand on its answer"
        )
    return Answer(value, elapsed_ns)


def describe(name: str, error: BaseException) -> str:
    """Return a one-line account of an exception, bounded in length."""
    return f"{name} raised {type(error).__name__}: {str(error)[:500]}"


def _too_late(binding: Binding) -> str:
    limit_ms = binding.timeout_ns // 1_000_000
    return f"{binding.name} took longer than {limit_ms} ms; see stages.{binding.stage.name}.timeout_ms"
