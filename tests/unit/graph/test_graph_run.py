"""Supersteps: what runs when, what sees what, and how writes go together."""

from __future__ import annotations

import asyncio
import gc
import operator
import threading
import time
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import pytest
from pydantic import BaseModel

from meshflow.graph.builder import StateGraph
from meshflow.graph.errors import (
    GraphRecursionError,
    InvalidGraphError,
    InvalidRunError,
    InvalidUpdateError,
    RouteError,
)
from meshflow.graph.markers import END, START, Command, Overwrite, Send
from meshflow.graph.policies import CachePolicy, RetryPolicy
from meshflow.graph.reducers import add, first, last
from meshflow.graph.task import NodeRun


class State(TypedDict):
    log: Annotated[list[str], add]
    count: int
    items: list[Any]


class Answered(Exception):
    """What an HTTP client raises."""

    def __init__(self, status: int) -> None:
        self.response = type("Response", (), {"status_code": status})()


def saying(word: str) -> Any:
    return lambda state: {"log": [word]}


def fan(*names: str) -> StateGraph:
    built = StateGraph(State)
    for name in names:
        built.add_node(name, saying(name)).add_edge(START, name)
    return built


def test_spec_snippet_counts_to_three() -> None:
    def route(state: State) -> str:
        return "done" if state["count"] >= 3 else "step_a"

    graph = (
        StateGraph(State)
        .add_node("step_a", lambda state: {"count": state["count"] + 1})
        .add_conditional_edges("step_a", route, {"done": END, "step_a": "step_a"})
        .set_entry_point("step_a")
        .compile()
    )
    assert graph.invoke({"log": [], "count": 0}) == {"log": [], "count": 3}


def test_parallel_nodes_see_the_same_state_and_their_writes_go_in_by_name() -> None:
    seen: list[Any] = []

    def looking(name: str) -> Any:
        def look(state: State) -> dict[str, Any]:
            seen.append(list(state["log"]))
            return {"log": [name]}

        return look

    graph = StateGraph(State)
    for name in ("c", "a", "b"):
        graph.add_node(name, looking(name)).add_edge(START, name)
    assert graph.compile().invoke({"log": ["x"]})["log"] == ["x", "a", "b", "c"]
    assert seen == [["x"]] * 3


def test_two_writes_to_a_key_without_a_reducer_are_an_error_that_names_key_and_nodes() -> None:
    graph = (
        StateGraph(State)
        .add_node("a", lambda state: {"count": 1})
        .add_node("b", lambda state: {"count": 1})
        .add_edge(START, "a")
        .add_edge(START, "b")
        .compile()
    )
    with pytest.raises(InvalidUpdateError, match=r"'a' and 'b' wrote the state's key 'count'") as error:
        graph.invoke({})
    assert error.value.key == "count"


def test_join_waits_for_every_source_and_runs_once() -> None:
    graph = fan("short", "long").add_node("longer", saying("longer")).add_node("join", saying("join"))
    graph.add_edge("long", "longer").add_edge(["short", "longer"], "join").add_edge("join", END)
    assert graph.compile().invoke({})["log"] == ["long", "short", "longer", "join"]


def test_plain_edges_to_one_node_run_it_once_a_superstep() -> None:
    graph = fan("a", "b").add_node("c", saying("c")).add_edge("a", "c").add_edge("b", "c")
    assert graph.compile().invoke({})["log"] == ["a", "b", "c"]


def test_join_in_a_loop_waits_anew_each_time() -> None:
    graph = StateGraph(State)
    graph.add_node("begin", lambda state: {"count": state["count"] + 1})
    graph.add_node("a", saying("a")).add_node("b", saying("b")).add_node("join", saying("join"))
    graph.add_edge(START, "begin").add_edge("begin", "a").add_edge("begin", "b").add_edge(["a", "b"], "join")
    graph.add_conditional_edges("join", lambda state: END if state["count"] == 3 else "begin", ["begin", END])
    assert graph.compile().invoke({"count": 0})["log"] == ["a", "b", "join"] * 3


def test_deferred_node_runs_when_nothing_else_is_left() -> None:
    graph = fan("short", "long").add_node("longer", saying("longer")).add_node("late", saying("late"), defer=True)
    graph.add_edge("long", "longer").add_edge("short", "late").add_edge("longer", "late")
    assert graph.compile().invoke({})["log"] == ["long", "short", "longer", "late"]


