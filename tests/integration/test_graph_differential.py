"""The same programs on LangGraph and on meshflow: same results, same states, same streams.

A program builds its graph from a library handed to it, and says what is done with the graph. Where we differ by intent,
docs/how-to/coming-from-langgraph.md says so, and a test of ours elsewhere.
"""

from __future__ import annotations

import asyncio
import operator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict

import pytest
from pydantic import BaseModel
from two_libraries import END, START, Lib, Programs, State, asking, both, count, edges, nodes, say

program = PROGRAMS = Programs()


# --- edges


@program()
def one_node(lib: Lib) -> Any:
    return edges(nodes(lib, "a"), ".>a", "a>!")


@program()
def five_in_a_row(lib: Lib) -> Any:
    return edges(nodes(lib, *"abcde"), ".>a", "a>b", "b>c", "c>d", "d>e", "e>!")


@program()
def finish_point(lib: Lib) -> Any:
    graph = edges(nodes(lib, "a", "b"), "a>b")
    graph.set_entry_point("a")
    graph.set_finish_point("b")
    return graph


@program()
def sequence(lib: Lib) -> Any:
    graph = lib.StateGraph(State)
    graph.add_sequence([("x", say("x")), ("y", count), ("z", say("z"))])
    return edges(graph, ".>x")


@program(parallel=True)
def two_at_once(lib: Lib) -> Any:
    return edges(nodes(lib, "b", "a"), ".>a", ".>b")


@program(parallel=True)
def diamond(lib: Lib) -> Any:
    return edges(nodes(lib, *"abcd"), ".>a", "a>b", "a>c", "b>d", "c>d", "d>!")


@program(parallel=True)
def ways_of_two_lengths_run_the_last_node_twice(lib: Lib) -> Any:
    return edges(nodes(lib, *"abcd"), ".>a", "a>b", "a>d", "b>c", "c>d")


@program(parallel=True)
def join_of_ways_of_two_lengths(lib: Lib) -> Any:
    return edges(nodes(lib, *"abcd"), ".>a", ".>b", "b>c", "a+c>d", "d>!")


@program(parallel=True)
def join_of_three(lib: Lib) -> Any:
    return edges(nodes(lib, *"abcde"), ".>a", ".>b", ".>c", "c>d", "a+b+d>e")


@program(parallel=True)
def two_joins_of_the_same(lib: Lib) -> Any:
    return edges(nodes(lib, *"abcd"), ".>a", ".>b", "a+b>c", "a+b>d")


@program(parallel=True)
def joins_behind_joins(lib: Lib) -> Any:
    return edges(nodes(lib, *"abcdefg"), ".>a", ".>b", ".>c", "a+b>d", "b+c>e", "d+e>f", "f>g")


@program(parallel=True, acts=({"n": 0},))
def join_in_a_loop(lib: Lib) -> Any:
    graph = edges(nodes(lib, "a", "b", "j", c=count), ".>c", "c>a", "c>b", "a+b>j")
    graph.add_conditional_edges("j", lambda s: END if s["n"] > 2 else "c", ["c", END])
    return graph


@program(parallel=True)
def twenty_at_once(lib: Lib) -> Any:
    names = [f"w{index}" for index in range(20)]
    graph = edges(nodes(lib, *names, "end"), *(f".>{name}" for name in names))
    graph.add_edge(names, "end")
    return graph


@program(parallel=True)
def deferred(lib: Lib) -> Any:
    graph = nodes(lib, *"abc")
    graph.add_node("late", say("late"), defer=True)
    return edges(graph, ".>a", ".>b", "b>c", "a>late", "c>late")


@program(parallel=True)
def deferred_then_more(lib: Lib) -> Any:
    graph = nodes(lib, *"abc", "after")
    graph.add_node("late", say("late"), defer=True)
    return edges(graph, ".>a", ".>late", "a>b", "b>c", "late>after")


# --- routers


