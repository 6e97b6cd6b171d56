"""What one run is given beside its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict

from meshflow.graph.errors import InvalidRunError, did_you_mean
from meshflow.ids import new_id

if TYPE_CHECKING:
    from meshflow.facts import TaintLabels
    from meshflow.graph.task import Task

RECURSION_LIMIT = 10_000
DURABILITIES = ("sync", "exit")


class RunOptions(TypedDict, total=False):
    """The keyword arguments of ``invoke``, ``ainvoke``, ``stream``, ``astream``, ``run`` and ``arun``."""

    thread_id: str
    checkpoint_id: str
    run_id: str
    recursion_limit: int
    context: Any
    interrupt_before: Sequence[str] | str
    interrupt_after: Sequence[str] | str
    durability: str
    tenant: str
    agent_id: str
    credential: str
    labels: TaintLabels
    metadata: Mapping[str, Any]


@dataclass(slots=True)
class Settings:
    """The options of one run, from keyword arguments and from a config as LangGraph takes it."""

    thread_id: str | None = None
    checkpoint_id: str | None = None
    run_id: str = ""
    recursion_limit: int = RECURSION_LIMIT
    context: Any = None
    interrupt_before: frozenset[str] = frozenset()
    interrupt_after: frozenset[str] = frozenset()
    durability: str = "sync"
    tenant: str | None = None
    agent_id: str = "local"
    credential: str | None = field(default=None, repr=False)
    labels: TaintLabels | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    configurable: Mapping[str, Any] = field(default_factory=dict)

    def config_for(self, task: Task) -> dict[str, Any]:
        """Return the config as a node sees it."""
        return {
            "configurable": {
                **self.configurable,
                "thread_id": self.thread_id,
                "checkpoint_ns": "|".join((*task.run.namespace, f"{task.node.name}:{task.id}")),
            },
            "recursion_limit": self.recursion_limit,
            "metadata": dict(self.metadata),
            "run_id": self.run_id,
        }

    def for_subgraph(self, graph: Any) -> Settings:
        """Return what a run of a subgraph is given: the same, and the subgraph's own breakpoints."""
        return replace(
            self,
            checkpoint_id=None,
            interrupt_before=_breakpoints(graph.interrupt_before, graph),
            interrupt_after=_breakpoints(graph.interrupt_after, graph),
        )


_SHARED = ("checkpoint_id", "run_id", "durability", "tenant", "agent_id", "credential", "labels")
_OWN = ("recursion_limit", "context", "interrupt_before", "interrupt_after", "metadata")
_KNOWN = tuple(RunOptions.__annotations__)
_CONFIG = ("configurable", "recursion_limit", "metadata", "run_id", "tags", "max_concurrency", "callbacks", "run_name")


def settings_from(config: Mapping[str, Any] | None, options: Mapping[str, Any], graph: Any) -> Settings:
    """Read a config and keyword arguments, which win; InvalidRunError for what nothing reads."""
    for name in options:
        if name not in _KNOWN:
            raise InvalidRunError(f"unknown argument {name!r}{did_you_mean(name, _KNOWN)}; there are {list(_KNOWN)}")
    config = config or {}
    for name in config:
        if name not in _CONFIG:
            raise InvalidRunError(
                f"unknown key {name!r} in config{did_you_mean(name, _CONFIG)}; there are {list(_CONFIG)}"
            )
    configurable = dict(config.get("configurable") or {})
    merged: dict[str, Any] = {
        name: configurable[name] for name in ("thread_id", "checkpoint_id", "tenant") if name in configurable
    }
    merged |= {name: config[name] for name in ("recursion_limit", "metadata", "run_id") if config.get(name) is not None}
    merged |= {name: value for name, value in options.items() if value is not None}
    thread_id = merged.get("thread_id")
    settings = Settings(
        thread_id=None if thread_id is None else str(thread_id),
        checkpoint_id=merged.get("checkpoint_id"),
        run_id=str(merged.get("run_id") or thread_id or new_id("run")),
        recursion_limit=_limit(merged.get("recursion_limit", RECURSION_LIMIT)),
        context=_context(merged.get("context"), graph.context_schema),
        interrupt_before=_breakpoints(merged.get("interrupt_before", graph.interrupt_before), graph),
        interrupt_after=_breakpoints(merged.get("interrupt_after", graph.interrupt_after), graph),
        durability=_durability(merged.get("durability", "sync")),
        tenant=merged.get("tenant"),
        agent_id=merged.get("agent_id", "local"),
        credential=merged.get("credential"),
        labels=merged.get("labels"),
        metadata=dict(merged.get("metadata") or {}),
        configurable=configurable,
    )
    return settings


def inside_of(outer: Settings, config: Mapping[str, Any] | None, options: Mapping[str, Any]) -> bool:
    """Return whether a graph that a node runs is part of the node's run: it is, unless it is given another thread."""
    thread_id = ((config or {}).get("configurable") or {}).get("thread_id")
    return "thread_id" not in options and (thread_id is None or str(thread_id) == outer.thread_id)


def settings_inside(
    outer: Settings, config: Mapping[str, Any] | None, options: Mapping[str, Any], graph: Any
) -> Settings:
    """Return what a graph is given that a node runs: the node's own, and what the call says of it."""
    inherited = outer.for_subgraph(graph)
    if not config and not options:
        return inherited
    said = _shared_in(config or {}, outer) | {name: value for name, value in options.items() if value is not None}
    for name in _SHARED:
        if name in said and said[name] != getattr(outer, name):
            raise InvalidRunError(
                f"a graph that a node runs shares the run's {name}, so {name}={said[name]!r} changes nothing; leave it "
                "out, or give a thread_id for a run of its own"
            )
    given = settings_from(config, options, graph)
    chosen = {
        name: getattr(given, name) for name in _OWN if name in said or (name in _CONFIG and name in (config or {}))
    }
    return replace(inherited, **chosen)


def _shared_in(config: Mapping[str, Any], outer: Settings) -> dict[str, Any]:
    """Return what a config says of the run around; what it has from the node's own config says nothing new."""
    configurable = config.get("configurable") or {}
    said = {name: configurable.get(name) for name in ("checkpoint_id", "tenant")}
    said = {name: value for name, value in said.items() if value not in (None, outer.configurable.get(name))}
    return said if config.get("run_id") is None else {**said, "run_id": str(config["run_id"])}


def _limit(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidRunError(f"recursion_limit counts supersteps from 1, not {value!r}")
    return value


def _durability(value: Any) -> str:
    if value == "async":  # LangGraph's default; ours keeps the promise that goes with "sync"
        return "sync"
    if value not in DURABILITIES:
        raise InvalidRunError(f"durability is one of {list(DURABILITIES)}, not {value!r}")
    return str(value)


def _breakpoints(names: Sequence[str] | str, graph: Any) -> frozenset[str]:
    chosen = frozenset((names,) if isinstance(names, str) else names)
    if "*" in chosen:
        return frozenset(graph.nodes)
    for name in chosen - set(graph.nodes):
        raise InvalidRunError(
            f"interrupt_before or interrupt_after names {name!r}, which is no node{did_you_mean(name, graph.nodes)}"
        )
    return chosen


def _context(given: Any, schema: Any) -> Any:
    if schema is not None and isinstance(given, Mapping) and hasattr(schema, "__dataclass_fields__"):
        return schema(**given)
    if schema is not None and isinstance(given, Mapping) and hasattr(schema, "model_validate"):
        return schema.model_validate(given)
    return given