def test_send_runs_a_node_once_each_with_an_argument_of_its_own_in_order() -> None:
    class Given(TypedDict):
        word: str

    graph = StateGraph(State).add_node("say", lambda given: {"log": [given["word"]]})
    graph.add_conditional_edges(START, lambda state: [Send("say", {"word": str(n)}) for n in range(5)])
    assert graph.compile().invoke({})["log"] == ["0", "1", "2", "3", "4"]


def test_sends_come_behind_nodes_of_the_same_superstep() -> None:
    graph = StateGraph(State).add_node("z", saying("z")).add_node("a", lambda given: {"log": [given]})
    graph.add_conditional_edges(START, lambda state: [Send("a", "sent"), "z"])
    assert graph.compile().invoke({})["log"] == ["z", "sent"]


def test_command_updates_and_goes_on_top_of_the_edges() -> None:
    graph = StateGraph(State).add_node("a", lambda state: Command(update={"log": ["a"]}, goto=["c", Send("d", 1)]))
    graph.add_node("b", saying("b")).add_node("c", saying("c")).add_node("d", lambda given: {"log": [f"d{given}"]})
    graph.add_edge(START, "a").add_edge("a", "b")
    with pytest.warns(UserWarning, match="'[cd]'"):
        compiled = graph.compile()
    assert compiled.invoke({})["log"] == ["a", "b", "c", "d1"]


def test_several_commands_of_one_node_are_all_followed() -> None:
    graph = StateGraph(State)
    graph.add_node("a", lambda state: [Command(update={"log": ["1"]}), {"log": ["2"]}, Command(goto="b")])
    graph.add_node("b", saying("b")).add_edge(START, "a").add_edge("a", "b")
    assert graph.compile().invoke({})["log"] == ["1", "2", "b"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ("nowhere", "no node"),
        (None, "no node"),
        (3, "no node"),
        (START, "no node"),
        ([Send("nowhere", 1)], "'nowhere'"),
        (Send(END, 1), "sends to END"),
    ],
)
def test_router_that_answers_with_an_unknown_node_raises_and_never_ends_the_run(answer: Any, says: str) -> None:
    graph = fan("a").add_conditional_edges("a", lambda state: answer).compile()
    with pytest.raises(RouteError, match=says):
        graph.invoke({})


def test_answer_that_is_not_in_the_map_raises_and_names_router_and_answer() -> None:
    def choose(state: State) -> str:
        return "maybe"

    graph = fan("a").add_conditional_edges("a", choose, {"yes": "a", "no": END}).compile()
    with pytest.raises(RouteError, match=r"'choose' behind 'a' answered 'maybe'"):
        graph.invoke({})


@pytest.mark.parametrize("goto", ["nowhere", ["a", "nowhere"], Send("nowhere", {}), 7])
def test_goto_to_an_unknown_node_raises(goto: Any) -> None:
    targets = goto if isinstance(goto, (str, Send, list)) else [goto]
    graph = StateGraph(State).add_node("a", lambda state: Command(goto=targets)).add_edge(START, "a").compile()
    with pytest.raises(RouteError, match="no node"):
        graph.invoke({})


@pytest.mark.parametrize(
    ("output", "says"),
    [({"cuont": 1}, r"did you mean 'count'\?"), ("text", "str"), ([1, 2], "list"), (Command(update=5), "int")],
)
def test_output_that_the_state_cannot_take_raises(output: Any, says: str) -> None:
    graph = StateGraph(State).add_node("a", lambda state: output).add_edge(START, "a").compile()
    with pytest.raises(InvalidUpdateError, match=says):
        graph.invoke({})


def test_input_that_the_state_cannot_take_raises() -> None:
    graph = fan("a").compile()
    with pytest.raises(InvalidUpdateError, match="'nope'"):
        graph.invoke({"nope": 1})
    with pytest.raises(InvalidUpdateError, match="the input is a list"):
        graph.invoke([])
    with pytest.raises(InvalidRunError, match="checkpointer"):
        graph.invoke(None)


