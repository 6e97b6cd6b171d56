"""StateGraph: say which nodes there are and how they follow one another."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from meshflow.graph.errors import InvalidGraphError
from meshflow.graph.markers import END, NODE_ARGUMENTS, RESERVED, START, STEP_ARGUMENTS, NodeOptions, check_options
from meshflow.graph.nodes import INJECTED, Join, Node, Router, is_async, is_generator
from meshflow.graph.policies import CachePolicy, RetryPolicy
from meshflow.graph.schema import Schema, first_parameter, injected, named_targets

if TYPE_CHECKING:
    from meshflow.graph.compiled import CompiledGraph
    from meshflow.kernel.runtime import StepRuntime


class StateGraph:
    """A graph whose nodes read a shared state and return what they change in it. Every method returns the graph.

    ``state`` is a TypedDict, a dataclass or a pydantic model; ``Annotated[T, reducer]`` says how values written to a
    key go together. ``input_schema`` and ``output_schema`` narrow what ``invoke`` takes and returns;
    ``context_schema`` is the class of what a run is given beside its state.
    """

    def __init__(
        self,
        state: Any,
        *,
        input_schema: Any = None,
        output_schema: Any = None,
        context_schema: Any = None,
    ) -> None:
        self._schemas: dict[Any, Schema] = {}
        self.state_schema = self._schema(state)
        self.input_schema = self._schema(input_schema) if input_schema is not None else self.state_schema
        self.output_schema = self._schema(output_schema) if output_schema is not None else self.state_schema
        self.context_schema = context_schema
        self.nodes: dict[str, Node] = {}
        self.edges: list[tuple[str, str]] = []
        self.joins: list[tuple[tuple[str, ...], str]] = []
        self.routers: dict[str, list[Router]] = {}

    def add_node(self, name: str | Callable[..., Any], function: Any = None, /, **options: Any) -> Self:
        """Add a node: a function of the state, sync or async, or a compiled graph; its name may be the function's own.

        Options: ``retry`` (a RetryPolicy or several), ``cache`` (a CachePolicy), ``timeout_s``, ``defer`` (run only
        when nothing else is left), ``destinations`` (nodes that its Commands go to), ``input_schema``, ``metadata``;
        and for governed runs fields of NodeInput: ``kind``, ``tool``, ``action``, ``agent_id``, ``estimate_usd``,
        ``estimate_tokens``, ``risk``, ``idempotent``, ``labels``.
        """
        if not isinstance(name, str):
            if function is not None:
                raise InvalidGraphError("add_node takes a name and a function, or a function alone")
            name, function = _own_name(name), name
        if function is None:
            raise InvalidGraphError(f"node {name!r} has no function; add_node({name!r}, function)", name)
        self._check_name(name)
        marked = getattr(function, "__meshflow_node__", None)
        check_options(options, f"add_node({name!r})")
        merged = {**(marked.given if isinstance(marked, NodeOptions) else {}), **options}
        self.nodes[name] = self._node(name, function, merged)
        return self

    def add_edge(self, source: str | Sequence[str], target: str) -> Self:
        """Let ``target`` follow ``source``. From several sources: once, when each of them has run."""
        if isinstance(source, str):
            self.edges.append((source, target))
        else:
            sources = tuple(source)
            if not sources:
                raise InvalidGraphError(f"the edge to {target!r} has no source", target)
            self.joins.append((sources, target))
        return self

    def add_conditional_edges(
        self,
        source: str,
        router: Callable[..., Any],
        path_map: Mapping[Hashable, str] | Sequence[str] | None = None,
    ) -> Self:
        """Let ``router``, a function of the state, say what follows ``source``: a node, a Send, END, or several.

        ``path_map`` maps its answers to nodes, or lists the nodes that it may answer with.
        """
        name = _own_name(router)
        known = self.routers.setdefault(source, [])
        if any(one.name == name for one in known):
            raise InvalidGraphError(f"node {source!r} has a router named {name!r} already", source)
        ends: Mapping[Hashable, str] | None
        if path_map is None:
            targets = named_targets(router)
            ends = {one: one for one in targets} if targets else None
        else:
            ends = dict(path_map) if isinstance(path_map, Mapping) else {one: one for one in path_map}
        kind = first_parameter(router)
        schema = self._schema(kind) if kind is not None else self.state_schema
        known.append(Router(name, router, schema, ends, injected(router, INJECTED), is_async(router)))
        return self

    def add_sequence(self, nodes: Sequence[Callable[..., Any] | tuple[str, Callable[..., Any]]]) -> Self:
        """Add nodes that follow one another."""
        if not nodes:
            raise InvalidGraphError("a sequence needs at least one node")
        names: list[str] = []
        for one in nodes:
            name, function = one if isinstance(one, tuple) else (_own_name(one), one)
            self.add_node(name, function)
            names.append(name)
        for source, target in itertools.pairwise(names):
            self.add_edge(source, target)
        return self

    def set_entry_point(self, name: str) -> Self:
        """Begin with this node."""
        return self.add_edge(START, name)

    def set_conditional_entry_point(
        self, router: Callable[..., Any], path_map: Mapping[Hashable, str] | Sequence[str] | None = None
    ) -> Self:
        """Let a router of the input say where to begin."""
        return self.add_conditional_edges(START, router, path_map)

    def set_finish_point(self, name: str) -> Self:
        """End after this node, if nothing else follows it."""
        return self.add_edge(name, END)

    def compile(
        self,
        checkpointer: Any = None,
        *,
        runtime: StepRuntime | None = None,
        interrupt_before: Sequence[str] | str = (),
        interrupt_after: Sequence[str] | str = (),
        name: str = "graph",
        types: Sequence[type] = (),
    ) -> CompiledGraph:
        """Check the graph and return one that runs.

        ``checkpointer`` keeps each superstep: a checkpoint store, or ``"memory"``, a path, or a ``postgresql://`` URL.
        With a ``runtime`` every node and router is a governed step. ``interrupt_before`` and ``interrupt_after`` name
        nodes (or ``"*"``) at which to pause. ``types`` names further classes that may be read back from checkpoints;
        those in the state's annotations may be anyway.

        Raises InvalidGraphError, a ValueError, for a graph that cannot run.
        """
        from meshflow.graph.compiled import CompiledGraph
        from meshflow.graph.validate import validate

        channels = {key: channel for schema in self._schemas.values() for key, channel in schema.channels.items()}
        channels.update(self.state_schema.channels)
        before = _names(interrupt_before)
        after = _names(interrupt_after)
        validate(self, channels, [*before, *after], governed=runtime is not None)
        return CompiledGraph(
            name=name,
            nodes=self._linked(set(channels)),
            start=self._start(),
            joins=tuple(Join(frozenset(sources), target) for sources, target in self.joins),
            channels=channels,
            schemas=(self.state_schema, self.input_schema, self.output_schema, tuple(self._schemas.values())),
            context_schema=self.context_schema,
            checkpointer=checkpointer,
            runtime=runtime,
            interrupt_before=before,
            interrupt_after=after,
            types=tuple(types),
        )

    def _schema(self, kind: Any) -> Schema:
        if kind not in self._schemas:
            self._schemas[kind] = Schema(kind)
        return self._schemas[kind]

    def _check_name(self, name: str) -> None:
        if not name:
            raise InvalidGraphError("a node needs a name")
        if name in RESERVED:
            raise InvalidGraphError(f"node name {name!r} is reserved", name)
        if any(one in name for one in "|:"):
            raise InvalidGraphError(f"node name {name!r} contains '|' or ':', which part the names of subgraphs", name)
        if name in self.nodes:
            raise InvalidGraphError(f"node {name!r} is there already", name)

    def _node(self, name: str, function: Any, options: Mapping[str, Any]) -> Node:
        from meshflow.graph.compiled import CompiledGraph

        is_graph = isinstance(function, CompiledGraph)
        if not is_graph and not callable(function):
            raise InvalidGraphError(f"node {name!r} is a {type(function).__name__}, not a function", name)
        if is_generator(function):
            raise InvalidGraphError(f"node {name!r} is a generator; take writer= and call it with each part", name)
        chosen = {key: value for key, value in options.items() if key in NODE_ARGUMENTS}
        kind = chosen.get("input_schema") or (None if is_graph else first_parameter(function))
        destinations = chosen.get("destinations") or (None if is_graph else named_targets(function))
        timeout_s = chosen.get("timeout_s")
        if timeout_s is not None and not timeout_s > 0:
            raise InvalidGraphError(f"node {name!r}: timeout_s is a number above 0, not {timeout_s!r}", name)
        return Node(
            name,
            function,
            self._schema(kind) if kind is not None else self.state_schema,
            wants=() if is_graph else injected(function, INJECTED),
            is_async=not is_graph and is_async(function),
            is_graph=is_graph,
            retry=_policies(name, chosen.get("retry")),
            cache=_checked(name, "cache", chosen.get("cache"), CachePolicy),
            timeout_s=timeout_s,
            defer=bool(chosen.get("defer")),
            destinations=tuple(destinations) if destinations else None,
            metadata=dict(chosen.get("metadata") or {}),
            step={key: value for key, value in options.items() if key in STEP_ARGUMENTS},
        )

    def _linked(self, keys: set[str]) -> dict[str, Node]:
        """Fill in what follows each node."""
        for node in self.nodes.values():
            targets = [target for source, target in self.edges if source == node.name and target != END]
            node.edges = tuple(dict.fromkeys(targets))
            node.routers = tuple(self.routers.get(node.name, ()))
            node.joins = tuple(index for index, (sources, _) in enumerate(self.joins) if node.name in sources)
            node.every_key = set(node.schema.keys) == keys
        return dict(self.nodes)

    def _start(self) -> Node:
        targets = [target for source, target in self.edges if source == START]
        return Node(
            START,
            None,
            self.state_schema,
            edges=tuple(dict.fromkeys(targets)),
            routers=tuple(self.routers.get(START, ())),
        )


def _own_name(function: Any) -> str:
    marked = getattr(function, "__meshflow_node__", None)
    if isinstance(marked, NodeOptions) and marked.name:
        return marked.name
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None) or getattr(function, "name", None) or type(function).__name__
    return str(name)


def _names(chosen: Sequence[str] | str) -> tuple[str, ...]:
    return (chosen,) if isinstance(chosen, str) else tuple(chosen)


def _policies(name: str, given: Any) -> tuple[RetryPolicy, ...]:
    if given is None:
        return ()
    several = (given,) if isinstance(given, RetryPolicy) else tuple(given)
    return tuple(_checked(name, "retry", one, RetryPolicy) for one in several)


def _checked(name: str, option: str, value: Any, kind: type) -> Any:
    if value is not None and not isinstance(value, kind):
        raise InvalidGraphError(f"node {name!r}: {option} takes a {kind.__name__}, not {value!r}", name)
    return value
