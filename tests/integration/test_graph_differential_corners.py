"""More programs on LangGraph and on meshflow: threads, questions and graphs inside of graphs, where they meet.

Where we differ by intent, docs/how-to/coming-from-langgraph.md says so, and these programs go around it.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from pydantic import BaseModel
from two_libraries import END, START, Lib, Programs, State, asking, both, edges, nodes, say

program = PROGRAMS = Programs()
HISTORY = ("history",)


class Logs(TypedDict):
    log: Annotated[list[str], operator.add]


class Numbered(Logs):
    number: int


class Model(BaseModel):
    n: int = 0
    log: Annotated[list[str], operator.add] = []


def inside(lib: Lib, *names: str, arrows: tuple[str, ...], **more: Any) -> Any:
    """A graph that shares one key with the graph around."""
    graph = lib.StateGraph(Logs)
    for name in names:
        graph.add_node(name, say(name))
    for name, function in more.items():
        graph.add_node(name, function)
    return edges(graph, *arrows)


def failing_at_first(word: str, times: int = 1) -> Any:
    calls: list[int] = []

    def node(state: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) <= times:
            raise ConnectionError("down")
        return {"log": [f"{word}{len(calls)}"]}

    return node


# --- histories, inputs and changes


@program(kept=True, acts=({"n": 0}, HISTORY, {"n": 1}, HISTORY))
def history_of_two_turns(lib: Lib) -> Any:
    return edges(nodes(lib, *"ab"), ".>a", "a>b")


@program(kept=True, acts=({"n": 0}, ("none",), HISTORY))
def nothing_is_left_to_do(lib: Lib) -> Any:
    return edges(nodes(lib, *"ab"), ".>a", "a>b")


@program(kept=True, acts=({"n": 0}, {"n": 4}, HISTORY))
def input_while_a_question_is_open(lib: Lib) -> Any:
    return edges(nodes(lib, "c", b=asking(lib, "sure?")), ".>b", "b>c")


@program(kept=True, parallel=True, acts=({"n": 0}, {"n": 4}, ("resume", {"sure?": "y"})))
def input_while_a_question_beside_another_node_is_open(lib: Lib) -> Any:
    return edges(nodes(lib, "a", "c", b=asking(lib, "sure?")), ".>b", ".>a", "a+b>c")


@program(kept=True, acts=({"n": 0}, {"n": 1}, ("none",)), options={"interrupt_before": ["b"]})
def input_at_a_breakpoint(lib: Lib) -> Any:
    return edges(nodes(lib, *"abc"), ".>a", "a>b", "b>c")


@program(kept=True, parallel=True, acts=({"n": 0}, {"n": 1}, ("none",)), options={"interrupt_before": ["b"]})
def input_when_half_of_a_join_has_come(lib: Lib) -> Any:
    return edges(nodes(lib, *"abcd"), ".>a", ".>c", "c>b", "a+b>d")


@program(kept=True, acts=({"n": 0}, ("past input", "b", {"n": 7, "log": ["new"]})))
def input_at_a_checkpoint_of_the_past(lib: Lib) -> Any:
    return edges(nodes(lib, *"abc"), ".>a", "a>b", "b>c")


@program(kept=True, acts=({"n": 0}, ("update", {"log": ["u"]}, None), ("update", {"log": ["v"]}, None), ("none",)))
def changes_at_the_end(lib: Lib) -> Any:
    return edges(nodes(lib, *"ab"), ".>a", "a>b")


@program(kept=True, acts=({"n": 0}, ("update", {"log": ["u"]}, START), ("none",)))
def change_as_the_input(lib: Lib) -> Any:
    return edges(nodes(lib, *"ab"), ".>a", "a>b")


@program(kept=True, acts=({"n": 0}, ("update", None, END), ("none",)), options={"interrupt_before": ["b"]})
def change_that_ends_the_run(lib: Lib) -> Any:
    return edges(nodes(lib, *"ab"), ".>a", "a>b")


@program(kept=True, acts=({"n": 0}, ("update", {"log": ["u"]}, "b"), ("none",)), options={"interrupt_before": ["b"]})
def change_as_a_node_with_a_router(lib: Lib) -> Any:
    graph = edges(nodes(lib, *"abc"), ".>a", "a>b")
    graph.add_conditional_edges("b", lambda s: "c" if "u" in s["log"] else END, ["c", END])
    return graph


@program(
    kept=True, parallel=True, acts=({"n": 0}, ("update", {"log": ["u"]}, "a"), ("none",)),
    options={"interrupt_before": ["b", "c"]},
)  # fmt: skip
def change_as_the_node_before_two_that_wait(lib: Lib) -> Any:
    return edges(nodes(lib, *"abcd"), ".>a", "a>b", "a>c", "b+c>d")


@program(
    kept=True, parallel=True, acts=({"n": 0}, ("update", {"log": ["told"]}, "y"), ("none",)),
    options={"interrupt_before": ["w"]},
)  # fmt: skip
def change_replaces_sends_that_wait(lib: Lib) -> Any:
    graph = nodes(lib, "x", "y", w=lambda given: {"log": [str(given)]})
    graph.add_conditional_edges("x", lambda s: [lib.Send("w", i) for i in range(2)], ["w"])
    return edges(graph, ".>x")


# --- commands of the caller


@program(kept=True, acts=({"n": 0}, ("command", lambda lib: {"update": {"log": ["u"]}}), ("none",)))
def command_that_updates_at_the_end(lib: Lib) -> Any:
    return edges(nodes(lib, *"ab"), ".>a", "a>b")


@program(
    kept=True, parallel=True, acts=({"n": 0}, ("command", lambda lib: {"goto": "c", "update": {"log": ["told"]}})),
    options={"interrupt_before": ["b"]},
)  # fmt: skip
def command_that_goes_from_a_breakpoint(lib: Lib) -> Any:
    return edges(nodes(lib, *"abcd"), ".>a", "a>b", "c>d")


@program(
    kept=True, parallel=True,
    acts=({"n": 0}, ("command", lambda lib: {"goto": [lib.Send("w", 5), "c"], "resume": "yes"})),
)  # fmt: skip
def command_that_answers_and_goes_and_sends(lib: Lib) -> Any:
    return edges(nodes(lib, "c", b=asking(lib, "sure?"), w=lambda given: {"log": [str(given)]}), ".>b")


# --- questions and graphs inside


@program(kept=True, acts=({"n": 0}, ("resume", "yes"), ("resume", "more")))
def two_questions_inside(lib: Lib) -> Any:
    sub = inside(lib, "x", y=asking(lib, "deep?", "deeper?"), arrows=(".>x", "x>y")).compile()
    return edges(nodes(lib, "a", "z", sub=sub), ".>a", "a>sub", "sub>z")


@program(kept=True, acts=({"n": 0}, ("resume", "yes"), ("resume", "more")))
def question_before_one_inside(lib: Lib) -> Any:
    sub = inside(lib, "x", y=asking(lib, "deep?"), arrows=(".>x", "x>y")).compile()

    def calling(state: Any) -> dict[str, Any]:
        return {"log": [lib.interrupt("outer?"), *sub.invoke({"log": []})["log"]]}

    return edges(nodes(lib, "a", "z", call=calling), ".>a", "a>call", "call>z")


@program(kept=True, acts=({"n": 0}, ("resume", "yes"), ("resume", "more")))
def question_behind_one_inside(lib: Lib) -> Any:
    sub = inside(lib, "x", y=asking(lib, "deep?"), arrows=(".>x", "x>y")).compile()

    def calling(state: Any) -> dict[str, Any]:
        got = sub.invoke({"log": []})["log"]
        return {"log": [lib.interrupt("outer?"), *got]}

    return edges(nodes(lib, "a", "z", call=calling), ".>a", "a>call", "call>z")


@program(kept=True, acts=({"n": 0}, ("resume", "yes"), ("resume", "more")))
def questions_of_two_graphs_that_one_node_calls(lib: Lib) -> Any:
    one = inside(lib, "x", y=asking(lib, "one?"), arrows=(".>x", "x>y")).compile()
    two = inside(lib, "v", w=asking(lib, "two?"), arrows=(".>v", "v>w")).compile()

    def calling(state: Any) -> dict[str, Any]:
        return {"log": [*one.invoke({"log": []})["log"], *two.invoke({"log": []})["log"]]}

    return edges(nodes(lib, "a", "z", call=calling), ".>a", "a>call", "call>z")


@program(kept=True, parallel=True, acts=({"n": 0}, ("resume", {"p?": "P", "q?": "Q"})))
def two_questions_at_once_inside(lib: Lib) -> Any:
    sub = inside(lib, "x", p=asking(lib, "p?"), q=asking(lib, "q?"), arrows=(".>x", ".>p", ".>q")).compile()
    return edges(nodes(lib, "a", "z", sub=sub), ".>a", "a>sub", "sub>z")


@program(kept=True, parallel=True, acts=({"n": 0}, ("resume", {"p?": "P"}), ("resume", "Q")))
def two_questions_at_once_inside_answered_in_turn(lib: Lib) -> Any:
    sub = inside(lib, "x", p=asking(lib, "p?"), q=asking(lib, "q?"), arrows=(".>x", ".>p", ".>q")).compile()
    return edges(nodes(lib, "a", "z", sub=sub), ".>a", "a>sub", "sub>z")


@program(kept=True, parallel=True, unordered=True, acts=({"n": 0}, ("resume", {"p?": "P"}), ("resume", "Q")))
def questions_of_two_graphs_at_once(lib: Lib) -> Any:
    one = inside(lib, "x", p=asking(lib, "p?"), arrows=(".>x", "x>p")).compile()
    two = inside(lib, "y", q=asking(lib, "q?"), arrows=(".>y", "y>q")).compile()
    return edges(nodes(lib, "a", "z", one=one, two=two), ".>a", "a>one", "a>two", "one+two>z")


@program(kept=True, parallel=True, unordered=True, acts=({"n": 0}, ("resume", {"0": "P"}), ("resume", {"1": "Q"})))
def questions_of_graphs_that_were_sent_to(lib: Lib) -> Any:
    sub = lib.StateGraph(Numbered).add_node("p", lambda s: {"log": [lib.interrupt(str(s["number"]))]})
    graph = lib.StateGraph(State).add_node("sub", edges(sub, ".>p").compile())
    graph.add_conditional_edges(START, lambda s: [lib.Send("sub", {"number": i}) for i in range(2)], ["sub"])
    return graph


@program(kept=True, acts=({"n": 0}, ("resume", "A"), ("resume", "B"), ("resume", "C")))
def question_in_a_loop(lib: Lib) -> Any:
    def ask(state: Any) -> dict[str, Any]:
        return {"log": [lib.interrupt(f"{state['n']}?")], "n": state["n"] + 1}

    graph = edges(nodes(lib, ask=ask), ".>ask")
    graph.add_conditional_edges("ask", lambda s: END if s["n"] > 2 else "ask", ["ask", END])
    return graph


@program(kept=True, acts=({"n": 0}, ("resume", "A"), ("resume", "B"), ("resume", "C")))
def question_inside_in_a_loop(lib: Lib) -> Any:
    def ask(state: Any) -> dict[str, Any]:
        return {"log": [lib.interrupt("?")], "n": state["n"] + 1}

    sub = edges(lib.StateGraph(State).add_node("ask", ask), ".>ask").compile()
    graph = edges(nodes(lib, call=lambda s: sub.invoke({"n": s["n"], "log": []})), ".>call")
    graph.add_conditional_edges("call", lambda s: END if s["n"] > 2 else "call", ["call", END])
    return graph


@program(kept=True, parallel=True, acts=({"n": 0}, ("resume", "yes"), ("none",)), options={"interrupt_before": ["c"]})
def question_and_then_a_breakpoint(lib: Lib) -> Any:
    return edges(nodes(lib, "a", "c", b=asking(lib, "sure?")), ".>a", ".>b", "b>c")


@program(kept=True, acts=({"n": 0}, ("none",)))
def breakpoint_inside(lib: Lib) -> Any:
    sub = inside(lib, "x", "y", arrows=(".>x", "x>y")).compile(interrupt_before=["y"])
    return edges(nodes(lib, "a", "z", sub=sub), ".>a", "a>sub", "sub>z")


@program(kept=True, acts=({"n": 0}, ("none",)))
def breakpoint_behind_a_node_inside(lib: Lib) -> Any:
    sub = inside(lib, "x", "y", arrows=(".>x", "x>y")).compile(interrupt_after=["x"])
    return edges(nodes(lib, "a", "z", sub=sub), ".>a", "a>sub", "sub>z")


@program(kept=True, acts=({"n": 0}, ("none",), ("none",)), options={"interrupt_after": ["b"]})
def breakpoint_behind_the_last_node(lib: Lib) -> Any:
    return edges(nodes(lib, *"ab"), ".>a", "a>b")


@program(
    kept=True, acts=({"n": 0}, ("none",), ("none",), ("none",)),
    options={"interrupt_after": "*", "interrupt_before": "*"},
)  # fmt: skip
def breakpoints_everywhere(lib: Lib) -> Any:
    return edges(nodes(lib, *"ab"), ".>a", "a>b")


# --- graphs inside: streams, commands, errors


@program(parallel=True, unordered=True)
def graphs_side_by_side(lib: Lib) -> Any:
    one = inside(lib, "x", "y", arrows=(".>x", "x>y")).compile()
    two = inside(lib, "v", "w", arrows=(".>v", ".>w")).compile()
    return edges(nodes(lib, "z", one=one, two=two), ".>one", ".>two", "one+two>z")


@program()
def graph_in_a_graph_in_a_graph(lib: Lib) -> Any:
    one = inside(lib, "x", "y", arrows=(".>x", "x>y")).compile()
    two = inside(lib, "v", one=one, arrows=(".>v", "v>one")).compile()
    return edges(nodes(lib, "z", two=two), ".>two", "two>z")


@program(needs_loop=True, parallel=True)
def custom_events_from_inside(lib: Lib) -> Any:
    async def telling(state: Any) -> dict[str, Any]:
        lib.writer()("hello")
        return {"log": ["x"]}

    sub = inside(lib, x=telling, arrows=(".>x",)).compile()
    return edges(nodes(lib, "a", "z", sub=sub), ".>a", "a>sub", "sub>z")


def up(lib: Lib, *goto: Any) -> Any:
    return lambda state: lib.Command(graph=lib.Command.PARENT, update={"log": ["up"]}, goto=list(goto))


@program()
def command_to_the_graph_around_from_two_below(lib: Lib) -> Any:
    one = inside(lib, "x", y=up(lib, "b"), arrows=(".>x", "x>y")).compile()
    two = inside(lib, "v", "b", arrows=(".>v", "v>one"), one=one)
    return edges(nodes(lib, "z", two=two.compile()), ".>two", "two>z")


@program(parallel=True)
def command_to_the_graph_around_beside_others(lib: Lib) -> Any:
    sub = inside(lib, "x", y=up(lib, "b"), arrows=(".>x", ".>y")).compile()
    graph = nodes(lib, "b", "c")
    graph.add_node("sub", sub, destinations=("b",))
    return edges(graph, ".>sub", ".>c")


@program(parallel=True)
def command_to_the_graph_around_that_sends(lib: Lib) -> Any:
    sub = inside(lib, y=up(lib, lib.Send("w", {"i": 1}), "b"), arrows=(".>y",)).compile()
    graph = nodes(lib, "b", w=lambda given: {"log": [str(given)]})
    graph.add_node("sub", sub, destinations=("b", "w"))
    return edges(graph, ".>sub")


@program(kept=True, acts=({"n": 0}, ("none",)))
def error_inside(lib: Lib) -> Any:
    sub = inside(lib, "x", y=failing_at_first("y"), arrows=(".>x", "x>y")).compile()
    return edges(nodes(lib, "a", "z", sub=sub), ".>a", "a>sub", "sub>z")


@program(config={"recursion_limit": 4})
def recursion_limit_inside_counts_for_itself(lib: Lib) -> Any:
    def adding(state: Any) -> dict[str, Any]:
        return {"log": ["c"]}

    sub = inside(lib, c=adding, arrows=(".>c",))
    sub.add_conditional_edges("c", lambda s: "c" if len(s["log"]) < 3 else END, ["c", END])
    return edges(nodes(lib, "a", sub=sub.compile()), ".>sub", "sub>a")


@program(config={"recursion_limit": 4})
def recursion_limit_inside_is_reached(lib: Lib) -> Any:
    sub = inside(lib, "c", arrows=(".>c",))
    sub.add_conditional_edges("c", lambda s: "c", ["c"])
    return edges(nodes(lib, "a", sub=sub.compile()), ".>a", "a>sub")


# --- failures, retries, reducers


@program(kept=True, acts=({"n": 0}, ("resume", "A"), ("resume", "B")))
def questions_between_tries(lib: Lib) -> Any:
    tries: list[int] = []

    def node(state: Any) -> dict[str, Any]:
        first = lib.interrupt("one?")
        tries.append(1)
        if len(tries) in (1, 3):
            raise ConnectionError("down")
        return {"log": [first, lib.interrupt("two?"), str(len(tries))]}

    graph = lib.StateGraph(State).add_node("a", node, **lib.retry(3, ConnectionError))
    return edges(graph, ".>a")


@program(kept=True, parallel=True, acts=({"n": 0}, ("none",)))
def nodes_that_fail_side_by_side(lib: Lib) -> Any:
    return edges(nodes(lib, "a", b=failing_at_first("b", 2)), ".>a", ".>b")


@program(kept=True, parallel=True, acts=({"n": 0}, ("none",), HISTORY))
def reducer_that_fails_at_first(lib: Lib) -> Any:
    fails = [1]

    def joined(old: list[str], new: list[str]) -> list[str]:
        if new == ["b"] and fails:
            fails.pop()
            raise ConnectionError("reducer")
        return (old or []) + new

    graph = lib.StateGraph(TypedDict("Joined", {"log": Annotated[list[str], joined], "n": int}))
    for name in "ab":
        graph.add_node(name, say(name))
    return edges(graph, ".>a", ".>b")


@program(parallel=True)
def overwrite_beside_others(lib: Lib) -> Any:
    return edges(nodes(lib, "b", "c", a=lambda s: {"log": lib.Overwrite(["a"])}), ".>a", ".>b", ".>c")


@program(parallel=True)
def two_overwrites_at_once(lib: Lib) -> Any:
    def node(state: Any) -> dict[str, Any]:
        return {"log": lib.Overwrite(["a"])}

    return edges(nodes(lib, "c", a=node, b=node), ".>a", ".>b", ".>c")


# --- the past, Sends and joins


@program(kept=True, parallel=True, acts=({"n": 0}, ("past", "d"), HISTORY))
def from_the_past_behind_a_join(lib: Lib) -> Any:
    return edges(nodes(lib, *"abcd"), ".>a", ".>b", "b>c", "a+c>d")


@program(kept=True, parallel=True, acts=({"n": 0}, ("past", "c"), HISTORY))
def from_the_past_before_a_join(lib: Lib) -> Any:
    return edges(nodes(lib, *"abcd"), ".>a", ".>b", "b>c", "a+c>d")


@program(kept=True, parallel=True, acts=({"n": 0}, ("past", "sub")))
def from_the_past_before_a_graph_inside(lib: Lib) -> Any:
    sub = inside(lib, "x", "y", arrows=(".>x", "x>y")).compile()
    return edges(nodes(lib, "a", "z", sub=sub), ".>a", "a>sub", "sub>z")


@program(kept=True, acts=({"n": 0}, ("past", "b", {"log": ["edit"]}, None), HISTORY))
def change_of_the_past_as_whoever_ran_last(lib: Lib) -> Any:
    return edges(nodes(lib, *"abc"), ".>a", "a>b", "b>c")


@program(kept=True, acts=({"n": 0}, {"log": ["x"]}, {"n": 5}))
def inputs_of_a_part_of_the_state(lib: Lib) -> Any:
    return edges(nodes(lib, *"ab"), ".>a", "a>b")


@program(kept=True, parallel=True, acts=({"n": 0}, ("resume", {"a?": "A"}), ("resume", "B")))
def deferred_node_behind_two_questions(lib: Lib) -> Any:
    graph = nodes(lib, a=asking(lib, "a?"), b=asking(lib, "b?"))
    graph.add_node("late", say("late"), defer=True)
    return edges(graph, ".>a", ".>b", "a>late", "b>late")


@program(kept=True, parallel=True, acts=({"n": 0}, ("resume", {"q": "A"})))
def question_of_one_send_of_three(lib: Lib) -> Any:
    graph = nodes(lib, "end", w=lambda given: {"log": [lib.interrupt("q") if given == 1 else str(given)]})
    graph.add_conditional_edges(START, lambda s: [lib.Send("w", i) for i in range(3)], ["w"])
    return edges(graph, "w>end")


@program(kept=True, needs_loop=True, parallel=True, acts=({"n": 0}, ("resume", {"x?": "X"}), ("resume", "Y")))
def questions_of_coroutines(lib: Lib) -> Any:
    async def x(state: Any) -> dict[str, Any]:
        return {"log": [lib.interrupt("x?")]}

    async def y(state: Any) -> dict[str, Any]:
        return {"log": [lib.interrupt("y?")]}

    return edges(nodes(lib, "c", x=x, y=y), ".>x", ".>y", "x+y>c")


@program(kept=True, acts=({"n": 1}, ("resume", "x"), ("update", {"log": ["u"]}, "a"), ("none",)))
def pydantic_state_that_is_kept(lib: Lib) -> Any:
    graph = lib.StateGraph(Model)
    graph.add_node("a", lambda s: {"n": s.n + 1, "log": [lib.interrupt("q")]})
    graph.add_node("b", lambda s: Model(n=s.n * 2, log=["b"]))
    return edges(graph, ".>a", "a>b")


@program(parallel=True, acts=({"n": 1},))
def commands_side_by_side(lib: Lib) -> Any:
    several = [lib.Command(goto="c"), {"log": ["b"]}]
    return edges(nodes(lib, "c", a=lambda s: lib.Command(goto="c"), b=lambda s: several), ".>a", ".>b")


@program(parallel=True, acts=({"n": 1},))
def command_to_the_node_itself_and_an_edge(lib: Lib) -> Any:
    def node(state: Any) -> Any:
        return lib.Command(update={"n": state["n"] + 1, "log": ["a"]}, goto="a" if state["n"] < 3 else "c")

    return edges(nodes(lib, "c", a=node), ".>a", "a>c")


@program(parallel=True, acts=({"n": 1},))
def command_to_the_target_of_a_join(lib: Lib) -> Any:
    return edges(nodes(lib, *"bcd", a=lambda s: lib.Command(goto="d")), ".>a", ".>b", "b>c", "a+c>d")


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.filterwarnings("ignore::meshflow.graph.errors.UnreachableNodeWarning")
async def test_program_gives_the_same_on_both(name: str) -> None:
    theirs, ours = await both(PROGRAMS[name])
    assert ours == theirs