@program()
def counter(lib: Lib) -> Any:
    graph = edges(nodes(lib, c=count), ".>c")
    graph.add_conditional_edges("c", lambda s: "stop" if s["n"] == 4 else "go", {"stop": END, "go": "c"})
    return graph


@program()
def counter_with_a_list_of_targets(lib: Lib) -> Any:
    graph = edges(nodes(lib, c=count), ".>c")
    graph.add_conditional_edges("c", lambda s: END if s["n"] == 3 else "c", ["c", END])
    return graph


@program()
def counter_without_a_map(lib: Lib) -> Any:
    graph = edges(nodes(lib, c=count), ".>c")
    graph.add_conditional_edges("c", lambda s: END if s["n"] == 3 else "c")
    return graph


@program(acts=({"n": 0}, {"n": 1}))
def conditional_entry(lib: Lib) -> Any:
    graph = nodes(lib, "a", "b")
    graph.set_conditional_entry_point(lambda s: "b" if s["n"] else "a", {"a": "a", "b": "b"})
    return graph


@program(acts=({"n": 0}, {"n": 1}))
def entry_that_may_be_the_end(lib: Lib) -> Any:
    graph = nodes(lib, "a")
    graph.add_conditional_edges(START, lambda s: END if s["n"] else "a", ["a", END])
    return graph


@program(parallel=True)
def router_to_several(lib: Lib) -> Any:
    graph = edges(nodes(lib, *"abcd"), ".>a")
    graph.add_conditional_edges("a", lambda s: ["b", "c"], ["b", "c", "d"])
    return edges(graph, "b>d", "c>d")


@program(parallel=True)
def router_to_several_and_the_end(lib: Lib) -> Any:
    graph = edges(nodes(lib, *"ab"), ".>a")
    graph.add_conditional_edges("a", lambda s: ["b", END], ["b", END])
    return graph


@program(parallel=True)
def two_routers_of_one_node(lib: Lib) -> Any:
    def left(s: Any) -> str:
        return "b"

    def right(s: Any) -> str:
        return "c"

    graph = edges(nodes(lib, *"abc"), ".>a")
    graph.add_conditional_edges("a", left, ["b"])
    graph.add_conditional_edges("a", right, ["c"])
    return graph


@program(parallel=True)
def router_beside_an_edge(lib: Lib) -> Any:
    graph = edges(nodes(lib, *"abc"), ".>a", "a>b")
    graph.add_conditional_edges("a", lambda s: "c", ["c"])
    return graph


@program()
def router_annotated_with_its_targets(lib: Lib) -> Any:
    def route(s: State) -> Literal["b", "c"]:
        return "b" if s["n"] else "c"

    graph = edges(nodes(lib, *"abc"), ".>a")
    graph.add_conditional_edges("a", route)
    return graph


@program()
def router_sees_its_nodes_own_writes(lib: Lib) -> Any:
    graph = edges(nodes(lib, "b", c=count), ".>c")
    graph.add_conditional_edges("c", lambda s: "b" if s["n"] == 1 and s["log"] == ["0"] else END, ["b", END])
    return graph


@program(parallel=True)
def routers_do_not_see_their_siblings_writes(lib: Lib) -> Any:
    graph = edges(nodes(lib, *"abxy"), ".>a", ".>b")
    graph.add_conditional_edges("a", lambda s: "x" if s["log"] == ["a"] else "y", ["x", "y"])
    graph.add_conditional_edges("b", lambda s: "x" if s["log"] == ["b"] else "y", ["x", "y"])
    return graph


@program()
def answers_that_are_no_names(lib: Lib) -> Any:
    graph = edges(nodes(lib, "b", c=count), ".>c")
    graph.add_conditional_edges("c", lambda s: s["n"] > 2, {True: "b", False: "c"})
    return graph


# --- Send


@program(parallel=True)
def send_to_many(lib: Lib) -> Any:
    graph = lib.StateGraph(State).add_node("w", lambda given: {"log": [f"w{given['i']}"]})
    graph.add_conditional_edges(START, lambda s: [lib.Send("w", {"i": i}) for i in range(5)], ["w"])
    return graph


