"""Programs that run on LangGraph and on meshflow, and what can be seen of them there."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired, TypedDict

import pytest

pytest.importorskip("langgraph")

import langgraph.cache.memory
import langgraph.checkpoint.memory
import langgraph.config
import langgraph.graph
import langgraph.types

import meshflow
from meshflow.checkpoint.memory import MemoryCheckpoints
from meshflow.graph.task import get_stream_writer

END, START = meshflow.END, meshflow.START


class Ours:
    """Meshflow's names."""

    name = "meshflow"
    StateGraph, Send, Command, Overwrite = meshflow.StateGraph, meshflow.Send, meshflow.Command, meshflow.Overwrite
    interrupt, writer = staticmethod(meshflow.interrupt), staticmethod(get_stream_writer)
    checkpointer = MemoryCheckpoints

    @staticmethod
    def retry(attempts: int, on: type[Exception]) -> dict[str, Any]:
        return {"retry": meshflow.RetryPolicy(max_attempts=attempts, initial_interval_s=0.001, retry_on=on)}

    @staticmethod
    def cache() -> tuple[dict[str, Any], dict[str, Any]]:
        return {"cache": meshflow.CachePolicy()}, {}


class Theirs:
    """LangGraph's names."""

    name = "langgraph"
    StateGraph, Send = langgraph.graph.StateGraph, langgraph.types.Send
    Command, Overwrite = langgraph.types.Command, langgraph.types.Overwrite
    interrupt, writer = staticmethod(langgraph.types.interrupt), staticmethod(langgraph.config.get_stream_writer)
    checkpointer = langgraph.checkpoint.memory.InMemorySaver

    @staticmethod
    def retry(attempts: int, on: type[Exception]) -> dict[str, Any]:
        policy = langgraph.types.RetryPolicy(max_attempts=attempts, initial_interval=0.001, retry_on=on)
        return {"retry_policy": policy}

    @staticmethod
    def cache() -> tuple[dict[str, Any], dict[str, Any]]:
        return {"cache_policy": langgraph.types.CachePolicy()}, {"cache": langgraph.cache.memory.InMemoryCache()}


Lib = Any
LIBS: tuple[Lib, ...] = (Theirs, Ours)


class State(TypedDict):
    log: Annotated[list[str], operator.add]
    n: int
    note: NotRequired[str]


@dataclass
class Program:
    """How to build a graph, and what to do with it: dicts are inputs, the rest as ``Session.act`` reads it."""

    build: Callable[[Lib], Any]
    acts: Sequence[Any] = ({"n": 0},)
    kept: bool = False
    parallel: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    needs_loop: bool = False
    unordered: bool = False


class Programs(dict[str, Program]):
    """Programs by the names of the functions that build their graphs."""

    def __call__(self, **settings: Any) -> Callable[[Callable[[Lib], Any]], Callable[[Lib], Any]]:
        """Make a program of a function."""

        def add(build: Callable[[Lib], Any]) -> Callable[[Lib], Any]:
            self[build.__name__] = Program(build, **settings)
            return build

        return add


def say(word: str) -> Callable[[Any], dict[str, Any]]:
    return lambda state: {"log": [word]}


def count(state: Any) -> dict[str, Any]:
    return {"n": state["n"] + 1, "log": [str(state["n"])]}


def nodes(lib: Lib, *names: str, **more: Any) -> Any:
    graph = lib.StateGraph(State)
    for name in names:
        graph.add_node(name, say(name))
    for name, function in more.items():
        graph.add_node(name, function)
    return graph


def edges(graph: Any, *pairs: str) -> Any:
    """Add edges written as ``a>b``; ``.`` is START, ``!`` is END, and ``a+b>c`` a join."""
    places = {".": START, "!": END}
    for pair in pairs:
        source, target = pair.split(">")
        sources = [places.get(one, one) for one in source.split("+")]
        graph.add_edge(sources[0] if len(sources) == 1 else sources, places.get(target, target))
    return graph


def asking(lib: Lib, *questions: str) -> Callable[[Any], dict[str, Any]]:
    return lambda state: {"log": [str(lib.interrupt(question)) for question in questions]}