def test_recursion_limit_raises_and_a_run_that_needs_exactly_as_many_steps_does_not() -> None:
    graph = StateGraph(State).add_node("a", lambda state: {"count": state["count"] + 1}).add_edge(START, "a")
    graph.add_conditional_edges("a", lambda state: END if state["count"] == 5 else "a", ["a", END])
    compiled = graph.compile()
    assert compiled.invoke({"count": 0}, recursion_limit=5)["count"] == 5
    with pytest.raises(GraphRecursionError, match="4 supersteps"):
        compiled.invoke({"count": 0}, {"recursion_limit": 4})
    with pytest.raises(InvalidRunError):
        compiled.invoke({"count": 0}, recursion_limit=0)


def test_what_a_node_raises_is_raised_with_a_note_of_where() -> None:
    def breaking(state: State) -> dict[str, Any]:
        raise LookupError("no such order")

    graph = StateGraph(State).add_node("a", breaking).add_edge(START, "a").compile()
    with pytest.raises(LookupError, match="no such order") as error:
        graph.invoke({})
    assert "in node 'a', superstep 1" in error.value.__notes__


def test_reducers_first_last_and_overwrite() -> None:
    class Kept(TypedDict):
        one: Annotated[str, first]
        two: Annotated[str, last]
        three: Annotated[list[int], add]

    graph = (
        StateGraph(Kept)
        .add_node("a", lambda state: {"one": "a", "two": "a", "three": [1]})
        .add_node("b", lambda state: {"one": "b", "two": "b", "three": Overwrite([9])})
        .add_edge(START, "a")
        .add_edge(START, "b")
        .compile()
    )
    assert graph.invoke({"three": [0]}) == {"one": "a", "two": "b", "three": [9]}


def test_error_in_a_reducer_says_which_key() -> None:
    graph = StateGraph(State).add_node("a", lambda state: {"log": "no list"}).add_edge(START, "a").compile()
    with pytest.raises(TypeError) as error:
        graph.invoke({})
    assert any("'log'" in note for note in error.value.__notes__)


def test_change_in_place_reaches_neither_the_caller_nor_a_sibling() -> None:
    def changing(state: State) -> dict[str, Any]:
        state["items"].append("changed")
        state["items"][0]["deep"] = "changed"
        state["count"] = 99
        time.sleep(0.02)
        return {}

    seen: list[Any] = []

    def looking(state: State) -> dict[str, Any]:
        time.sleep(0.01)
        seen.append((dict(state), {**state}, state["items"], state.get("items"), list(state.values())))
        return {}

    graph = StateGraph(State).add_node("a", changing).add_node("b", looking).add_node("c", looking)
    graph.add_edge(START, "a").add_edge(START, "b").add_edge(START, "c")
    given = {"items": [{"deep": "as given"}], "count": 0}
    result = graph.compile().invoke(given)
    assert given == {"items": [{"deep": "as given"}], "count": 0}
    assert result == {"log": [], "items": [{"deep": "as given"}], "count": 0}
    for state, merged, item, got, values in seen:
        assert state == merged == {"log": [], **given}
        assert item == got == given["items"]
        assert given["items"] in values


def test_sends_that_share_an_argument_do_not_share_changes() -> None:
    shared = {"words": ["x"]}

    def worker(given: dict[str, Any]) -> dict[str, Any]:
        given["words"].append("y")
        return {"log": ["".join(given["words"])]}

    graph = StateGraph(State).add_node("w", worker).add_conditional_edges(START, lambda s: [Send("w", shared)] * 3)
    assert graph.compile().invoke({})["log"] == ["xy"] * 3
    assert shared == {"words": ["x"]}


def test_list_that_a_node_keeps_does_not_grow_behind_its_back() -> None:
    kept: list[list[str]] = []

    def keeping(state: State) -> dict[str, Any]:
        kept.append(state["log"])
        return {"log": [str(len(kept))], "items": state["log"], "count": state["count"] + 1}

    graph = StateGraph(State).add_node("a", keeping).add_edge(START, "a")
    graph.add_conditional_edges("a", lambda state: END if state["count"] == 4 else "a", ["a", END])
    result = graph.compile().invoke({"log": ["0"], "count": 0})
    assert result == {"log": ["0", "1", "2", "3", "4"], "items": ["0", "1", "2", "3"], "count": 4}
    assert kept == [["0"], ["0", "1"], ["0", "1", "2"], ["0", "1", "2", "3"]]