@program(parallel=True)
def send_behind_a_node_and_on_to_another(lib: Lib) -> Any:
    graph = nodes(lib, "a", "end")
    graph.add_node("w", lambda given: {"log": [str(given)]})
    graph.add_conditional_edges("a", lambda s: [lib.Send("w", i) for i in range(3)], ["w"])
    return edges(graph, ".>a", "w>end")


@program(parallel=True)
def send_beside_names(lib: Lib) -> Any:
    graph = nodes(lib, "a", "b")
    graph.add_node("w", lambda given: {"log": [str(given)]})
    graph.add_conditional_edges("a", lambda s: [lib.Send("w", 1), "b", lib.Send("w", 2)], ["w", "b"])
    return edges(graph, ".>a")


@program(parallel=True)
def send_to_two_nodes(lib: Lib) -> Any:
    graph = lib.StateGraph(State)
    for name in ("z", "y"):
        graph.add_node(name, lambda given, name=name: {"log": [f"{name}{given}"]})
    graph.add_conditional_edges(START, lambda s: [lib.Send("z", 1), lib.Send("y", 2), lib.Send("z", 3)], ["z", "y"])
    return graph


@program(parallel=True)
def send_and_the_node_itself(lib: Lib) -> Any:
    graph = lib.StateGraph(State).add_node("w", lambda given: {"log": [f"{given['n']}"]})
    graph.add_conditional_edges(START, lambda s: [lib.Send("w", {"n": 7}), "w"], ["w"])
    return graph


@program(parallel=True)
def sends_that_send(lib: Lib) -> Any:
    graph = lib.StateGraph(State).add_node("w", lambda given: {"log": [str(given)]})
    graph.add_node("v", lambda given: {"log": [f"v{given}"]})
    graph.add_conditional_edges(START, lambda s: [lib.Send("w", i) for i in (1, 2)], ["w"])
    graph.add_conditional_edges("w", lambda s: [lib.Send("v", len(s["log"]))], ["v"])
    return graph


@program(parallel=True)
def sends_and_a_deferred_end(lib: Lib) -> Any:
    graph = lib.StateGraph(State).add_node("w", lambda given: {"log": [str(given)]})
    graph.add_node("end", say("end"), defer=True)
    graph.add_conditional_edges(START, lambda s: [lib.Send("w", i) for i in (1, 2)], ["w"])
    return edges(graph, "w>end")


@program(parallel=True)
def no_sends_at_all(lib: Lib) -> Any:
    graph = lib.StateGraph(State).add_node("w", lambda given: {"log": [str(given)]})
    graph.add_conditional_edges(START, lambda s: [], ["w"])
    return graph


# --- Command


@program()
def command_updates(lib: Lib) -> Any:
    return edges(nodes(lib, "b", a=lambda s: lib.Command(update={"log": ["a"], "n": 5})), ".>a", "a>b")


def going(lib: Lib, **command: Any) -> Any:
    graph = nodes(lib, "b", "c")
    graph.add_node("a", lambda s: lib.Command(update={"log": ["a"]}, **command), destinations=("b", "c"))
    return edges(graph, ".>a")


@program()
def command_goes(lib: Lib) -> Any:
    return going(lib, goto="c")


@program(parallel=True)
def command_goes_to_two(lib: Lib) -> Any:
    return going(lib, goto=["b", "c"])


@program()
def command_goes_to_the_end(lib: Lib) -> Any:
    return going(lib, goto=END)


@program(parallel=True)
def command_on_top_of_an_edge(lib: Lib) -> Any:
    return edges(going(lib, goto="c"), "a>b")


@program(parallel=True)
def command_with_sends(lib: Lib) -> Any:
    graph = nodes(lib, "b")
    graph.add_node("w", lambda given: {"log": [str(given)]})
    goto = ["b", lib.Send("w", 1), lib.Send("w", 2)]
    graph.add_node("a", lambda s: lib.Command(goto=goto), destinations=("b", "w"))
    return edges(graph, ".>a")


