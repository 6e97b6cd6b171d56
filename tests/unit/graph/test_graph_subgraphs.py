"""Graphs within graphs: shared keys, questions, breakpoints, commands to the parent, streams."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypedDict

import pytest

from meshflow.graph.builder import StateGraph
from meshflow.graph.compiled import CompiledGraph
from meshflow.graph.errors import RouteError
from meshflow.graph.markers import END, START, Command
from meshflow.graph.reducers import add
from meshflow.graph.task import get_stream_writer, interrupt


class Outer(TypedDict):
    log: Annotated[list[str], add]
    shared: int


class Inner(TypedDict):
    shared: int
    own: list[str]


def inner(*steps: Any) -> CompiledGraph:
    names = [f"i{index}" for index, _ in enumerate(steps)]
    return StateGraph(Inner).add_sequence(list(zip(names, steps, strict=True))).set_entry_point("i0").compile()


def double(state: Inner) -> dict[str, Any]:
    return {"shared": state["shared"] * 2, "own": ["kept inside"]}


def test_graph_is_a_node_and_shares_the_keys_that_both_have() -> None:
    outer = StateGraph(Outer).add_node("sub", inner(double, double)).add_edge(START, "sub").compile()
    assert outer.invoke({"shared": 3}) == {"log": [], "shared": 12}
    assert asyncio.run(outer.ainvoke({"shared": 3})) == {"log": [], "shared": 12}


def test_graph_may_be_called_by_a_node_with_a_state_of_its_own() -> None:
    sub = inner(double)

    def calling(state: Outer) -> dict[str, Any]:
        return {"log": [str(sub.invoke({"shared": state["shared"]})["shared"])]}

    async def awaiting(state: Outer) -> dict[str, Any]:
        return {"log": [str((await sub.ainvoke({"shared": state["shared"]}))["shared"])]}

    for node in (calling, awaiting):
        outer = StateGraph(Outer).add_node("call", node).add_edge(START, "call").compile()
        assert outer.invoke({"shared": 5})["log"] == ["10"]
        outer.close()


def asking(state: Inner) -> dict[str, Any]:
    return {"shared": interrupt("how many?")}


ran: list[str] = []


def noting(state: Inner) -> dict[str, Any]:
    ran.append("noting")
    return {}


@pytest.mark.parametrize("called", [False, True])
def test_question_inside_a_subgraph_pauses_the_whole_and_what_had_finished_is_not_repeated(
    store: Any, called: bool
) -> None:
    ran.clear()
    sub = inner(noting, asking, double)

    def calling(state: Outer) -> dict[str, Any]:
        return {"shared": sub.invoke({"shared": state["shared"]})["shared"]}

    node = calling if called else sub
    outer = StateGraph(Outer).add_node("sub", node).add_edge(START, "sub").compile(store)
    (asked,) = outer.invoke({"shared": 1}, thread_id="t")["__interrupt__"]
    assert asked.value == "how many?"
    assert outer.get_state(thread_id="t").interrupts == (asked,)
    assert outer.invoke(Command(resume=21), thread_id="t")["shared"] == 42
    assert ran == ["noting"]


def test_breakpoint_inside_a_subgraph_pauses_the_whole(store: Any) -> None:
    sub = StateGraph(Inner).add_node("a", double).add_node("b", double).add_edge(START, "a").add_edge("a", "b")
    outer = StateGraph(Outer).add_node("sub", sub.compile(interrupt_before=["b"])).add_edge(START, "sub").compile(store)
    assert outer.invoke({"shared": 1}, thread_id="t") == {"log": [], "shared": 1}
    assert outer.get_state(thread_id="t").next == ("sub",)
    assert outer.invoke(None, thread_id="t")["shared"] == 4


def test_command_to_the_parent_updates_and_routes_the_outer_graph() -> None:
    def leaving(state: Inner) -> Command[Any]:
        return Command(graph=Command.PARENT, update={"log": ["from below"]}, goto="other")

    outer = StateGraph(Outer).add_node("sub", inner(leaving), destinations=["other"])
    outer.add_node("other", lambda state: {"log": ["other"]}).add_edge(START, "sub").add_edge("other", END)
    assert outer.compile().invoke({"shared": 1})["log"] == ["from below", "other"]
    with pytest.raises(RouteError, match="around this one"):
        inner(leaving).invoke({"shared": 1})


def test_stream_of_subgraphs_names_where_each_event_is_from() -> None:
    def telling(state: Inner) -> dict[str, Any]:
        get_stream_writer()("told")
        return {"shared": 9}

    outer = StateGraph(Outer).add_node("sub", inner(telling)).add_edge(START, "sub").compile()
    assert list(outer.stream({"shared": 1})) == [{"sub": {"shared": 9}}]
    events = list(outer.stream({"shared": 1}, stream_mode=["updates", "custom"], subgraphs=True))
    assert [(len(place), mode, data) for place, mode, data in events] == [
        (1, "custom", "told"),
        (1, "updates", {"i0": {"shared": 9}}),
        (0, "updates", {"sub": {"shared": 9}}),
    ]
    assert events[0][0][0].startswith("sub:")
    assert list(outer.stream({"shared": 1}, stream_mode="custom")) == ["told"]


def test_graph_that_calls_itself_deeply_and_widely_never_waits_for_a_worker() -> None:
    class Tree(TypedDict):
        depth: int
        leaves: Annotated[int, add]

    def grow(state: Tree) -> dict[str, Any]:
        if state["depth"] == 0:
            return {"leaves": 1}
        return {"leaves": compiled.invoke({"depth": state["depth"] - 1})["leaves"]}

    graph = StateGraph(Tree)
    for name in ("a", "b", "c"):
        graph.add_node(name, grow).add_edge(START, name)
    compiled = graph.compile()
    assert compiled.invoke({"depth": 5})["leaves"] == 3**6
