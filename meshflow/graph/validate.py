"""Refuse a graph that cannot run, and warn of nodes that nothing leads to."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from meshflow.graph.errors import InvalidGraphError, UnreachableNodeWarning, did_you_mean
from meshflow.graph.markers import END, START

if TYPE_CHECKING:
    from meshflow.graph.builder import StateGraph


def validate(graph: StateGraph, channels: Mapping[str, Any], breakpoints: Sequence[str], *, governed: bool) -> None:
    """Raise InvalidGraphError, naming the node at fault; warn of nodes that are never reached."""
    for name in graph.nodes:
        if name in channels:
            raise InvalidGraphError(f"node {name!r} has the name of a key of the state; rename one of them", name)
    for source, target in _arrows(graph):
        _check_source(graph, source)
        _check_target(graph, source, target)
    if not any(source == START for source, _ in graph.edges) and not graph.routers.get(START):
        raise InvalidGraphError("the graph has no entry; call set_entry_point(name) or add_edge(START, name)")
    for name in breakpoints:
        if name != "*" and name not in graph.nodes:
            raise InvalidGraphError(
                f"interrupt_before or interrupt_after names {name!r}, which is no "
                f"node{did_you_mean(name, graph.nodes)}",
                name,
            )
    for node in graph.nodes.values():
        if node.timeout_s is not None and not governed and not node.is_async and not node.is_graph:
            raise InvalidGraphError(
                f"node {node.name!r} has timeout_s and is no coroutine function: a thread cannot be interrupted; make "
                "it async, or compile with a runtime, whose executor leaves it behind",
                node.name,
            )
    _warn_of_unreached(graph)


def _arrows(graph: StateGraph) -> Iterator[tuple[str, str | None]]:
    yield from graph.edges
    for sources, target in graph.joins:
        for source in sources:
            if source == START:
                raise InvalidGraphError(f"the join to {target!r} waits for START, which no node is", target)
            yield source, target
    for source, routers in graph.routers.items():
        yield source, None
        for router in routers:
            for target in (router.ends or {}).values():
                yield source, target
    for node in graph.nodes.values():
        for target in node.destinations or ():
            yield node.name, target


def _check_source(graph: StateGraph, source: str) -> None:
    if source == END:
        raise InvalidGraphError("an edge begins at END, where nothing comes after", END)
    if source != START and source not in graph.nodes:
        raise InvalidGraphError(
            f"an edge begins at {source!r}, which is no node{did_you_mean(source, graph.nodes)}", source
        )


def _check_target(graph: StateGraph, source: str, target: str | None) -> None:
    if target == START:
        raise InvalidGraphError(f"an edge from {source!r} ends at START, where nothing comes before", source)
    if target is not None and target != END and target not in graph.nodes:
        raise InvalidGraphError(
            f"what follows {source!r} is {target!r}, which is no node{did_you_mean(str(target), graph.nodes)}",
            str(target),
        )


def _warn_of_unreached(graph: StateGraph) -> None:
    """Warn of each node that no edge, router or declared destination leads to from the start.

    A router without a path_map may go anywhere, so where one is reached nothing is known to be out of reach.
    """
    onward: dict[str, set[str]] = {}
    for source, target in _arrows(graph):
        if target is not None:
            onward.setdefault(source, set()).add(target)
    reached, waiting = {START}, [START]
    while waiting:
        source = waiting.pop()
        if any(router.ends is None for router in graph.routers.get(source, ())):
            return
        for target in onward.get(source, set()) - reached:
            reached.add(target)
            waiting.append(target)
    for name in graph.nodes:
        if name not in reached:
            warnings.warn(
                f"nothing leads to node {name!r}; if a Command goes there, say so with destinations=[{name!r}] where "
                "it comes from",
                UnreachableNodeWarning,
                stacklevel=4,
            )