@program(parallel=True)
def several_commands(lib: Lib) -> Any:
    graph = nodes(lib, "b", "c")
    commands = [lib.Command(update={"log": ["1"]}, goto="b"), lib.Command(update={"log": ["2"]}, goto="c")]
    graph.add_node("a", lambda s: commands, destinations=("b", "c"))
    return edges(graph, ".>a")


@program()
def command_in_a_loop(lib: Lib) -> Any:
    def loop(state: State) -> Any:
        return lib.Command(update=count(state), goto="a" if state["n"] < 3 else END)

    graph = lib.StateGraph(State).add_node("a", loop, destinations=("a",))
    return edges(graph, ".>a")


@program()
def annotated_command(lib: Lib) -> Any:
    def going_on(state: State) -> Any:
        return lib.Command(goto="b")

    going_on.__annotations__["return"] = lib.Command[Literal["b"]]
    return edges(nodes(lib, "b", a=going_on), ".>a")


# --- state


class Numbers(TypedDict):
    total: Annotated[int, operator.add]
    most: Annotated[int, lambda old, new: max(old, new)]
    tags: Annotated[set[str], operator.or_]
    seen: Annotated[dict[str, int], lambda old, new: {**old, **new}]
    text: Annotated[str, lambda old, new: f"{old}|{new}"]


@program(acts=({"total": 1, "most": 3}, {}), parallel=True)
def reducers_of_many_kinds(lib: Lib) -> Any:
    graph = lib.StateGraph(Numbers)
    graph.add_node("a", lambda s: {"total": 2, "most": 9, "tags": {"a"}, "seen": {"a": 1}, "text": "a"})
    graph.add_node("b", lambda s: {"total": 3, "most": 4, "tags": {"b"}, "seen": {"a": 2}, "text": "b"})
    return edges(graph, ".>a", ".>b")


@program(acts=({"log": ["0"]},))
def overwrite_past_a_reducer(lib: Lib) -> Any:
    return edges(nodes(lib, "a", "c", b=lambda s: {"log": lib.Overwrite(["b"])}), ".>a", "a>b", "b>c")


@program(acts=({}, {"n": 3}))
def keys_that_nobody_wrote(lib: Lib) -> Any:
    return edges(nodes(lib, a=lambda s: {"log": sorted(s)}), ".>a")


@program()
def nothing_returned(lib: Lib) -> Any:
    return edges(nodes(lib, "c", a=lambda s: None, b=lambda s: {}), ".>a", "a>b", "b>c")


@program()
def state_returned_whole(lib: Lib) -> Any:
    return edges(nodes(lib, a=lambda s: {"n": s["n"] + 1, "note": "x"}, b=lambda s: {**s, "log": []}), ".>a", "a>b")


@dataclass
class Data:
    n: int = 0
    log: Annotated[list[str], operator.add] = field(default_factory=list)


@program(acts=({"n": 1}, Data(n=2, log=["x"])))
def dataclass_state(lib: Lib) -> Any:
    graph = lib.StateGraph(Data).add_node("a", lambda s: {"n": s.n + 1, "log": [type(s).__name__]})
    graph.add_node("b", lambda s: Data(n=s.n * 10))
    return edges(graph, ".>a", "a>b")


class Model(BaseModel):
    n: int
    log: Annotated[list[str], operator.add] = []


@program(acts=({"n": 1, "log": ["x"]}, Model(n=2)))
def pydantic_state(lib: Lib) -> Any:
    graph = lib.StateGraph(Model).add_node("a", lambda s: {"n": s.n + 1, "log": [type(s).__name__]})
    graph.add_node("b", lambda s: Model(n=s.n * 10))
    return edges(graph, ".>a", "a>b")


class Narrow(TypedDict):
    n: int


class Hidden(TypedDict):
    secret: str


@program(acts=({"n": 1},))
def schemas_of_input_and_output(lib: Lib) -> Any:
    graph = lib.StateGraph(State, input_schema=Narrow, output_schema=Narrow).add_node("a", count)
    return edges(graph, ".>a")


