"""Govern a callable in one line: its arguments become the step's input, its result the output."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from meshflow.step import NodeInput

if TYPE_CHECKING:
    from meshflow.kernel.session import Session

F = TypeVar("F", bound=Callable[..., Any])


def govern(session: Session, function: F, template: NodeInput) -> F:
    """Return a callable with the same signature whose every call is a governed step.

    Sync functions stay sync, coroutine functions stay coroutine functions, async generators stay async generators. A
    call that does not complete raises StepDeniedError, which carries the outcome.
    """
    signature = inspect.signature(function)

    def step_for(args: tuple[Any, ...], kwargs: dict[str, Any]) -> NodeInput:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return replace(template, input=dict(bound.arguments), handler=functools.partial(_call, function, signature))

    called: Any = function
    while isinstance(called, functools.partial):
        called = called.func
    if not inspect.isroutine(called):
        called = type(called).__call__
    if inspect.isgeneratorfunction(called):

        @functools.wraps(function)
        def generating(*args: Any, **kwargs: Any) -> Iterator[Any]:
            step = step_for(args, kwargs)
            yield from session.run_sync(
                replace(step, handler=lambda given: list(_call(function, signature, given)))
            ).unwrap()

        return cast(F, generating)
    if inspect.isasyncgenfunction(called):

        @functools.wraps(function)
        async def streaming(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            async with session.stream(step_for(args, kwargs)) as stream:
                async for part in stream:
                    yield part

        return cast(F, streaming)
    if inspect.iscoroutinefunction(called):

        @functools.wraps(function)
        async def awaiting(*args: Any, **kwargs: Any) -> Any:
            return (await session.run(step_for(args, kwargs))).unwrap()

        return cast(F, awaiting)

    @functools.wraps(function)
    def blocking(*args: Any, **kwargs: Any) -> Any:
        return session.run_sync(step_for(args, kwargs)).unwrap()

    return cast(F, blocking)


def _call(function: Callable[..., Any], signature: inspect.Signature, arguments: Mapping[str, Any]) -> Any:
    """Call the function with arguments as the gates left them."""
    bound = signature.bind_partial()
    bound.arguments.update(arguments)
    return function(*bound.args, **bound.kwargs)
