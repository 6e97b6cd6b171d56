"""A node and a router as the compiled graph holds them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from meshflow.graph.policies import CachePolicy, RetryPolicy
from meshflow.graph.schema import Schema

INJECTED = ("config", "writer", "run", "runtime", "context")


@dataclass(slots=True)
class Router:
    """A conditional edge: a function of the state that says where to go.

    ``ends`` maps its answers to nodes; None where its answers are the nodes' own names.
    """

    name: str
    function: Callable[..., Any]
    schema: Schema
    ends: Mapping[Hashable, str] | None = None
    wants: tuple[str, ...] = ()
    is_async: bool = False


@dataclass(slots=True)
class Node:
    """A node with everything that running it needs."""

    name: str
    function: Any
    schema: Schema
    every_key: bool = True
    wants: tuple[str, ...] = ()
    is_async: bool = False
    is_graph: bool = False
    retry: tuple[RetryPolicy, ...] = ()
    cache: CachePolicy | None = None
    timeout_s: float | None = None
    defer: bool = False
    destinations: tuple[str, ...] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    step: Mapping[str, Any] = field(default_factory=dict)
    edges: tuple[str, ...] = ()
    routers: tuple[Router, ...] = ()
    joins: tuple[int, ...] = ()

    def read(self, values: Mapping[str, Any]) -> Any:
        """Return the state as this node takes it."""
        return self.schema.read(values, every=self.every_key)


@dataclass(frozen=True, slots=True)
class Join:
    """An edge from several nodes: ``target`` runs once, when each of ``sources`` has run since it last did."""

    sources: frozenset[str]
    target: str


def is_async(function: Any) -> bool:
    """Return whether calling it gives a coroutine."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    return not inspect.isroutine(function) and inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def is_generator(function: Any) -> bool:
    """Return whether calling it gives a generator, which no node may be."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