@program(acts=({"n": 1},))
def private_keys_between_nodes(lib: Lib) -> Any:
    def tell(state: Hidden) -> dict[str, Any]:
        return {"log": [state["secret"], *sorted(state)]}

    def hide(state: State) -> Hidden:
        return {"secret": "s"}

    graph = lib.StateGraph(State).add_node("a", hide).add_node("b", tell, input_schema=Hidden)
    return edges(graph, ".>a", "a>b")


# --- subgraphs


def inner(lib: Lib, *functions: Any) -> Any:
    graph = lib.StateGraph(Narrow)
    graph.add_sequence([(f"i{index}", function) for index, function in enumerate(functions)])
    return edges(graph, ".>i0").compile()


def double(state: Any) -> dict[str, Any]:
    return {"n": state["n"] * 2}


@program(acts=({"n": 3},))
def graph_as_a_node(lib: Lib) -> Any:
    return edges(nodes(lib, "a", sub=inner(lib, double, double)), ".>a", "a>sub")


@program(acts=({"n": 3},))
def graph_called_by_a_node(lib: Lib) -> Any:
    sub = inner(lib, double)
    return edges(nodes(lib, a=lambda s: {"log": [str(sub.invoke({"n": s["n"]}))]}), ".>a")


@program(acts=({"n": 1},))
def graph_in_a_loop(lib: Lib) -> Any:
    graph = edges(nodes(lib, sub=inner(lib, double)), ".>sub")
    graph.add_conditional_edges("sub", lambda s: END if s["n"] > 20 else "sub", ["sub", END])
    return graph


@program(acts=({"log": ["0"]},))
def shared_key_with_a_reducer_counts_twice(lib: Lib) -> Any:
    sub = edges(nodes(lib, "x"), ".>x").compile()
    return edges(nodes(lib, "a", sub=sub), ".>a", "a>sub")


@program(acts=({"n": 1},))
def command_to_the_parent(lib: Lib) -> Any:
    up = lib.Command(graph=lib.Command.PARENT, update={"log": ["up"]}, goto="b")
    graph = nodes(lib, "b", "c")
    graph.add_node("sub", inner(lib, lambda s: up), destinations=("b",))
    return edges(graph, ".>sub")


# --- errors, retries, caches


def raising(state: Any) -> Any:
    raise LookupError("no such order")


@program()
def error_of_a_node(lib: Lib) -> Any:
    return edges(nodes(lib, "a", b=raising), ".>a", "a>b")


@program(parallel=True)
def two_writes_without_a_reducer(lib: Lib) -> Any:
    return edges(nodes(lib, a=lambda s: {"n": 1}, b=lambda s: {"n": 1}), ".>a", ".>b")


@program()
def result_that_is_no_update(lib: Lib) -> Any:
    return edges(nodes(lib, a=lambda s: 5), ".>a")


@program(config={"recursion_limit": 4})
def recursion_limit(lib: Lib) -> Any:
    graph = edges(nodes(lib, c=count), ".>c")
    graph.add_conditional_edges("c", lambda s: "c", ["c"])
    return graph


@program()
def error_in_a_router(lib: Lib) -> Any:
    graph = edges(nodes(lib, "a"), ".>a")
    graph.add_conditional_edges("a", raising, [END])
    return graph


def flaky(lib: Lib, failures: int, attempts: int) -> Any:
    tries: list[int] = []

    def failing(state: Any) -> dict[str, Any]:
        tries.append(1)
        if len(tries) <= failures:
            raise ConnectionError("down")
        return {"log": [f"try {len(tries)}"]}

    graph = lib.StateGraph(State).add_node("a", failing, **lib.retry(attempts, ConnectionError))
    return edges(graph, ".>a")


@program()
def retry_that_helps(lib: Lib) -> Any:
    return flaky(lib, 2, 3)


