"""What a graph may look like, and which graphs are refused with the node named."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypedDict

import pytest

from meshflow.graph.builder import StateGraph
from meshflow.graph.errors import InvalidGraphError, UnreachableNodeWarning
from meshflow.graph.markers import END, START, Command, node
from meshflow.graph.reducers import add


class State(TypedDict):
    log: Annotated[list[str], add]
    count: int


def noop(state: State) -> dict[str, Any]:
    return {}


def graph(*names: str) -> StateGraph:
    built = StateGraph(State)
    for name in names:
        built.add_node(name, noop)
    return built


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no entry": (lambda: graph("a").compile(), "no entry"),
    "empty": (lambda: StateGraph(State).compile(), "no entry"),
    "unknown target": (lambda: graph("a").add_edge(START, "a").add_edge("a", "zz").compile(), "'zz'"),
    "unknown source": (lambda: graph("a").add_edge(START, "a").add_edge("zz", "a").compile(), "'zz'"),
    "unknown source of a join": (
        lambda: graph("a", "b").add_edge(START, "a").add_edge(["a", "zz"], "b").compile(),
        "'zz'",
    ),
    "unknown entry": (lambda: graph("a").set_entry_point("zz").compile(), "'zz'"),
    "edge from END": (lambda: graph("a").add_edge(START, "a").add_edge(END, "a").compile(), "END"),
    "edge to START": (lambda: graph("a").add_edge(START, "a").add_edge("a", START).compile(), "START"),
    "router at END": (
        lambda: graph("a").add_edge(START, "a").add_conditional_edges(END, lambda s: "a").compile(),
        "END",
    ),
    "router's target": (
        lambda: graph("a").add_edge(START, "a").add_conditional_edges("a", lambda s: "x", {"x": "zz"}).compile(),
        "'zz'",
    ),
    "declared destination": (
        lambda: StateGraph(State).add_node("a", noop, destinations=["zz"]).add_edge(START, "a").compile(),
        "'zz'",
    ),
    "duplicate node": (lambda: graph("a", "a"), "'a' is there already"),
    "reserved start": (lambda: graph(START), "reserved"),
    "reserved end": (lambda: graph(END), "reserved"),
    "empty name": (lambda: graph(""), "needs a name"),
    "bar in a name": (lambda: graph("a|b"), "'a|b'"),
    "colon in a name": (lambda: graph("a:b"), "'a:b'"),
    "named like a key": (lambda: graph("count").add_edge(START, "count").compile(), "'count'"),
    "router twice": (
        lambda: graph("a").add_conditional_edges("a", noop).add_conditional_edges("a", noop),
        "'noop'",
    ),
    "unknown breakpoint": (lambda: graph("a").add_edge(START, "a").compile(interrupt_before=["zz"]), "'zz'"),
    "not a function": (lambda: StateGraph(State).add_node("a", 3), "'a'"),
    "no function": (lambda: StateGraph(State).add_node("a"), "'a'"),
    "a generator": (lambda: StateGraph(State).add_node("a", generating), "'a'"),
    "unknown option": (lambda: StateGraph(State).add_node("a", noop, retries=3), "retries"),
    "a wrong policy": (lambda: StateGraph(State).add_node("a", noop, cache=True), "cache"),
    "a time-out of a plain function": (
        lambda: StateGraph(State).add_node("a", noop, timeout_s=1).add_edge(START, "a").compile(),
        "'a'",
    ),
    "a state without keys": (lambda: StateGraph(dict), "TypedDict"),
    "a reducer of one argument": (lambda: StateGraph(Wrong), "'key'"),
    "a join without sources": (lambda: graph("a").add_edge([], "a"), "'a'"),
}  # fmt: skip


def generating(state: State) -> Any:
    yield {}


class Wrong(TypedDict):
    key: Annotated[int, lambda one: one]


@pytest.mark.parametrize("case", REFUSED)
def test_graph_that_cannot_run_is_refused_and_says_why(case: str) -> None:
    build, names = REFUSED[case]
    with pytest.raises(InvalidGraphError) as error:
        build()
    assert names in str(error.value)


def test_refusal_is_a_value_error_as_in_langgraph_and_suggests_the_name_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'summarise'\?"):
        graph("summarise").add_edge(START, "sumarise").compile()


def test_node_that_nothing_leads_to_is_warned_of() -> None:
    with pytest.warns(UnreachableNodeWarning, match="'lost'"):
        graph("a", "lost").add_edge(START, "a").compile()


def test_node_behind_a_router_without_a_map_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph("a", "b").add_edge(START, "a").add_conditional_edges("a", lambda state: "b").compile()


def test_annotations_name_the_targets_of_routers_and_commands() -> None:
    def route(state: State) -> Literal["b", "__end__"]:
        return "b"

    def going(state: State) -> Command[Literal["c"]]:
        return Command(goto="c")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built = graph("a", "c").add_node("b", going).add_edge(START, "a").add_conditional_edges("a", route).compile()
    assert built.nodes["b"].destinations == ("c",)
    assert built.nodes["a"].routers[0].ends == {"b": "b", "__end__": "__end__"}


def test_every_method_is_chainable_and_a_node_may_bring_its_own_name() -> None:
    @node
    def first(state: State) -> State:
        return {"log": ["first"], "count": 1}

    @node(name="second")
    def other(state: State) -> dict[str, Any]:
        return {"log": ["second"]}

    assert first({"log": [], "count": 0}) == {"log": ["first"], "count": 1}, "the function itself stays as it is"
    built = (
        StateGraph(State)
        .add_node(first)
        .add_node(other)
        .set_entry_point("first")
        .add_edge("first", "second")
        .set_finish_point("second")
        .compile()
    )
    assert built.invoke({"count": 0}) == {"log": ["first", "second"], "count": 1}


def test_sequence_and_conditional_entry() -> None:
    def one(state: State) -> dict[str, Any]:
        return {"log": ["one"]}

    def two(state: State) -> dict[str, Any]:
        return {"log": ["two"]}

    built = StateGraph(State).add_sequence([one, ("second", two)])
    built.set_conditional_entry_point(lambda state: "one" if state["count"] else "second")
    compiled = built.compile()
    assert compiled.invoke({"count": 1})["log"] == ["one", "two"]
    assert compiled.invoke({"count": 0})["log"] == ["two"]


def test_reducers_of_the_standard_library_and_lambdas_are_taken() -> None:
    class Mixed(TypedDict):
        total: Annotated[int, operator.add]
        most: Annotated[int, lambda so_far, new: max(so_far, new)]
        tags: Annotated[set[str], operator.or_]

    built = (
        StateGraph(Mixed)
        .add_node("a", lambda state: {"total": 2, "most": 5, "tags": {"x"}})
        .add_node("b", lambda state: {"total": 3, "most": 4, "tags": {"y"}})
        .add_edge(START, "a")
        .add_edge(START, "b")
        .compile()
    )
    assert built.invoke({"total": 1}) == {"total": 6, "most": 5, "tags": {"x", "y"}}


def test_mermaid_draws_edges_answers_and_joins_and_no_label_breaks_out() -> None:
    built = (
        graph("a", 'b"]<x>', "c")
        .add_edge(START, "a")
        .add_conditional_edges("a", lambda state: "go", {"go": 'b"]<x>', "stop": END})
        .add_edge(["a", 'b"]<x>'], "c")
        .add_edge("c", END)
        .compile()
    )
    drawn = built.draw_mermaid()
    assert drawn.startswith("flowchart TD\n")
    for line in (
        "start --> n0",
        'n1["b&quot;]&lt;x&gt;"]',
        "n0 -.->|go| n1",
        "n0 -.->|stop| stop",
        "n0 --> n2",
        "n1 --> n2",
        "n2 --> stop",
    ):
        assert f"    {line}\n" in drawn