class Session:
    """One program on one library: does what the program says, and notes all that can be seen of it."""

    def __init__(self, chosen: Program, lib: Lib) -> None:
        self.lib = lib
        self.program = chosen
        graph = chosen.build(lib)
        options = {**chosen.options, "checkpointer": lib.checkpointer()} if chosen.kept else chosen.options
        self.graph = graph.compile(**options) if hasattr(graph, "compile") else graph
        self.config = {**chosen.config, **({"configurable": {"thread_id": "t"}} if chosen.kept else {})}
        self.asked: dict[str, str] = {}

    async def run(self) -> list[Any]:
        seen: list[Any] = []
        for act in self.program.acts:
            seen.append(await self.act(act))
            if self.program.kept:
                state = await asyncio.to_thread(self.graph.get_state, self.config)
                seen.append((state.values, sorted(state.next)))
        return seen

    async def act(self, act: Any) -> Any:
        config = self.config
        if not isinstance(act, tuple):
            return await self.stream(act, config)
        match act:
            case ("resume", dict(answers), *_):
                by_id = {self.asked[question]: answer for question, answer in answers.items()}
                return await self.stream(self.lib.Command(resume=by_id), config)
            case ("resume", answer, *update):
                return await self.stream(self.lib.Command(resume=answer, update=update[0] if update else None), config)
            case ("command", fields):
                return await self.stream(self.lib.Command(**fields(self.lib)), config)
            case ("none",):
                return await self.stream(None, config)
            case ("update", values, as_node):
                self.graph.update_state(config, values, as_node=as_node)
                return None
            case ("past", node, *change):
                past = self.past(node)
                if change:
                    past = self.graph.update_state(past, change[0], as_node=change[1])
                return await self.stream(None, past)
            case ("past input", node, given):
                return await self.stream(given, self.past(node))
            case ("history",):
                return [(one.values, one.next) for one in self.graph.get_state_history(config) if self.counts(one)]
        raise AssertionError(act)

    def past(self, node: str) -> Any:
        return next(one for one in self.graph.get_state_history(self.config) if one.next == (node,)).config

    @staticmethod
    def counts(state: Any) -> bool:
        """Leave out the checkpoint that LangGraph has before each input."""
        return bool(state.next != ("__start__",))

    async def stream(self, given: Any, config: Any) -> Any:
        modes = ["values", "updates", "custom", "tasks", "checkpoints", "debug"]
        events: list[Any] = []
        try:
            if self.program.needs_loop:
                stream = self.graph.astream(given, config, stream_mode=modes, subgraphs=True)
                events.extend([one async for one in stream])
            else:
                events.extend(self.graph.stream(given, config, stream_mode=modes, subgraphs=True))
        except Exception as error:
            name = type(error).__name__
            return "raised", name, str(error) if name in ("LookupError", "ConnectionError") else ""
        return self.shown(events)

    def shown(self, events: list[Any]) -> Any:
        """Return events by graph and mode, in order; of a parallel program as bags, since they come as nodes end."""
        by_mode: dict[tuple[str, str], list[Any]] = {}
        for namespace, mode, data in events:
            where = "/".join(part.partition(":")[0] for part in namespace)
            show = {"debug": self.debug, "tasks": self.task, "checkpoints": self.checkpoint}.get(mode, self.plain)
            shown = show(data)
            if shown is not None:
                by_mode.setdefault((where, mode), []).append(shown)
        if self.program.parallel:
            for (_, mode), seen in by_mode.items():
                if mode == "values":
                    seen[:] = [one for one in seen if "__interrupt__" not in one]
                if mode != "values" or self.program.unordered:
                    seen.sort(key=repr)
        return {key: seen for key, seen in sorted(by_mode.items()) if seen}

    def plain(self, data: Any) -> Any:
        if isinstance(data, self.lib.Overwrite):
            return "overwritten by", data.value
        if not isinstance(data, dict):
            return data
        shown = {key: self.plain(value) for key, value in data.items()}
        if "__interrupt__" in shown:
            self.asked |= {str(one.value): one.id for one in shown["__interrupt__"]}
            shown["__interrupt__"] = sorted((one.value for one in shown["__interrupt__"]), key=repr)
        return shown

    def checkpoint(self, event: Any) -> Any:
        """Leave out the one that LangGraph has before each input, and how it came about."""
        return None if event["next"] == ["__start__"] else (event["values"], sorted(event["next"]))

    def debug(self, event: Any) -> Any:
        """Leave out steps of threads, which count the checkpoint that LangGraph has before each input."""
        if event["type"] == "checkpoint":
            return self.checkpoint(event["payload"])
        step = None if self.program.kept else event["step"]
        return step, event["type"], self.task(event["payload"])

    def task(self, event: Any) -> Any:
        """Leave out ids, triggers, and the words of errors."""
        shown = {"name": event["name"]}
        if "input" in event:
            return {**shown, "input": event["input"]}
        asked = [one["value"] if isinstance(one, dict) else one.value for one in event["interrupts"]]
        return {
            **shown,
            "result": self.plain(dict(event["result"])),
            "failed": event["error"] is not None,
            "asked": sorted(asked, key=repr),
        }


async def both(chosen: Program) -> tuple[Any, Any]:
    """Return what is seen of a program on LangGraph and on meshflow."""
    theirs, ours = [await Session(chosen, lib).run() for lib in LIBS]
    return theirs, ours
