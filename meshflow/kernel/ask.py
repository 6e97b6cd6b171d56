"""Call one hook: bounded in time, and turned into a denial by whatever goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Generator
from time import perf_counter_ns
from types import CoroutineType
from typing import Any, TypeVar

from meshflow.kernel.bind import Binding, Failure
from meshflow.step import StepState

T = TypeVar("T")
_FATAL = (KeyboardInterrupt, SystemExit, GeneratorExit)


class Asking:
    """Which hook of a step is being asked, since when, and what bounds its wait."""

    __slots__ = ("before", "begun_ns", "binding", "deadline", "driven", "timed_ns")

    def __init__(self) -> None:
        self.binding: Binding | None = None
        self.begun_ns = 0
        self.driven = False
        self.deadline: asyncio.Timeout | None = None
        self.timed_ns = 0
        self.before = 0

    def expired(self) -> bool:
        """Return whether the last deadline has passed; until ``drive`` has left it, it counts as a cancellation."""
        return self.deadline is not None and self.deadline.expired()


async def drive(asking: Asking, work: Coroutine[Any, Any, T]) -> T:
    """Run work that asks hooks, and cut off each one that waits for longer than its stage allows.

    A time-out costs nothing while hooks do not wait: most end at once, the work then ends at the first ``send``, and
    ``asyncio.timeout`` (2.5 to 3.8 us) is never set up.
    """
    asking.driven = True
    asking.binding = None
    try:
        pending = work.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    else:
        return await bounded(asking, work, pending)
    finally:
        asking.driven = False


async def bounded(asking: Asking, work: Coroutine[Any, Any, T], pending: Any) -> T:
    """Run the rest of work that has begun and waits for ``pending``."""
    rest = _Rest(asking, work, pending)
    while not rest.ended:
        if asking.binding is None:
            await rest
            continue
        task = asyncio.current_task()
        asking.before = task.cancelling() if task is not None else 0
        asking.timed_ns = asking.begun_ns
        asking.deadline = asyncio.timeout(asking.binding.timeout_s)
        try:
            async with asking.deadline:
                await rest
        finally:
            asking.deadline = None
    return rest.value  # type: ignore[no-any-return]


class _Rest(Awaitable[None]):
    """The rest of a coroutine that waits for ``pending``; awaiting it ends where another hook is asked, or none."""

    __slots__ = ("_asking", "_pending", "_work", "ended", "value")

    def __init__(self, asking: Asking, work: Coroutine[Any, Any, Any], pending: Any) -> None:
        self._asking = asking
        self._work = work
        self._pending = pending
        self.ended = False
        self.value: Any = None

    def __await__(self) -> Generator[Any, Any, None]:
        asking = self._asking
        binding, begun_ns = asking.binding, asking.begun_ns
        while asking.binding is binding and asking.begun_ns == begun_ns:
            thrown: BaseException | None = None
            sent: Any = None
            try:
                sent = yield self._pending
            except BaseException as error:
                thrown = error
            try:
                self._pending = self._work.send(sent) if thrown is None else self._work.throw(thrown)
            except StopIteration as done:
                self.ended = True
                self.value = done.value
                return


async def ask(binding: Binding, state: StepState, *args: Any) -> Any:
    """Call a binding and return its answer, or a Failure. Cancellation of the caller passes through.

    The clock judges after the hook has answered, whatever ``drive`` did: code that blocks the loop, or swallows the
    cancellation, slips past ``asyncio.timeout``. ``state.elapsed_ns`` says how long it took.
    """
    asking = state.asking
    if not asking.driven:
        return await drive(asking, ask(binding, state, *args))
    asking.binding = binding
    asking.begun_ns = begun_ns = perf_counter_ns()
    try:
        answer = binding.call(*args)
        if type(answer) is CoroutineType:
            answer = await answer
    except BaseException as error:
        state.elapsed_ns = perf_counter_ns() - begun_ns
        asking.binding = None
        return failure(binding, asking, error)
    asking.binding = None
    state.elapsed_ns = elapsed_ns = perf_counter_ns() - begun_ns
    return answer if elapsed_ns <= binding.timeout_ns else too_late(binding)


def failure(binding: Binding, asking: Asking, error: BaseException) -> Failure:
    """Return what an exception of a hook means; raise it where it is the process's or the caller's, not the hook's."""
    if isinstance(error, asyncio.CancelledError):
        task, expired = asyncio.current_task(), asking.expired()
        cancelled = task.cancelling() - expired if task is not None else 0
        if expired and asking.timed_ns == asking.begun_ns and cancelled <= asking.before:
            return too_late(binding)
        if cancelled:
            raise error
        return Failure("stage_error", f"{binding.name} raised CancelledError")
    if isinstance(error, _FATAL):
        raise error
    return Failure("stage_error", describe(binding.name, error))  # a panic of a native extension is no Exception


def too_late(binding: Binding) -> Failure:
    """Return the failure of a hook that took longer than its stage allows."""
    limit_ms = binding.timeout_ns // 1_000_000
    reason = f"{binding.name} took longer than {limit_ms} ms; see stages.{binding.stage.name}.timeout_ms"
    return Failure("stage_timeout", reason)


def describe(name: str, error: BaseException) -> str:
    """Return a one-line account of an exception, bounded in length."""
    return f"{name} raised {type(error).__name__}: {str(error)[:500]}"
