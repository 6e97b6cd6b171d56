"""What stage 12 runs for a node or router of a graph, and what the gates see of its input."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meshflow.errors import ContractError
from meshflow.graph.copying import copied
from meshflow.graph.errors import GraphInterrupt, ParentCommand
from meshflow.graph.provenance import join, labels_from_plain
from meshflow.graph.shape import Shape
from meshflow.step import Metered

if TYPE_CHECKING:
    from meshflow.graph.task import Task


def handler_of(task: Task, shape: Shape, kind: str, cached: Any) -> Any:
    """Return what stage 12 runs: the node's function on the input as the gates left it."""
    node = task.node
    if kind == "subgraph":
        return as_given
    if cached is not None:
        return lambda _: copied(cached[0])

    def make(plain: Any) -> Any:
        return node.schema.make(**plain) if node.schema.make is not None and task.index is None else plain

    def ended(value: Any) -> Any:
        plain = shape.with_events(shape.node_result(task, value), task.held)
        inner = labels_from_plain(task.saved.pop("inner", None))
        if inner is None:
            return plain
        if isinstance(plain, Metered):
            return replace(plain, labels=inner if plain.labels is None else join(plain.labels, inner))
        return Metered(plain, labels=inner)

    if node.is_async:

        async def awaiting(plain: Any) -> Any:
            try:
                return ended(await node.function(make(plain), **task.injected(node.wants)))
            except GraphInterrupt as stop:
                return shape.with_events(shape.questions(stop), task.held)
            except ParentCommand as from_below:
                return ended(replace(from_below.command, graph=None))

        return awaiting

    def calling(plain: Any) -> Any:
        try:
            value = node.function(make(plain), **task.injected(node.wants))
            if asyncio.iscoroutine(value):
                value.close()
                raise ContractError(f"node {node.name!r} is no coroutine function, and returned a coroutine")
            return ended(value)
        except GraphInterrupt as stop:
            return shape.with_events(shape.questions(stop), task.held)
        except ParentCommand as from_below:
            return ended(replace(from_below.command, graph=None))

    return calling


def noting(shape: Shape, handler: Any) -> Any:
    """Return the handler so that what it raises is noted: the kernel tells of it in words only."""
    if asyncio.iscoroutinefunction(handler):

        async def awaiting(plain: Any) -> Any:
            try:
                return await handler(plain)
            except Exception as error:
                shape.error = error
                raise

        return awaiting

    def calling(plain: Any) -> Any:
        try:
            return handler(plain)
        except Exception as error:
            shape.error = error
            raise

    return calling


async def as_given(given: Any) -> Any:
    return given


def state_of(task: Task) -> Any:
    """Return a node's input as plain values, its own unless it runs alone."""
    own = not task.alone or bool(task.node.retry)
    if task.index is not None:
        return copied(task.arg) if own else task.arg
    values = task.run.values
    given = {key: values[key] for key in task.node.schema.keys if key in values}
    return copied(given) if own else given


def plain_of(given: Any, keys: Any) -> Any:
    return dict(given.items()) if isinstance(given, Mapping) else {key: getattr(given, key) for key in keys}
