"""Graphs: a superstep beside LangGraph's, whether state and width grow its cost, what governing adds to bare steps."""

from __future__ import annotations

import operator
import threading
import tracemalloc
from collections.abc import Callable
from itertools import count as counter
from typing import Annotated, Any, TypedDict

import langgraph.checkpoint.memory
import langgraph.graph
import langgraph.types

from benchmarks.durable import completed, governed
from benchmarks.harness import Row, at_most, beside, folder, in_turn
from meshflow import END, START, NodeInput, Send, StateGraph, StepRuntime, add
from meshflow.checkpoint import MemoryCheckpoints, SqliteCheckpoints

LEAST_PER_S = 30_000
CHAIN = 20
"""Governed steps of one run, so that what a run costs is spread over as many as a small agent takes."""


class Counting(TypedDict):
    messages: list[Any]
    count: int


class Growing(TypedDict):
    messages: Annotated[list[Any], add]
    count: int


class Gathering(TypedDict):
    found: Annotated[list[int], operator.add]
    layer: int


def counter_graph(library: Any, limit: int, state: Any = Counting, **compiled_with: Any) -> Any:
    """Return the counter of the core API, which goes on until ``limit``."""

    def step_a(state: Any) -> Any:
        return {"count": state["count"] + 1}

    def growing_step(state: Any) -> Any:
        return {"count": state["count"] + 1, "messages": ["one more"]}

    def route(state: Any) -> str:
        return "done" if state["count"] >= limit else "step_a"

    graph = library(state).add_node("step_a", growing_step if state is Growing else step_a)
    graph.add_conditional_edges("step_a", route, {"done": END, "step_a": "step_a"})
    graph.set_entry_point("step_a")
    return graph.compile(**compiled_with)


def chain_graph(length: int, **compiled_with: Any) -> Any:
    """Return nodes in a row."""
    graph = StateGraph(Counting).add_edge(START, "n0")
    for number in range(length):
        graph.add_node(f"n{number}", plus_one)
    for number in range(length - 1):
        graph.add_edge(f"n{number}", f"n{number + 1}")
    return graph.compile(**compiled_with)


async def plus_one(state: Any) -> Any:
    """Stand for a node."""
    return {"count": state["count"] + 1}


def fan_graph(library: Any, send: Any, layers: int, width: int) -> Any:
    """Return a graph that sends to ``width`` nodes and gathers what they found, ``layers`` times."""

    async def work(number: int) -> Any:
        return {"found": [number]}

    async def gather(state: Any) -> Any:
        return {"layer": state["layer"] + 1}

    async def spread(state: Any) -> Any:
        return END if state["layer"] == layers else [send("work", number) for number in range(width)]

    graph = library(Gathering).add_node("work", work).add_node("gather", gather)
    graph.add_conditional_edges("gather", spread, ["work", END])
    graph.add_edge(START, "gather")
    graph.add_edge("work", "gather")
    return graph.compile()


async def rows(quick: bool) -> list[Row]:
    """Measure all of it."""
    return [*await supersteps(quick), *await kept(quick), *await wide(quick), *await governed_chain(quick)]


async def supersteps(quick: bool) -> list[Row]:
    """Measure the counter, small and with a large state, beside LangGraph."""
    rounds, limit = (1, 20) if quick else (15, 1_000)
    ours, theirs = counter_graph(StateGraph, limit), counter_graph(langgraph.graph.StateGraph, limit)
    growing = counter_graph(StateGraph, limit, Growing)
    endless = {"recursion_limit": limit + 10}

    def turn(graph: Any, messages: int) -> Callable[[], Any]:
        async def run() -> None:
            done = graph.invoke({"messages": ["m"] * messages, "count": 0}, endless)
            if done["count"] != limit:
                raise RuntimeError("the counter did not count")

        return run

    contestants = {
        "ours": turn(ours, 10), "theirs": turn(theirs, 10), "large": turn(ours, 10_000),
        "growing": turn(growing, 10), "growing large": turn(growing, 10_000),
    }  # fmt: skip
    spent = await in_turn(rounds, contestants, limit)
    us = {name: one.cpu * 1e6 for name, one in spent.items()}
    return [
        at_most(f"graph: superstep of the counter, {limit:,} of them: CPU", us["ours"], "us", 1e6 / LEAST_PER_S),
        at_most("graph: the same", us["ours"], "us", 0.1, baseline=us["theirs"], baseline_is="langgraph"),
        at_most(
            "graph: superstep with 10,000 elements in the state: CPU", us["large"], "us", 1.15,
            baseline=us["ours"], baseline_is="with 10",
        ),
        at_most(
            "graph: superstep that adds to a list of 10,000: CPU", us["growing large"], "us", 1.15,
            baseline=us["growing"], baseline_is="to one of 10",
        ),
    ]  # fmt: skip


