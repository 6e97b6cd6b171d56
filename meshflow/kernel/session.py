"""Steps that belong together: one run, one agent, one credential."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

from meshflow.errors import ConfigError, StepDeniedError
from meshflow.ids import new_id
from meshflow.kernel.govern import govern
from meshflow.record import RuntimeOutcome
from meshflow.step import NodeInput

if TYPE_CHECKING:
    from meshflow.kernel.explain import Explanation
    from meshflow.kernel.flow import Flow
    from meshflow.kernel.runtime import StepRuntime

F = TypeVar("F", bound=Callable[..., Any])
_BLANK = NodeInput(node_id="blank")
_FIELDS = {one.name: getattr(_BLANK, one.name) for one in fields(NodeInput)}


class StepStream(AbstractAsyncContextManager["StepStream"], AsyncIterator[Any]):
    """The released parts of a streaming step.

    Iteration ends normally only when the step completed and is recorded; otherwise it raises StepDeniedError after the
    last part that could be released. ``outcome`` is set when iteration has ended.
    """

    def __init__(self, begin: Callable[[], tuple[Flow, AsyncIterator[Any], Callable[[], None]]]) -> None:
        self._begin: Callable[[], tuple[Flow, AsyncIterator[Any], Callable[[], None]]] | None = begin
        self._flow: Flow | None = None
        self._parts: AsyncIterator[Any] = _nothing()
        self._leave: Callable[[], None] | None = None

    @property
    def outcome(self) -> RuntimeOutcome | None:
        """How the step ended; None while it runs."""
        return self._flow.outcome if self._flow is not None else None

    def __aiter__(self) -> StepStream:
        return self

    def __del__(self) -> None:
        self._left()

    async def __anext__(self) -> Any:
        if self._begin is not None:  # by what is in force now, not when the stream was made
            begin, self._begin = self._begin, None
            self._flow, self._parts, self._leave = begin()
        try:
            return await anext(self._parts)
        except StopAsyncIteration:
            self._left()
            outcome = self.outcome
            if outcome is None or not outcome.ok:
                code = outcome.code if outcome is not None else "step.interrupted"
                raise StepDeniedError(f"{code}: {outcome.reason if outcome else ''}", outcome) from None
            raise
        except BaseException:
            self._left()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop reading. What was released so far is recorded, and the step does not count as completed."""
        self._begin = None
        try:
            await self._parts.aclose()  # type: ignore[attr-defined]
        finally:
            self._left()

    def _left(self) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


async def _nothing() -> AsyncIterator[Any]:
    """Give the parts of a stream that nobody has begun to read."""
    parts: tuple[Any, ...] = ()
    for part in parts:
        yield part


class Session:
    """Fills in what the steps of one run share; has the same methods as the runtime."""

    def __init__(self, runtime: StepRuntime, shared: dict[str, Any]) -> None:
        unknown = sorted(set(shared) - set(_FIELDS))
        if unknown:
            raise ConfigError(f"unknown step fields {unknown}; choose among {sorted(_FIELDS)}")
        self._runtime = runtime
        self._shared = {"run_id": new_id("run"), **shared}

    @property
    def run_id(self) -> str:
        """The run that the steps belong to."""
        return str(self._shared["run_id"])

    async def run(self, step: NodeInput) -> RuntimeOutcome:
        """Take a step of this run through all fifteen stages."""
        return await self._runtime.run(self.fill(step))

    def run_sync(self, step: NodeInput) -> RuntimeOutcome:
        """Do the same for a blocking caller."""
        return self._runtime.run_sync(self.fill(step))

    def stream(self, step: NodeInput) -> StepStream:
        """Do the same for a step that streams."""
        return self._runtime.stream(self.fill(step))

    async def explain(self, step: NodeInput) -> Explanation:
        """Return what would happen to a step."""
        return await self._runtime.explain(self.fill(step))

    @overload
    def govern(self, function: F, /, **options: Any) -> F: ...
    @overload
    def govern(self, function: None = None, /, **options: Any) -> Callable[[F], F]: ...
    def govern(self, function: F | None = None, /, **options: Any) -> F | Callable[[F], F]:
        """Wrap a callable so that each call is a step; usable as a decorator, with fields of NodeInput as options."""

        def wrap(wrapped: F) -> F:
            return govern(self, wrapped, NodeInput(**{"node_id": getattr(wrapped, "__name__", "step"), **options}))

        return wrap if function is None else wrap(function)

    def fill(self, step: NodeInput) -> NodeInput:
        """Return the step with the shared fields where it has none of its own."""
        missing = {name: value for name, value in self._shared.items() if getattr(step, name) == _FIELDS[name]}
        return replace(step, **missing)