def test_plain_nodes_do_not_block_each_other() -> None:
    meeting = threading.Barrier(8, timeout=10)

    def waiting(state: State) -> dict[str, Any]:
        meeting.wait()
        return {"log": ["met"]}

    graph = StateGraph(State)
    for number in range(8):
        graph.add_node(f"n{number}", waiting).add_edge(START, f"n{number}")
    assert graph.compile().invoke({})["log"] == ["met"] * 8


async def test_plain_nodes_do_not_block_the_loop_of_ainvoke() -> None:
    ticks = 0

    async def ticking() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    graph = StateGraph(State).add_node("a", lambda state: time.sleep(0.15)).add_edge(START, "a").compile()
    beside = asyncio.create_task(ticking())
    await graph.ainvoke({})
    beside.cancel()
    assert ticks >= 5


async def test_coroutines_run_side_by_side_in_ainvoke_and_in_invoke() -> None:
    async def sleeping(state: State) -> dict[str, Any]:
        await asyncio.sleep(0.1)
        return {"log": ["slept"]}

    graph = StateGraph(State)
    for number in range(20):
        graph.add_node(f"n{number}", sleeping).add_edge(START, f"n{number}")
    compiled = graph.compile()
    begun = time.perf_counter()
    assert (await compiled.ainvoke({}))["log"] == ["slept"] * 20
    assert (await asyncio.to_thread(compiled.invoke, {}))["log"] == ["slept"] * 20
    assert time.perf_counter() - begun < 1.5
    compiled.close()


def test_failure_stops_siblings_that_can_be_stopped() -> None:
    stopped: list[str] = []

    async def failing(state: State) -> dict[str, Any]:
        await asyncio.sleep(0.01)
        raise ValueError("no")

    async def waiting(state: State) -> dict[str, Any]:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            stopped.append("stopped")
            raise
        return {}

    graph = StateGraph(State).add_node("a", failing).add_node("b", waiting).add_edge(START, "a").add_edge(START, "b")
    compiled = graph.compile()
    with pytest.raises(ValueError, match="no"):
        compiled.invoke({})
    assert stopped == ["stopped"]
    compiled.close()


def test_time_out_of_a_coroutine_is_raised() -> None:
    async def sleeping(state: State) -> dict[str, Any]:
        await asyncio.sleep(30)
        return {}

    compiled = StateGraph(State).add_node("a", sleeping, timeout_s=0.02).add_edge(START, "a").compile()
    with pytest.raises(TimeoutError):
        compiled.invoke({})
    compiled.close()


def test_node_takes_config_context_and_its_run_by_name() -> None:
    @dataclass
    class Context:
        user: str

    def asking(state: State, config: Any, context: Context, run: NodeRun) -> dict[str, Any]:
        return {"log": [config["configurable"]["tone"], context.user, run.node, str(run.remaining_steps)]}

    graph = StateGraph(State, context_schema=Context).add_node("a", asking).add_edge(START, "a").compile()
    result = graph.invoke({}, {"configurable": {"tone": "dry"}}, context={"user": "ana"}, recursion_limit=7)
    assert result["log"] == ["dry", "ana", "a", "6"]


def test_dataclasses_and_pydantic_models_are_states_too() -> None:
    @dataclass
    class Data:
        count: int = 0
        log: Annotated[list[str], add] = field(default_factory=list)

    class Model(BaseModel):
        count: int
        log: Annotated[list[str], operator.add] = []

    for kind in (Data, Model):

        def step(state: Any, kind: Any = kind) -> dict[str, Any]:
            assert isinstance(state, kind)
            return {"count": state.count + 1, "log": [f"{state.count}"]}

        graph = StateGraph(kind).add_node("a", step).add_node("b", step).add_edge(START, "a").add_edge("a", "b")
        assert graph.compile().invoke(kind(count=1)) == {"count": 3, "log": ["1", "2"]}


