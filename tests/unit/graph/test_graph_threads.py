"""Runs that are kept: threads, questions, breakpoints, crashes, history, time travel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Annotated, Any, TypedDict

import pytest
from pydantic import BaseModel

from meshflow.checkpoint.memory import MemoryCheckpoints
from meshflow.checkpoint.store import CheckpointConflictError
from meshflow.errors import EncodingError
from meshflow.graph.builder import StateGraph
from meshflow.graph.errors import InvalidRunError, RouteError
from meshflow.graph.markers import END, START, Command, Send
from meshflow.graph.reducers import add
from meshflow.graph.task import NodeRun, interrupt


class State(TypedDict):
    log: Annotated[list[str], add]
    count: int


def saying(word: str) -> Callable[[State], dict[str, Any]]:
    return lambda state: {"log": [word]}


def line(*names: str) -> StateGraph:
    built = StateGraph(State)
    for name in names:
        built.add_node(name, saying(name))
    for source, target in zip((START, *names), names, strict=False):
        built.add_edge(source, target)
    return built


def test_thread_goes_on_where_it_was_and_threads_are_apart(store: Any) -> None:
    graph = line("a").compile(store)
    assert graph.invoke({"log": ["1"]}, thread_id="t")["log"] == ["1", "a"]
    assert graph.invoke({"log": ["2"]}, {"configurable": {"thread_id": "t"}})["log"] == ["1", "a", "2", "a"]
    assert graph.invoke({"log": ["3"]}, thread_id="other")["log"] == ["3", "a"]
    assert graph.invoke({"log": ["4"]}, thread_id="t", tenant="other")["log"] == ["4", "a"]


def test_checkpointer_without_a_thread_and_a_thread_without_a_checkpointer_are_told_what_to_change(store: Any) -> None:
    with pytest.raises(InvalidRunError, match="thread_id"):
        line("a").compile(store).invoke({})
    with pytest.raises(InvalidRunError, match="no threads"):
        line("a").compile().get_state(thread_id="t")
    with pytest.raises(InvalidRunError, match="no checkpoint"):
        line("a").compile(store).invoke(None, thread_id="new")


def test_interrupt_asks_and_the_answer_is_delivered(store: Any) -> None:
    def asking(state: State) -> dict[str, Any]:
        first = interrupt({"question": "name?"})
        second = interrupt(f"{first}, and age?")
        return {"log": [f"{first} is {second}"]}

    graph = StateGraph(State).add_node("ask", asking).add_node("b", saying("b")).add_edge(START, "ask")
    compiled = graph.add_edge("ask", "b").compile(store)
    result = compiled.invoke({"log": ["0"]}, thread_id="t")
    assert [one.value for one in result["__interrupt__"]] == [{"question": "name?"}]
    assert result["log"] == ["0"]
    state = compiled.get_state(thread_id="t")
    assert (state.next, [one.value for one in state.interrupts]) == (("ask",), [{"question": "name?"}])
    result = compiled.invoke(Command(resume="Ana"), thread_id="t")
    assert [one.value for one in result["__interrupt__"]] == ["Ana, and age?"]
    result = compiled.invoke(Command(resume=30), thread_id="t")
    assert result == {"log": ["0", "Ana is 30", "b"]}
    assert compiled.get_state(thread_id="t").next == ()


def test_answer_of_none_counts_as_an_answer_by_id(store: Any) -> None:
    graph = StateGraph(State).add_node("ask", lambda state: {"log": [str(interrupt("?"))]}).add_edge(START, "ask")
    compiled = graph.compile(store)
    (asked,) = compiled.invoke({}, thread_id="t")["__interrupt__"]
    assert compiled.invoke(Command(resume={asked.id: None}), thread_id="t")["log"] == ["None"]


def test_interrupt_needs_a_checkpointer_and_a_node() -> None:
    graph = StateGraph(State).add_node("ask", lambda state: interrupt("?")).add_edge(START, "ask").compile()
    with pytest.raises(InvalidRunError, match="checkpointer"):
        graph.invoke({})
    with pytest.raises(Exception, match="inside a node"):
        interrupt("?")


def test_interrupt_passes_through_the_nodes_own_except_exception(store: Any) -> None:
    def careful(state: State) -> dict[str, Any]:
        try:
            return {"log": [interrupt("?")]}
        except Exception:
            return {"log": ["swallowed"]}

    graph = StateGraph(State).add_node("ask", careful).add_edge(START, "ask").compile(store)
    assert "__interrupt__" in graph.invoke({}, thread_id="t")
    assert graph.invoke(Command(resume="yes"), thread_id="t")["log"] == ["yes"]


def asking_pair() -> tuple[StateGraph, list[str]]:
    ran: list[str] = []

    def done(state: State) -> dict[str, Any]:
        ran.append("done")
        return {"log": ["done"]}

    graph = StateGraph(State).add_node("a", lambda state: {"log": [f"a={interrupt('a?')}"]})
    graph.add_node("b", lambda state: {"log": [f"b={interrupt('b?')}"]}).add_node("c", done)
    return graph.add_edge(START, "a").add_edge(START, "b").add_edge(START, "c"), ran


def test_two_questions_at_once_are_answered_by_id_and_the_finished_sibling_does_not_run_again(store: Any) -> None:
    graph, ran = asking_pair()
    compiled = graph.compile(store)
    asked = {one.value: one.id for one in compiled.invoke({}, thread_id="t")["__interrupt__"]}
    with pytest.raises(InvalidRunError, match="2 nodes wait"):
        compiled.invoke(Command(resume="which?"), thread_id="t")
    result = compiled.invoke(Command(resume={asked["a?"]: 1}), thread_id="t")
    assert [one.value for one in result["__interrupt__"]] == ["b?"]
    assert compiled.invoke(Command(resume=2), thread_id="t")["log"] == ["a=1", "b=2", "done"]
    assert ran == ["done"]


def test_both_questions_are_answered_at_once(store: Any) -> None:
    graph, ran = asking_pair()
    compiled = graph.compile(store)
    asked = {one.value: one.id for one in compiled.invoke({}, thread_id="t")["__interrupt__"]}
    answers = {asked["a?"]: 1, asked["b?"]: 2}
    assert compiled.invoke(Command(resume=answers), thread_id="t")["log"] == ["a=1", "b=2", "done"]
    assert ran == ["done"]


def test_answer_that_nobody_asked_for_is_refused(store: Any) -> None:
    compiled = line("a").compile(store)
    compiled.invoke({}, thread_id="t")
    with pytest.raises(InvalidRunError, match="answers nothing"):
        compiled.invoke(Command(resume=1), thread_id="t")
    with pytest.raises(InvalidRunError, match="says nothing"):
        compiled.invoke(Command(), thread_id="t")


def test_questions_of_sends_are_matched_with_their_own_answers(store: Any) -> None:
    graph = StateGraph(State).add_node("ask", lambda given: {"log": [f"{given}:{interrupt(given)}"]})
    graph.add_conditional_edges(START, lambda state: [Send("ask", n) for n in range(3)])
    compiled = graph.compile(store)
    asked = compiled.invoke({}, thread_id="t")["__interrupt__"]
    answers = {one.id: one.value * 10 for one in asked}
    assert compiled.invoke(Command(resume=answers), thread_id="t")["log"] == ["0:0", "1:10", "2:20"]


def test_interrupt_before_fires_before_the_node_and_after_behind_its_checkpoint(store: Any) -> None:
    compiled = line("a", "b", "c").compile(store, interrupt_before=["b"], interrupt_after=["b"])
    assert compiled.invoke({}, thread_id="t") == {"log": ["a"]}
    assert compiled.get_state(thread_id="t").next == ("b",)
    assert compiled.invoke(None, thread_id="t") == {"log": ["a", "b"]}
    assert compiled.get_state(thread_id="t").next == ("c",)
    assert compiled.invoke(None, thread_id="t") == {"log": ["a", "b", "c"]}


def test_breakpoints_may_be_given_for_a_run_and_for_every_node(store: Any) -> None:
    compiled = line("a", "b").compile(store)
    assert compiled.invoke({}, thread_id="t", interrupt_before="*") == {"log": []}
    assert compiled.invoke(None, thread_id="t", interrupt_before="*") == {"log": ["a"]}
    assert compiled.invoke(None, thread_id="t") == {"log": ["a", "b"]}
    with pytest.raises(InvalidRunError, match="checkpointer"):
        line("a").compile().invoke({}, interrupt_before=["a"])


def test_breakpoint_in_a_loop_fires_each_time(store: Any) -> None:
    graph = StateGraph(State).add_node("a", lambda state: {"count": state["count"] + 1}).add_edge(START, "a")
    graph.add_conditional_edges("a", lambda state: END if state["count"] == 3 else "a", ["a", END])
    compiled = graph.compile(store, interrupt_before=["a"])
    counts = [compiled.invoke({"count": 0}, thread_id="t")["count"]]
    while compiled.get_state(thread_id="t").next:
        counts.append(compiled.invoke(None, thread_id="t")["count"])
    assert counts == [0, 1, 2, 3]


def test_run_that_failed_is_resumed_without_running_what_had_finished(store: Any) -> None:
    ran: list[str] = []
    broken = True

    def noting(name: str) -> Callable[[State], dict[str, Any]]:
        def run(state: State) -> dict[str, Any]:
            ran.append(name)
            return {"log": [name]}

        return run

    def failing(state: State) -> dict[str, Any]:
        ran.append("fails")
        if broken:
            raise ConnectionError("down")
        return {"log": ["fails"]}

    graph = StateGraph(State).add_node("begin", noting("begin")).add_node("good", noting("good"))
    graph.add_node("fails", failing).add_node("end", noting("end")).add_edge(START, "begin")
    graph.add_edge("begin", "good").add_edge("begin", "fails").add_edge(["good", "fails"], "end")
    compiled = graph.compile(store)
    with pytest.raises(ConnectionError):
        compiled.invoke({}, thread_id="t")
    state = compiled.get_state(thread_id="t")
    assert state.next == ("fails",)
    assert {task.name: task.error for task in state.tasks} == {"good": None, "fails": "ConnectionError('down')"}
    broken = False
    assert compiled.invoke(None, thread_id="t")["log"] == ["begin", "fails", "good", "end"]
    assert ran.count("good") == ran.count("begin") == 1


def test_history_is_the_newest_first_and_every_point_can_be_run_again(store: Any) -> None:
    compiled = line("a", "b", "c").compile(store)
    compiled.invoke({"log": ["0"]}, thread_id="t")
    history = list(compiled.get_state_history(thread_id="t"))
    assert [state.next for state in history] == [(), ("c",), ("b",), ("a",)]
    assert [state.values["log"] for state in history][1] == ["0", "a", "b"]
    assert [state.metadata["step"] for state in history if state.metadata] == [3, 2, 1, 0]
    assert all(one.parent_config == two.config for one, two in pairwise(history))
    assert [one.next for one in compiled.get_state_history(thread_id="t", limit=1)] == [()]
    assert [one.next for one in compiled.get_state_history(thread_id="t", filter={"source": "input"})] == [("a",)]
    before = history[1].config["configurable"]["checkpoint_id"]
    assert len(list(compiled.get_state_history(thread_id="t", before=before))) == 2
    assert compiled.get_state(history[2].config).values == {"log": ["0", "a"]}
    assert compiled.invoke(None, history[2].config)["log"] == ["0", "a", "b", "c"]
    assert len(list(compiled.get_state_history(thread_id="t"))) == 4 + 1 + 2, "the fork, and what ran on it"


def test_update_state_writes_as_a_node_and_forks_from_the_past(store: Any) -> None:
    compiled = line("a", "b", "c").compile(store, interrupt_before=["c"])
    compiled.invoke({"count": 1}, thread_id="t")
    config = compiled.update_state(None, {"log": ["edited"], "count": 5}, thread_id="t")
    state = compiled.get_state(config)
    assert (state.values, state.next) == ({"log": ["a", "b", "edited"], "count": 5}, ("c",))
    assert compiled.invoke(None, thread_id="t") == {"log": ["a", "b", "edited", "c"], "count": 5}
    past = next(state for state in compiled.get_state_history(thread_id="t") if state.next == ("b",))
    forked = compiled.update_state(past.config, {"log": ["other"]}, as_node="b")
    assert compiled.get_state(forked).next == ("c",)
    assert compiled.invoke(None, forked)["log"] == ["a", "other", "c"]


def test_update_state_says_what_is_unclear_or_unknown_and_can_end_a_run(store: Any) -> None:
    graph = line("a", "b").add_node("d", saying("d")).add_edge("a", "d")
    compiled = graph.compile(store, interrupt_after=["b"])
    compiled.invoke({}, thread_id="t")
    with pytest.raises(InvalidRunError, match="give as_node"):
        compiled.update_state(None, {"count": 1}, thread_id="t")
    with pytest.raises(InvalidRunError, match="'zz'"):
        compiled.update_state(None, {"count": 1}, as_node="zz", thread_id="t")
    compiled.update_state(None, None, as_node=END, thread_id="t")
    assert compiled.get_state(thread_id="t").next == ()


def test_update_as_a_node_whose_router_asks_is_refused_and_ends_nothing(store: Any) -> None:
    def route(state: State) -> str:
        return "b" if interrupt("where to?") == "b" else END

    graph = StateGraph(State).add_node("a", saying("a")).add_node("b", saying("b")).add_edge(START, "a")
    compiled = graph.add_conditional_edges("a", route, ["b", END]).compile(store)
    compiled.invoke({}, thread_id="t")
    with pytest.raises(InvalidRunError, match="a router of node 'a' asks"):
        compiled.update_state(None, {"log": ["edited"]}, as_node="a", thread_id="t")
    state = compiled.get_state(thread_id="t")
    assert (state.next, [one.value for one in state.interrupts]) == (("a",), ["where to?"])
    assert compiled.invoke(Command(resume="b"), thread_id="t")["log"] == ["a", "b"]


def test_update_state_begins_a_thread(store: Any) -> None:
    compiled = line("a", "b").compile(store)
    compiled.update_state(None, {"count": 3}, thread_id="t")
    assert compiled.get_state(thread_id="t").next == ("a",)
    assert compiled.invoke(None, thread_id="t") == {"log": ["a", "b"], "count": 3}


def test_question_of_the_past_is_answered_anew_on_a_branch_of_its_own(store: Any) -> None:
    graph = StateGraph(State).add_node("ask", lambda state: {"log": [interrupt("?")]}).add_edge(START, "ask")
    compiled = graph.compile(store)
    compiled.invoke({}, thread_id="t")
    compiled.invoke(Command(resume="first"), thread_id="t")
    past = next(state for state in compiled.get_state_history(thread_id="t") if state.next == ("ask",))
    assert compiled.invoke(Command(resume="second"), past.config)["log"] == ["second"]
    again = next(state for state in compiled.get_state_history(thread_id="t") if state.config == past.config)
    assert "__interrupt__" in compiled.invoke(None, again.config), "without an answer it asks again"


def test_command_of_the_caller_updates_and_goes(store: Any) -> None:
    compiled = line("a", "b").compile(store, interrupt_before=["b"])
    compiled.invoke({}, thread_id="t")
    result = compiled.invoke(Command(update={"log": ["told"], "count": 7}, goto="a"), thread_id="t")
    assert result == {"log": ["a", "told", "a", "b"], "count": 7}
    assert compiled.get_state(thread_id="t").next == ("b",)
    with pytest.raises(RouteError, match="'zz'"):
        compiled.invoke(Command(goto="zz"), thread_id="t")


def test_put_behind_a_checkpoint_that_is_not_the_newest_is_refused_whatever_became_of_the_claim(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meddling(state: State) -> dict[str, Any]:
        if state["count"] == 1:
            compiled.invoke({"count": 2}, thread_id="t")
        return {"log": ["meddled"]}

    claim = MemoryCheckpoints.claim

    async def claim_of_nothing(self: Any, tenant: str, thread_id: str) -> Any:
        return await claim(MemoryCheckpoints(), tenant, thread_id)

    monkeypatch.setattr(type(store), "claim", claim_of_nothing)
    compiled = StateGraph(State).add_node("a", meddling).add_edge(START, "a").compile(store)
    with pytest.raises(CheckpointConflictError, match="moved on"):
        compiled.invoke({"count": 1}, thread_id="t")
    assert compiled.get_state(thread_id="t").values["count"] == 2


class Mood(Enum):
    GOOD = "good"


@dataclass
class Point:
    x: int


class Note(BaseModel):
    text: str


class Rich(TypedDict):
    point: Point
    notes: list[Note]
    mood: Mood
    pair: tuple[int, bytes]
    tags: set[str]


def test_classes_of_the_states_annotations_come_back_as_they_were(store: Any) -> None:
    graph = StateGraph(Rich).add_node("a", lambda state: {"tags": {*state["tags"], "b"}}).add_edge(START, "a")
    given = {"point": Point(3), "notes": [Note(text="x")], "mood": Mood.GOOD, "pair": (1, b"\xff"), "tags": {"a"}}
    graph.compile(store).invoke(given, thread_id="t")
    assert graph.compile(store).get_state(thread_id="t").values == given | {"tags": {"a", "b"}}


def test_what_has_no_stored_form_is_refused_and_named(store: Any) -> None:
    class Loose(TypedDict):
        thing: Any

    graph = StateGraph(Loose).add_node("a", lambda state: {"thing": {"deep": [object()]}}).add_edge(START, "a")
    with pytest.raises(EncodingError, match=r"'thing'.*deep\[0\].*object"):
        graph.compile(store).invoke({}, thread_id="t")


def test_class_that_is_not_named_is_not_read_back(store: Any) -> None:
    class Loose(TypedDict):
        thing: Any

    graph = StateGraph(Loose).add_node("a", lambda state: {}).add_edge(START, "a")
    graph.compile(store, types=[Point]).invoke({"thing": Point(1)}, thread_id="t")
    with pytest.raises(EncodingError, match=r"Point.*types="):
        graph.compile(store).get_state(thread_id="t")
    assert graph.compile(store, types=[Point]).get_state(thread_id="t").values == {"thing": Point(1)}


def test_class_that_could_not_be_read_back_is_not_kept_in_the_first_place(store: Any) -> None:
    class Loose(TypedDict):
        thing: Any

    graph = StateGraph(Loose).add_node("a", lambda state: {"thing": Point(2)}).add_edge(START, "a").compile(store)
    with pytest.raises(EncodingError, match=r"Point.*types="):
        graph.invoke({"thing": [{"deep": Point(1)}]}, thread_id="t")
    assert graph.get_state(thread_id="t").values == {}
    with pytest.raises(EncodingError, match=r"Point.*types="):
        graph.invoke({"thing": '{"$data":["a.Point",{}]}'}, thread_id="t")
    assert graph.get_state(thread_id="t").values == {"thing": '{"$data":["a.Point",{}]}'}, "a text is a text"


@dataclass
class Deeper(Point):
    y: int


class Pointed(TypedDict):
    points: Annotated[list[Point], add]


def test_class_derived_from_one_that_the_state_names_comes_back(store: Any) -> None:
    graph = StateGraph(Pointed).add_node("a", lambda state: {"points": [Deeper(1, 2)]}).add_edge(START, "a")
    graph.compile(store).invoke({"points": [Point(0)]}, thread_id="t")
    assert graph.compile(store).get_state(thread_id="t").values == {"points": [Point(0), Deeper(1, 2)]}


def test_durability_exit_keeps_the_end_and_every_pause(store: Any) -> None:
    graph = line("a", "b").add_node("ask", lambda state: {"log": [interrupt("?")]}).add_edge("b", "ask")
    compiled = graph.compile(store)
    compiled.invoke({}, thread_id="t", durability="exit")
    assert [state.next for state in compiled.get_state_history(thread_id="t")] == [("ask",), ("a",)]
    assert compiled.invoke(Command(resume="yes"), thread_id="t", durability="exit")["log"] == ["a", "b", "yes"]
    assert len(list(compiled.get_state_history(thread_id="t"))) == 3
    with pytest.raises(InvalidRunError, match="durability"):
        compiled.invoke({}, thread_id="t", durability="never")


def test_idempotency_key_is_the_same_for_every_try(store: Any) -> None:
    keys: list[str] = []

    def failing(state: State, run: NodeRun) -> dict[str, Any]:
        keys.append(run.idempotency_key)
        if len(keys) < 3:
            raise ConnectionError("down")
        return {}

    compiled = StateGraph(State).add_node("a", failing).add_edge(START, "a").compile(store)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            compiled.invoke({} if not keys else None, thread_id="t")
    compiled.invoke(None, thread_id="t")
    compiled.invoke({}, thread_id="t")
    assert len(set(keys[:3])) == 1
    assert len(set(keys)) == 2


async def test_threads_are_looked_at_and_changed_from_a_loop(store: Any) -> None:
    async def asking(state: State) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"log": [interrupt("?")]}

    compiled = StateGraph(State).add_node("ask", asking).add_edge(START, "ask").compile(store)
    assert "__interrupt__" in await compiled.ainvoke({}, thread_id="t")
    assert (await compiled.aget_state(thread_id="t")).next == ("ask",)
    await compiled.aupdate_state(None, {"count": 4}, as_node=START, thread_id="t")
    assert "__interrupt__" in await compiled.ainvoke(None, thread_id="t")
    assert await compiled.ainvoke(Command(resume="yes"), thread_id="t") == {"log": ["yes"], "count": 4}
    history = [state async for state in compiled.aget_state_history(thread_id="t")]
    assert history[0].next == ()


def test_many_threads_share_one_store(store: Any) -> None:
    async def main() -> None:
        async def step(state: State) -> dict[str, Any]:
            await asyncio.sleep(0)
            return {"count": state["count"] + 1}

        graph = StateGraph(State).add_node("a", step).add_edge(START, "a")
        graph.add_conditional_edges("a", lambda state: END if state["count"] == 5 else "a", ["a", END])
        compiled = graph.compile(store)
        results = await asyncio.gather(*(compiled.ainvoke({"count": 0}, thread_id=f"t{n}") for n in range(30)))
        assert [result["count"] for result in results] == [5] * 30
        assert len(await store.threads("default")) == 30

    asyncio.run(main())


def joining(*joins: tuple[tuple[str, ...], str]) -> StateGraph:
    graph = line("a", "b")
    for name in ("c", "d", "e"):
        graph.add_node(name, saying(name))
    graph.add_edge(START, "c")
    for sources, target in joins:
        graph.add_edge(sources, target)
    return graph


def test_what_a_join_has_seen_stays_with_it_when_a_later_graph_has_others(store: Any) -> None:
    first = joining((("b", "c"), "d"), (("a", "d"), "e")).compile(store, interrupt_before=["b"])
    assert first.invoke({}, thread_id="t")["log"] == ["a", "c"]
    later = joining((("a", "b", "c"), "e"), (("a", "d"), "e"), (("c", "b"), "d")).compile(store)
    assert later.get_state(thread_id="t").next == ("b",)
    assert later.invoke(None, thread_id="t")["log"] == ["a", "c", "b", "d", "e"]


def test_thread_that_waits_at_a_join_that_is_gone_says_so(store: Any) -> None:
    first = joining((("b", "c"), "d"), (("a", "d"), "e")).compile(store, interrupt_before=["b"])
    first.invoke({}, thread_id="t")
    with pytest.raises(InvalidRunError, match=r"\['b', 'c'\] to 'd'"):
        joining((("a", "d"), "e"), (("a", "b"), "d")).compile(store).invoke(None, thread_id="t")
