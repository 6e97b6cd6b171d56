"""A graph that a node calls: part of the node's run, unless it is given a thread of its own."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

import pytest

from meshflow.graph.builder import StateGraph
from meshflow.graph.errors import GraphRecursionError, InvalidRunError
from meshflow.graph.markers import START
from meshflow.graph.policies import CachePolicy
from meshflow.graph.reducers import add


class State(TypedDict):
    log: Annotated[list[str], add]


def one(function: Any, **options: Any) -> StateGraph:
    return StateGraph(State).add_node("a", function, **options).add_edge(START, "a")


def test_config_of_another_thread_makes_a_run_of_its_own(store: Any) -> None:
    inner = one(lambda state: {"log": ["inner"]}).compile(store)

    def calling(state: State) -> dict[str, Any]:
        return {"log": inner.invoke({}, {"configurable": {"thread_id": "own"}})["log"]}

    graph = one(calling).compile(store)
    for turn in (1, 2):
        assert graph.invoke({}, thread_id=f"t{turn}")["log"] == ["inner"] * turn, "its thread goes on"
    assert inner.get_state(thread_id="own").values == {"log": ["inner", "inner"]}


def test_nodes_own_config_handed_on_stays_in_the_nodes_run(store: Any) -> None:
    inner = one(lambda state: {"log": ["inner"]}).compile(store)

    def calling(state: State, config: Any) -> dict[str, Any]:
        return {"log": inner.invoke({}, config)["log"]}

    graph = one(calling).compile(store)
    for turn in (1, 2):
        assert graph.invoke({}, thread_id="t")["log"] == ["inner"] * turn


def test_cached_results_are_not_shared_by_tenants() -> None:
    ran: list[int] = []

    def costly(state: State) -> dict[str, Any]:
        ran.append(1)
        return {"log": [str(len(ran))]}

    graph = one(costly, cache=CachePolicy()).compile()
    told = [graph.invoke({}, tenant=tenant)["log"] for tenant in ("acme", "acme", "other")]
    assert told == [["1"], ["1"], ["2"]]


@pytest.mark.parametrize("how", ["option", "config"])
def test_what_a_call_inside_of_a_node_says_of_its_run_holds(how: str) -> None:
    looping = one(lambda state: {"log": ["i"]}).add_edge("a", "a").compile()

    def calling(state: State) -> dict[str, Any]:
        limit = {"recursion_limit": 3}
        return looping.invoke({}, **limit) if how == "option" else looping.invoke({}, limit)

    with pytest.raises(GraphRecursionError, match="after 3 supersteps"):
        one(calling).compile().invoke({})


def test_context_of_a_call_inside_of_a_node_is_its_own_or_the_nodes() -> None:
    inner = one(lambda state, context: {"log": [context]}).compile()

    def calling(state: State) -> dict[str, Any]:
        return {"log": [*inner.invoke({})["log"], *inner.invoke({}, context="its own")["log"]]}

    assert one(calling).compile().invoke({}, context="the node's")["log"] == ["the node's", "its own"]


@pytest.mark.parametrize("option", [{"tenant": "other"}, {"run_id": "other"}, {"durability": "exit"}])
def test_what_a_call_inside_of_a_node_cannot_choose_is_refused(option: Any) -> None:
    inner = one(lambda state: {}).compile()
    with pytest.raises(InvalidRunError, match=f"shares the run's {next(iter(option))}"):
        one(lambda state: inner.invoke({}, **option)).compile().invoke({}, tenant="acme")


@pytest.mark.parametrize("name", ["tenant", "run_id", "checkpoint_id"])
def test_what_a_config_inside_of_a_node_cannot_choose_is_refused_as_well(name: str) -> None:
    inner = one(lambda state: {}).compile()
    config: Any = {"run_id": "other"} if name == "run_id" else {"configurable": {name: "other"}}
    with pytest.raises(InvalidRunError, match=f"shares the run's {name}, so {name}='other'"):
        one(lambda state: inner.invoke({}, config)).compile().invoke({}, tenant="acme")


def test_nodes_own_config_may_be_handed_on_whatever_the_caller_said_in_it(store: Any) -> None:
    inner = one(lambda state: {"log": ["inner"]}).compile()
    middle = one(lambda state, config: {"log": inner.invoke({}, config)["log"]}).compile()
    graph = one(lambda state, config: {"log": middle.invoke({}, config)["log"]}).compile(store)
    graph.invoke({}, thread_id="t", tenant="acme")
    past = list(graph.get_state_history(thread_id="t", tenant="acme"))[-1].config["configurable"]
    config = {"configurable": {**past, "tenant": "acme"}, "run_id": "mine"}
    assert graph.invoke(None, config)["log"] == ["inner"]
    assert graph.invoke(None, config, tenant="acme")["log"] == ["inner"]