@program()
def retry_that_gives_up(lib: Lib) -> Any:
    return flaky(lib, 3, 3)


@program(acts=({"n": 1}, {"n": 1}, {"n": 2}))
def cached_node(lib: Lib) -> Any:
    calls: list[int] = []

    def costly(state: Any) -> dict[str, Any]:
        calls.append(1)
        return {"log": [f"{state['n']}, call {len(calls)}"]}

    options, compiled_with = lib.cache()
    graph = edges(lib.StateGraph(State).add_node("a", costly, **options), ".>a")
    return graph.compile(**compiled_with)


# --- coroutines


async def acount(state: Any) -> dict[str, Any]:
    await asyncio.sleep(0)
    return count(state)


@program(needs_loop=True)
def coroutines(lib: Lib) -> Any:
    return edges(nodes(lib, a=acount, b=acount), ".>a", "a>b")


@program(needs_loop=True, parallel=True)
def coroutines_beside_plain_functions(lib: Lib) -> Any:
    async def asay(state: Any) -> dict[str, Any]:
        await asyncio.sleep(0.001)
        return {"log": ["async"]}

    return edges(nodes(lib, "b", "c", a=asay), ".>a", ".>b", "a+b>c")


@program(needs_loop=True)
def coroutine_as_a_router(lib: Lib) -> Any:
    async def route(state: Any) -> str:
        await asyncio.sleep(0)
        return END if state["n"] > 2 else "a"

    graph = edges(nodes(lib, a=acount), ".>a")
    graph.add_conditional_edges("a", route, ["a", END])
    return graph


@program(needs_loop=True, parallel=True)
def coroutines_that_were_sent(lib: Lib) -> Any:
    async def work(given: int) -> dict[str, Any]:
        await asyncio.sleep(0.001)
        return {"log": [str(given)]}

    graph = lib.StateGraph(State).add_node("w", work)
    graph.add_conditional_edges(START, lambda s: [lib.Send("w", i) for i in range(4)], ["w"])
    return graph


# --- threads

RESUME, NONE, UPDATE, PAST = "resume", "none", "update", "past"


@program(kept=True, acts=({"n": 0}, {"n": 5, "log": ["x"]}))
def second_turn_of_a_thread(lib: Lib) -> Any:
    return edges(nodes(lib, "a", c=count), ".>a", "a>c")


@program(kept=True, acts=({"n": 0}, (RESUME, "yes")))
def question(lib: Lib) -> Any:
    return edges(nodes(lib, "a", "c", b=asking(lib, "sure?")), ".>a", "a>b", "b>c")


@program(kept=True, acts=({"n": 0}, (RESUME, 1), (RESUME, 2)))
def two_questions_of_one_node(lib: Lib) -> Any:
    return edges(nodes(lib, a=asking(lib, "one?", "two?")), ".>a")


@program(kept=True, parallel=True, acts=({"n": 0}, (RESUME, {"a?": "A", "b?": "B"})))
def questions_at_once(lib: Lib) -> Any:
    return edges(nodes(lib, "c", a=asking(lib, "a?"), b=asking(lib, "b?")), ".>a", ".>b", ".>c")


@program(kept=True, parallel=True, acts=({"n": 0}, (RESUME, {"b?": "B"}), (RESUME, {"a?": "A"})))
def questions_at_once_answered_in_turn(lib: Lib) -> Any:
    return edges(nodes(lib, "c", "d", a=asking(lib, "a?"), b=asking(lib, "b?")), ".>a", ".>b", ".>c", "a+b>d")


@program(kept=True, parallel=True, acts=({"n": 0}, (RESUME, {"1": "x", "2": "y"})))
def questions_of_sends(lib: Lib) -> Any:
    graph = lib.StateGraph(State).add_node("w", lambda given: {"log": [lib.interrupt(str(given))]})
    graph.add_conditional_edges(START, lambda s: [lib.Send("w", i) for i in (1, 2)], ["w"])
    return graph


