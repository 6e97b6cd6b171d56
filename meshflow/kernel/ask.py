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


class Failure(NamedTuple):
    """What went wrong in a hook: a cause (``stage_error``, ``stage_timeout``, ``invalid_decision``) and a reason."""

    cause: str
    reason: str


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


async def _waiting(coroutine: CoroutineType[Any, Any, Any], pending: Any, seconds: float) -> Any:
    deadline = asyncio.timeout(seconds)
    try:
        async with deadline:
            return await _Rest(coroutine, pending)
    except TimeoutError:
        if deadline.expired():
            raise _StageTimeout from None
        raise


async def ask(binding: Binding, state: StepState, *args: Any) -> Any:
    """Call a binding and return its answer, or a Failure. Cancellation of the caller passes through.

    A time-out costs nothing while a hook does not wait: most end at the first ``send``, and ``asyncio.timeout`` (2.5 to
    3.8 us) is never set up. The clock judges again after the hook has answered, since code that blocks the loop, or
    swallows the cancellation, slips past ``asyncio.timeout``. ``state.elapsed_ns`` says how long it took.
    """
    if binding.wrapped:
        state.handed = UNANSWERED
    begun = perf_counter_ns()
    try:
        value = binding.call(*args)
        if type(value) is CoroutineType:
            try:
                pending = value.send(None)
            except StopIteration as done:
                value = done.value
            else:
                value = await _waiting(value, pending, binding.timeout_s)
    except BaseException as error:
        state.elapsed_ns = perf_counter_ns() - begun
        return _failure(binding, error)
    state.elapsed_ns = elapsed_ns = perf_counter_ns() - begun
    if elapsed_ns > binding.timeout_ns:
        return Failure("stage_timeout", _too_late(binding))
    if binding.wrapped and value is not state.handed:
        return Failure("invalid_decision", f"a wrapper around {binding.name} did not hand on its answer")
    return value


def _failure(binding: Binding, error: BaseException) -> Failure:
    """Return what an exception of a hook means; raise it where it is the process's or the caller's, not the hook's."""
    if isinstance(error, _StageTimeout):
        return Failure("stage_timeout", _too_late(binding))
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise error
        return Failure("stage_error", f"{binding.name} raised CancelledError")
    if isinstance(error, _FATAL):
        raise error
    return Failure("stage_error", describe(binding.name, error))  # a panic of a native extension is no Exception


def describe(name: str, error: BaseException) -> str:
    """Return a one-line account of an exception, bounded in length."""
    return f"{name} raised {type(error).__name__}: {str(error)[:500]}"


def _too_late(binding: Binding) -> str:
    limit_ms = binding.timeout_ns // 1_000_000
    return f"{binding.name} took longer than {limit_ms} ms; see stages.{binding.stage.name}.timeout_ms"