async def kept(quick: bool) -> list[Row]:
    """Measure the counter with checkpoints."""
    rounds, limit = (1, 10) if quick else (7, 200)
    names = counter()
    memory = counter_graph(StateGraph, limit, checkpointer=MemoryCheckpoints())
    theirs = counter_graph(langgraph.graph.StateGraph, limit, checkpointer=langgraph.checkpoint.memory.InMemorySaver())

    def turn(graph: Any) -> Callable[[], Any]:
        async def run() -> None:
            thread = {"configurable": {"thread_id": str(next(names))}}
            graph.invoke({"messages": [], "count": 0}, thread)

        return run

    with folder() as path:
        store = SqliteCheckpoints(path / "checkpoints.db")
        contestants = {
            "memory": turn(memory), "theirs": turn(theirs),
            "sqlite": turn(counter_graph(StateGraph, limit, checkpointer=store)),
        }  # fmt: skip
        spent = await in_turn(rounds, contestants, limit)
        store.close()
    us = {name: one.cpu * 1e6 for name, one in spent.items()}
    return [
        beside("graph: superstep kept in memory: CPU", us["memory"], "us", us["theirs"], "langgraph's InMemorySaver"),
        Row("graph: superstep kept in SQLite, synced to disk: wall", spent["sqlite"].wall * 1e6, "us"),
    ]


async def wide(quick: bool) -> list[Row]:
    """Measure fan-out and fan-in, and long graphs: per node, beside a small one."""
    rounds, large, small = (1, 6, 2) if quick else (7, 100, 10)
    graphs = {size: fan_graph(StateGraph, Send, size, size) for size in (large, small)}
    theirs = fan_graph(langgraph.graph.StateGraph, langgraph.types.Send, large, large)
    lengths = (30, 10) if quick else (1_000, 100)
    chains = {length: chain_graph(length) for length in lengths}

    def fan(graph: Any, size: int, times: int = 1) -> Callable[[], Any]:
        async def run() -> None:
            for _ in range(times):
                done = await graph.ainvoke({"layer": 0}, {"recursion_limit": 10 * size})
                if len(done["found"]) != size * (size - 1):
                    raise RuntimeError("a node is missing")

        return run

    def row(length: int, times: int) -> Callable[[], Any]:
        async def run() -> None:
            for _ in range(times):
                await chains[length].ainvoke({"messages": [], "count": 0})

        return run

    times = (large * (large - 1)) // (small * (small - 1))
    threads = threading.active_count()
    nodes = large * (large - 1)
    contestants = {
        "large": fan(graphs[large], large), "small": fan(graphs[small], small, times), "theirs": fan(theirs, large)
    }  # fmt: skip
    spent = await in_turn(rounds, contestants, nodes)
    threads = threading.active_count() - threads
    long = await in_turn(
        rounds, {"long": row(lengths[0], 1), "short": row(lengths[1], lengths[0] // lengths[1])}, lengths[0]
    )
    us = {name: one.cpu * 1e6 for name, one in (spent | long).items()}
    peaks = {size: await peak_per_node(fan(graphs[size], size), size * (size - 1)) for size in (large, small)}
    return [
        at_most(
            f"graph: node of a {large} x {large} fan-out and fan-in: CPU", us["large"], "us", 1.3,
            baseline=us["small"], baseline_is=f"of {small} x {small}",
        ),
        beside("graph: the same", us["large"], "us", us["theirs"], "langgraph"),
        at_most("graph: memory at its peak, per node of it", peaks[large], "bytes", 1.3,
                baseline=peaks[small], baseline_is=f"of {small} x {small}"),
        at_most("graph: threads that a run adds", threads, "threads", 0),
        at_most(
            f"graph: node of {lengths[0]:,} in a row: CPU", us["long"], "us", 1.2,
            baseline=us["short"], baseline_is=f"of {lengths[1]} in a row",
        ),
    ]  # fmt: skip


async def peak_per_node(run: Callable[[], Any], nodes: int) -> float:
    """Return how much memory a run takes at its peak, by node."""
    await run()
    tracemalloc.start()
    await run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / nodes


async def governed_chain(quick: bool) -> list[Row]:
    """Measure the default governed runtime with a durable ledger, beside the same steps handed to it one by one."""
    rounds, times = (1, 1) if quick else (15, 5)
    with folder() as path:
        runtimes = [governed(path / "graph.db"), governed(path / "bare.db")]
        for runtime in runtimes:
            await runtime.start()
        graph = chain_graph(CHAIN, runtime=runtimes[0])
        names = counter()

        async def through_the_graph() -> None:
            for _ in range(times):
                await graph.ainvoke({"messages": [], "count": 0}, run_id=f"graph-{next(names)}")

        async def bare() -> None:
            for _ in range(times):
                await bare_steps(runtimes[1], f"bare-{next(names)}")

        spent = await in_turn(rounds, {"graph": through_the_graph, "bare": bare}, times * CHAIN)
        for runtime in runtimes:
            await runtime.aclose()
    wall = {name: one.wall * 1e6 for name, one in spent.items()}
    us = {name: one.cpu * 1e6 for name, one in spent.items()}
    return [
        at_most("graph: governed node, default runtime, ledger on disk: wall", wall["graph"], "us", 1.3,
                baseline=wall["bare"], baseline_is="the same steps, bare"),
        at_most("graph: governed node, default runtime, ledger on disk: CPU", us["graph"], "us", 1.3,
                baseline=us["bare"], baseline_is="the same steps, bare"),
    ]  # fmt: skip


async def bare_steps(runtime: StepRuntime, run_id: str) -> None:
    """Run what the chain's nodes run, without a graph."""
    state: dict[str, Any] = {"messages": [], "count": 0}
    for number in range(CHAIN):
        step = NodeInput(
            node_id=f"n{number}", input=dict(state), handler=plus_one, run_id=run_id, step_id=f"{number:04d}-n{number}"
        )
        outcome = await runtime.run(step)
        completed(outcome)
        state |= outcome.output