@program(kept=True, acts=({"n": 0}, (RESUME, "yes")))
def question_inside_a_graph(lib: Lib) -> Any:
    sub = edges(nodes(lib, "x", y=asking(lib, "deep?")), ".>x", "x>y").compile()
    return edges(nodes(lib, "a", "z", sub=sub), ".>a", "a>sub", "sub>z")


@program(kept=True, acts=({"n": 0}, (NONE,), (NONE,)), options={"interrupt_before": ["b", "c"]})
def breakpoints_before(lib: Lib) -> Any:
    return edges(nodes(lib, *"abc"), ".>a", "a>b", "b>c")


@program(kept=True, acts=({"n": 0}, (NONE,)), options={"interrupt_after": ["a"]})
def breakpoint_after(lib: Lib) -> Any:
    return edges(nodes(lib, *"abc"), ".>a", "a>b", "b>c")


@program(kept=True, acts=({"n": 0}, (NONE,), (NONE,), (NONE,)), options={"interrupt_before": ["c"]})
def breakpoint_in_a_loop(lib: Lib) -> Any:
    graph = edges(nodes(lib, c=count), ".>c")
    graph.add_conditional_edges("c", lambda s: END if s["n"] == 3 else "c", ["c", END])
    return graph


@program(kept=True, acts=({"n": 0}, (UPDATE, {"log": ["told"]}, None), (NONE,)), options={"interrupt_before": ["b"]})
def state_changed_at_a_breakpoint(lib: Lib) -> Any:
    return edges(nodes(lib, *"abc"), ".>a", "a>b", "b>c")


@program(kept=True, acts=({"n": 0}, (UPDATE, {"log": ["as b"]}, "b"), (NONE,)), options={"interrupt_before": ["b"]})
def state_changed_as_the_node_that_waits(lib: Lib) -> Any:
    return edges(nodes(lib, *"abc"), ".>a", "a>b", "b>c")


@program(kept=True, acts=((UPDATE, {"log": ["as a"], "n": 3}, "a"), (NONE,)))
def thread_that_begins_with_a_change(lib: Lib) -> Any:
    graph = edges(nodes(lib, *"abc"), ".>a")
    graph.add_conditional_edges("a", lambda s: "c" if s["n"] else "b", ["b", "c"])
    return graph


@program(kept=True, acts=({"n": 0}, (PAST, "b")))
def run_again_from_the_past(lib: Lib) -> Any:
    return edges(nodes(lib, *"abc"), ".>a", "a>b", "b>c")


@program(kept=True, acts=({"n": 0}, (PAST, "b", {"log": ["other"]}, "a")))
def fork_of_the_past(lib: Lib) -> Any:
    return edges(nodes(lib, *"abc"), ".>a", "a>b", "b>c")


@program(kept=True, acts=({"n": 0}, (RESUME, "yes", {"log": ["and more"]})))
def answer_with_an_update(lib: Lib) -> Any:
    return edges(nodes(lib, "c", b=asking(lib, "sure?")), ".>b", "b>c")


@program(kept=True, parallel=True, acts=({"n": 0}, (NONE,)))
def resumed_after_an_error(lib: Lib) -> Any:
    broken = [True]

    def failing(state: Any) -> dict[str, Any]:
        if broken:
            broken.clear()
            raise ConnectionError("down")
        return {"log": ["mended"]}

    return edges(nodes(lib, "a", "c", b=failing), ".>a", "a>b", "b>c")


@program(acts=({"n": 0},))
def custom_events(lib: Lib) -> Any:
    def telling(state: Any) -> dict[str, Any]:
        lib.writer()({"progress": state["n"]})
        return count(state)

    return edges(nodes(lib, a=telling, b=telling), ".>a", "a>b")


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.filterwarnings("ignore::meshflow.graph.errors.UnreachableNodeWarning")
async def test_program_gives_the_same_on_both(name: str) -> None:
    theirs, ours = await both(PROGRAMS[name])
    assert ours == theirs


def test_there_are_enough_programs() -> None:
    assert len(PROGRAMS) >= 60
