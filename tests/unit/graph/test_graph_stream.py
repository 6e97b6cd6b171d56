"""What stream yields, when, and what it costs the run if nobody reads on."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any, TypedDict

import pytest

from meshflow.graph.builder import StateGraph
from meshflow.graph.errors import InvalidRunError
from meshflow.graph.markers import END, START, Command, Send
from meshflow.graph.reducers import add
from meshflow.graph.task import get_stream_writer, interrupt


class State(TypedDict):
    log: Annotated[list[str], add]
    count: int


def counter(limit: int, ran: list[int] | None = None) -> StateGraph:
    def step(state: State) -> dict[str, Any]:
        if ran is not None:
            ran.append(state["count"])
        return {"count": state["count"] + 1}

    graph = StateGraph(State).add_node("a", step).add_edge(START, "a")
    return graph.add_conditional_edges("a", lambda state: END if state["count"] >= limit else "a", ["a", END])


def test_values_and_updates_and_both() -> None:
    graph = counter(2).compile()
    assert list(graph.stream({"count": 0})) == [{"a": {"count": 1}}, {"a": {"count": 2}}]
    assert [one["count"] for one in graph.stream({"count": 0}, stream_mode="values")] == [0, 1, 2]
    assert list(graph.stream({"count": 1}, stream_mode=["values", "updates"])) == [
        ("values", {"log": [], "count": 1}),
        ("updates", {"a": {"count": 2}}),
        ("values", {"log": [], "count": 2}),
    ]


def test_updates_of_nothing_and_of_a_key_written_twice() -> None:
    graph = StateGraph(State).add_node("a", lambda state: None)
    graph.add_node("b", lambda state: [Command(update={"log": ["1"]}), Command(update={"log": ["2"]})])
    compiled = graph.add_edge(START, "a").add_edge("a", "b").compile()
    assert list(compiled.stream({})) == [{"a": None}, {"b": [{"log": ["1"]}, {"log": ["2"]}]}]


def test_run_goes_no_further_than_it_is_read() -> None:
    ran: list[int] = []
    stream = counter(1_000, ran).compile().stream({"count": 0})
    next(stream)
    next(stream)
    assert len(ran) == 2
    stream.close()
    assert len(ran) == 2


async def test_asynchronous_run_goes_no_further_than_it_is_read() -> None:
    ran: list[int] = []
    stream = counter(1_000, ran).compile().astream({"count": 0})
    await anext(stream)
    await asyncio.sleep(0.02)
    assert len(ran) == 1
    await stream.aclose()


def test_custom_events_arrive_while_the_node_runs() -> None:
    def telling(state: State, writer: Any) -> dict[str, Any]:
        for number in range(3):
            writer(number)
            time.sleep(0.05)
        get_stream_writer()("last")
        return {}

    graph = StateGraph(State).add_node("a", telling).add_edge(START, "a").compile()
    arrived = [(event, time.perf_counter()) for event in graph.stream({}, stream_mode="custom")]
    assert [event for event, _ in arrived] == [0, 1, 2, "last"]
    assert arrived[-1][1] - arrived[0][1] > 0.08


async def test_custom_events_of_coroutines_and_plain_nodes_arrive_in_astream() -> None:
    async def telling(state: State) -> dict[str, Any]:
        writer = get_stream_writer()
        writer("one")
        await asyncio.sleep(0.01)
        writer("two")
        return {}

    def plain(state: State) -> dict[str, Any]:
        get_stream_writer()("three")
        return {}

    graph = StateGraph(State).add_node("a", telling).add_node("b", plain).add_edge(START, "a").add_edge("a", "b")
    events = [event async for event in graph.compile().astream({}, stream_mode=["custom", "updates"])]
    assert events == [
        ("custom", "one"),
        ("custom", "two"),
        ("updates", {"a": None}),
        ("custom", "three"),
        ("updates", {"b": None}),
    ]


def test_tasks_and_debug_show_beginnings_and_ends() -> None:
    graph = StateGraph(State).add_node("a", lambda state: {"count": 1}, metadata={"team": "x"}).add_edge(START, "a")
    compiled = graph.compile()
    begun, ended = compiled.stream({"count": 0}, stream_mode="tasks")
    assert (begun["name"], begun["input"], begun["metadata"]) == ("a", {"log": [], "count": 0}, {"team": "x"})
    assert (ended["id"], ended["result"], ended["error"]) == (begun["id"], {"count": 1}, None)
    assert [one["type"] for one in compiled.stream({}, stream_mode="debug")] == ["task", "task_result"]


def test_failure_is_shown_before_it_is_raised() -> None:
    def failing(state: State) -> dict[str, Any]:
        raise ValueError("no")

    stream = StateGraph(State).add_node("a", failing).add_edge(START, "a").compile().stream({}, stream_mode="tasks")
    assert next(stream)["name"] == "a"
    with pytest.raises(ValueError, match="no"):
        list(stream)


def test_checkpoints_and_questions_are_events(store: Any) -> None:
    graph = StateGraph(State).add_node("a", lambda state: {"count": interrupt("?")}).add_edge(START, "a")
    compiled = graph.compile(store)
    (event,) = compiled.stream({}, thread_id="t", stream_mode="checkpoints")
    assert (event["next"], event["metadata"]["source"]) == (["a"], "input")
    ((asked,),) = [one["__interrupt__"] for one in compiled.stream(None, thread_id="t")]
    assert asked.value == "?"
    values = list(compiled.stream(Command(resume=3), thread_id="t", stream_mode="values"))
    assert values[-1] == {"log": [], "count": 3}


def test_events_share_nothing_with_the_state() -> None:
    graph = StateGraph(State).add_node("a", lambda state: {"log": ["x"]}).add_node("b", lambda state: {"log": ["y"]})
    compiled = graph.add_edge(START, "a").add_edge("a", "b").compile()
    seen = []
    for mode, data in compiled.stream({"log": ["0"]}, stream_mode=["values", "updates"]):
        log = data["log"] if mode == "values" else next(iter(data.values()))["log"]
        log.append("meddled")
        seen.append((mode, log))
    assert seen[-1] == ("values", ["0", "x", "y", "meddled"])


def test_events_of_parallel_nodes_come_as_each_ends() -> None:
    def sleeping(given: float) -> dict[str, Any]:
        time.sleep(given)
        return {"log": [str(given)]}

    graph = StateGraph(State).add_node("w", sleeping)
    graph.add_conditional_edges(START, lambda state: [Send("w", 0.2), Send("w", 0.01)])
    assert list(graph.compile().stream({})) == [{"w": {"log": ["0.01"]}}, {"w": {"log": ["0.2"]}}]


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(InvalidRunError, match="'messages'"):
        list(counter(1).compile().stream({}, stream_mode="messages"))