def test_input_and_output_schemas_narrow_what_goes_in_and_out() -> None:
    class Inner(TypedDict):
        secret: str

    class Out(TypedDict):
        log: Annotated[list[str], add]

    def telling(state: Inner) -> dict[str, Any]:
        return {"log": [state["secret"], str(sorted(state))]}

    graph = (
        StateGraph(State, output_schema=Out)
        .add_node("a", lambda state: {"secret": "s"})
        .add_node("b", telling, input_schema=Inner)
    )
    assert graph.add_edge(START, "a").add_edge("a", "b").compile().invoke({"count": 1}) == {"log": ["s", "['secret']"]}


def test_state_of_many_elements_costs_a_step_no_more_than_a_small_one() -> None:
    def counter(limit: int) -> Any:
        graph = StateGraph(State).add_node("a", lambda state: {"count": state["count"] + 1, "log": ["x"]})
        graph.add_edge(START, "a")
        graph.add_conditional_edges("a", lambda state: END if state["count"] == limit else "a", ["a", END])
        return graph.compile()

    def cost(size: int) -> float:
        graph = counter(300)
        best = 9.9
        for _ in range(5):
            begun = time.process_time()
            graph.invoke({"count": 0, "log": ["x"] * size, "items": [{}] * size})
            best = min(best, time.process_time() - begun)
        return best

    gc.collect()
    assert cost(10_000) < 8 * cost(10), "linear growth would be a hundred times as much"


def test_cached_result_stands_for_an_equal_input_until_its_time_is_up() -> None:
    calls: list[Any] = []

    def costly(state: State) -> dict[str, Any]:
        calls.append(state["count"])
        return {"log": [str(len(calls))]}

    retry = RetryPolicy(max_attempts=2)
    graph = StateGraph(State).add_node("kept", costly, cache=CachePolicy(), retry=retry)
    graph.add_node("short", costly, cache=CachePolicy(ttl_s=0, key=lambda state: state["count"]))
    compiled = graph.add_edge(START, "kept").add_edge(START, "short").compile()
    for count in (1, 1, 2):
        compiled.invoke({"count": count})
    assert (calls.count(1), calls.count(2)) == (3, 2)
    compiled.cache.clear()
    compiled.invoke({"count": 1})
    assert calls.count(1) == 5


def test_retry_sees_the_state_as_it_was_and_only_what_the_policy_names_is_retried() -> None:
    tries: list[Any] = []

    def failing(state: State) -> dict[str, Any]:
        state["items"].append("changed")
        tries.append(list(state["items"]))
        raise ConnectionError("down") if len(tries) < 3 else KeyError("a bug")

    policies = [RetryPolicy(retry_on=ConnectionError, initial_interval_s=0.001, max_attempts=9)]
    graph = StateGraph(State).add_node("a", failing, retry=policies).add_edge(START, "a").compile()
    with pytest.raises(KeyError):
        graph.invoke({"items": []})
    assert tries == [["changed"]] * 3


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ConnectionError(), True), (TimeoutError(), True), (ValueError(), False), (KeyError(), False),
        (FileNotFoundError(), False), (Answered(503), True), (Answered(429), True), (Answered(404), False),
        (Exception(), True),
    ],
)  # fmt: skip
def test_errors_that_may_pass_are_told_from_those_that_will_not(error: Exception, again: bool) -> None:
    assert RetryPolicy().covers(error) is again


@pytest.mark.parametrize("wrong", [{"max_attempts": 0}, {"max_attempts": True}, {"backoff_factor": float("nan")}])
def test_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidGraphError):
        RetryPolicy(**wrong)


def test_many_graphs_run_at_once_without_a_thread_each() -> None:
    async def main() -> None:
        async def step(state: State) -> dict[str, Any]:
            await asyncio.sleep(0.01)
            return {"count": state["count"] + 1}

        graph = StateGraph(State).add_node("a", step).add_edge(START, "a")
        graph.add_conditional_edges("a", lambda state: END if state["count"] == 3 else "a", ["a", END])
        compiled = graph.compile()
        before = threading.active_count()
        runs = [asyncio.create_task(compiled.ainvoke({"count": 0})) for _ in range(200)]
        await asyncio.sleep(0.01)
        assert threading.active_count() <= before + 64
        assert [result["count"] for result in await asyncio.gather(*runs)] == [3] * 200

    asyncio.run(main())
