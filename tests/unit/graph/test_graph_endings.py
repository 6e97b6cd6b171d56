"""How runs end before their time: failing reducers, limits, cancellation, streams that nobody reads on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest

from meshflow import Status
from meshflow.errors import EncodingError
from meshflow.graph.builder import StateGraph
from meshflow.graph.errors import GraphRecursionError, InvalidRunError, InvalidUpdateError
from meshflow.graph.markers import START, Command, Send
from meshflow.graph.policies import RetryPolicy
from meshflow.graph.reducers import add
from meshflow.graph.task import interrupt


class State(TypedDict):
    log: Annotated[list[str], add]
    count: int


class Noting:
    """Makes nodes that note when they have run."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.slow_began = threading.Event()

    def node(self, name: str, **update: Any) -> Callable[[Any], dict[str, Any]]:
        def run(state: Any) -> dict[str, Any]:
            self.ran.append(name)
            return {"log": [name], **update}

        return run


@pytest.fixture
def noting() -> Noting:
    return Noting()


def test_nodes_whose_writes_do_not_go_together_are_kept_and_do_not_run_again(store: Any, noting: Noting) -> None:
    graph = StateGraph(State)
    for name in ("a", "b", "c"):
        graph.add_node(name, noting.node(name, count=1)).add_edge(START, name)
    compiled = graph.compile(store)
    for given in ({}, None, None):
        with pytest.raises(InvalidUpdateError, match="'a' and 'b' wrote"):
            compiled.invoke(given, thread_id="t")
    assert sorted(noting.ran) == ["a", "b", "c"]
    state = compiled.get_state(thread_id="t")
    assert (state.values, sorted(state.next)) == ({"log": []}, ["a", "b", "c"]), "nothing is half applied"
    compiled.update_state(None, {"count": 5}, as_node="a", thread_id="t")
    assert sorted(compiled.get_state(thread_id="t").next) == ["b", "c"]


def test_reducer_that_failed_is_asked_again_and_its_nodes_are_not(store: Any, noting: Noting) -> None:
    broken = [True]

    def joined(old: list[str], new: list[str]) -> list[str]:
        if broken and new == ["b"]:
            raise ConnectionError("no reducer today")
        return old + new

    graph = StateGraph(TypedDict("Joined", {"log": Annotated[list[str], joined]}))
    for name in ("a", "b", "c"):
        graph.add_node(name, noting.node(name)).add_edge(START, name)
    compiled = graph.compile(store)
    failed = compiled.run({}, thread_id="t")
    assert failed.status is Status.FAILED
    assert isinstance(failed.error, ConnectionError)
    assert failed.values == {"log": []}
    broken.clear()
    assert compiled.invoke(None, thread_id="t")["log"] == ["a", "b", "c"]
    assert sorted(noting.ran) == ["a", "b", "c"]


def test_reducer_that_fails_while_a_sibling_asks_is_how_the_run_ends(store: Any) -> None:
    broken = [True]

    def joined(old: list[str], new: list[str]) -> list[str]:
        if broken:
            raise ConnectionError("no reducer today")
        return old + new

    graph = StateGraph(TypedDict("Joined", {"log": Annotated[list[str], joined]}))
    graph.add_node("a", lambda state: {"log": ["a"]}).add_edge(START, "a")
    compiled = graph.add_node("b", lambda state: {"log": [interrupt("?")]}).add_edge(START, "b").compile(store)
    failed = compiled.run({}, thread_id="t")
    assert (failed.status, failed.values, failed.next) == (Status.FAILED, {"log": []}, ("a", "b"))
    assert isinstance(failed.error, ConnectionError)
    assert compiled.get_state(thread_id="t").next == ("a", "b")
    broken.clear()
    assert compiled.invoke(Command(resume="yes"), thread_id="t") == {"log": ["a", "yes"]}


def test_paused_run_shows_what_its_nodes_wrote_in_the_order_of_the_thread(store: Any) -> None:
    graph = StateGraph(State).add_node("a", lambda state: {"log": ["node"]}).add_edge(START, "a")
    graph.add_node("z", lambda state: {"log": ["sent"]}).add_node("ask", lambda state: interrupt("?"))
    graph.add_edge(START, "ask").add_conditional_edges(START, lambda state: Send("z", {}), ["z"])
    compiled = graph.compile(store)
    assert compiled.run({}, thread_id="t").values["log"] == ["node", "sent"]
    assert compiled.get_state(thread_id="t").values["log"] == ["node", "sent"]


class Loose(TypedDict, total=False):
    thing: Any
    count: int


def test_result_without_a_stored_form_takes_no_siblings_result_with_it(store: Any, noting: Noting) -> None:
    broken, began = [True], threading.Event()

    def bad(state: Loose) -> dict[str, Any]:
        assert began.wait(20)
        return {"thing": object() if broken else "plain"}

    def good(state: Loose) -> dict[str, Any]:
        began.set()
        time.sleep(0.2)
        noting.ran.append("good")
        return {"count": 1}

    graph = StateGraph(Loose).add_node("bad", bad).add_node("good", good).add_edge(START, "bad").add_edge(START, "good")
    compiled = graph.compile(store)
    with pytest.raises(EncodingError, match="object"):
        compiled.invoke({}, thread_id="t")
    broken.clear()
    assert compiled.invoke(None, thread_id="t") == {"thing": "plain", "count": 1}
    assert noting.ran == ["good"]


@pytest.mark.parametrize("further", [(), ("c", "d")], ids=["the last", "one of several"])
def test_failure_is_the_news_though_a_sibling_has_no_stored_form(store: Any, further: tuple[str, ...]) -> None:
    began, failed = threading.Event(), threading.Event()

    def failing(state: Loose) -> dict[str, Any]:
        assert began.wait(20)
        failed.set()
        raise ConnectionError("the real failure")

    def bad(state: Loose) -> dict[str, Any]:
        began.set()
        assert failed.wait(20)
        time.sleep(0.2)
        return {"thing": object()}

    graph = StateGraph(Loose).add_node("a", failing).add_node("b", bad)
    for name in further:
        graph.add_node(name, lambda state: time.sleep(0.6))
    for name in ("a", "b", *further):
        graph.add_edge(START, name)
    compiled = graph.compile(store)
    ended = compiled.run({}, thread_id="t")
    assert isinstance(ended.error, ConnectionError)
    assert any("could be kept: " in note and "object" in note for note in ended.error.__notes__)
    assert "real failure" in str([task.error for task in compiled.get_state(thread_id="t").tasks])


def test_what_durability_exit_held_back_is_kept_when_the_run_ends_by_its_limit(store: Any) -> None:
    graph = StateGraph(State).add_node("a", lambda state: {"count": state["count"] + 1}).add_edge(START, "a")
    compiled = graph.add_edge("a", "a").compile(store)
    with pytest.raises(GraphRecursionError):
        compiled.invoke({"count": 0}, thread_id="t", recursion_limit=3, durability="exit")
    assert compiled.get_state(thread_id="t").values["count"] == 3


async def test_what_durability_exit_held_back_is_kept_when_the_run_is_cancelled(store: Any) -> None:
    began = asyncio.Event()

    async def slow(state: State) -> dict[str, Any]:
        if state["count"] == 2:
            began.set()
            await asyncio.sleep(60)
        return {"count": state["count"] + 1}

    compiled = StateGraph(State).add_node("a", slow).add_edge(START, "a").add_edge("a", "a").compile(store)
    run = asyncio.create_task(compiled.ainvoke({"count": 0}, thread_id="t", durability="exit"))
    await began.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert (await compiled.aget_state(thread_id="t")).values["count"] == 2


def side_by_side(noting: Noting, go_on: threading.Event, others: Callable[[Any], Any]) -> StateGraph:
    def slow(state: State) -> dict[str, Any]:
        noting.slow_began.set()
        assert go_on.wait(20)
        return noting.node("slow")(state)

    graph = StateGraph(State).add_node("slow", slow).add_node("quick", others)
    return graph.add_edge(START, "slow").add_edge(START, "quick")


def test_stream_that_is_closed_waits_for_its_nodes_and_keeps_what_they_did(store: Any, noting: Noting) -> None:
    go_on = threading.Event()

    def quick(state: State) -> dict[str, Any]:
        assert noting.slow_began.wait(20)
        return noting.node("quick")(state)

    compiled = side_by_side(noting, go_on, quick).compile(store)
    events = compiled.stream({}, thread_id="t", stream_mode="updates")
    assert next(events) == {"quick": {"log": ["quick"]}}
    threading.Timer(0.1, go_on.set).start()
    events.close()
    assert noting.ran == ["quick", "slow"], "no node goes on behind the run's end"
    assert compiled.invoke(None, thread_id="t")["log"] == ["quick", "slow"]
    assert noting.ran == ["quick", "slow"], "and none runs again"


async def test_plain_function_beside_a_failed_coroutine_ends_and_is_kept(store: Any, noting: Noting) -> None:
    go_on = threading.Event()
    broken = [True]

    async def failing(state: State) -> dict[str, Any]:
        await asyncio.sleep(0.05)
        if broken:
            threading.Timer(0.1, go_on.set).start()
            raise ConnectionError("down")
        return {"log": ["quick"]}

    compiled = side_by_side(noting, go_on, failing).compile(store)
    with pytest.raises(ConnectionError):
        await compiled.ainvoke({}, thread_id="t")
    assert noting.ran == ["slow"]
    broken.clear()
    assert (await compiled.ainvoke(None, thread_id="t"))["log"] == ["quick", "slow"]
    assert noting.ran == ["slow"]


@pytest.mark.parametrize("alone", [True, False])
async def test_cancelled_run_waits_for_a_plain_function_that_no_one_can_stop(
    store: Any, noting: Noting, alone: bool
) -> None:
    began, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(state: State) -> dict[str, Any]:
        began.set()
        assert go_on.wait(20)
        time.sleep(0.1)
        ended.set()
        return noting.node("slow")(state)

    graph = StateGraph(State).add_node("slow", slow).add_edge(START, "slow")
    if not alone:
        graph.add_node("b", noting.node("b")).add_edge(START, "b")
    compiled = graph.compile(store)
    run = asyncio.create_task(compiled.ainvoke({}, thread_id="t"))
    assert await asyncio.to_thread(began.wait, 20)
    run.cancel()
    await asyncio.sleep(0.05)
    run.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert ended.is_set()
    await compiled.ainvoke(None, thread_id="t")
    assert noting.ran.count("slow") == (2 if alone else 1), "beside others its result was kept"


@pytest.mark.parametrize("beside", [True, False])
async def test_stop_iteration_of_a_plain_node_is_an_error_like_any_other(beside: bool) -> None:
    graph = StateGraph(State).add_node("a", lambda state: next(iter([]))).add_edge(START, "a")
    if beside:
        graph.add_node("b", lambda state: None).add_edge(START, "b")
    compiled = graph.compile()
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(compiled.ainvoke({}), 10)
    with pytest.raises(RuntimeError, match="StopIteration"):
        compiled.invoke({})


def asking(state: Any) -> dict[str, Any]:
    return {"log": [interrupt("deep?")]}


def test_question_of_a_graph_that_was_called_again_by_a_retry_gets_its_answer(store: Any) -> None:
    sub = StateGraph(State).add_node("ask", asking).add_edge(START, "ask").compile()
    tries: list[int] = []

    def calling(state: State) -> dict[str, Any]:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("down")
        return {"log": sub.invoke({"log": []})["log"]}

    policy = RetryPolicy(initial_interval_s=0.001)
    compiled = StateGraph(State).add_node("a", calling, retry=policy).add_edge(START, "a").compile(store)
    assert "__interrupt__" in compiled.invoke({}, thread_id="t")
    assert compiled.invoke(Command(resume="yes"), thread_id="t")["log"] == ["yes"]


def test_retry_goes_on_in_a_graph_that_failed_and_begins_one_anew_that_had_ended(store: Any, noting: Noting) -> None:
    fails = {"inside": 1, "around": 1}

    def once(what: str) -> None:
        if fails[what]:
            fails[what] -= 1
            raise ConnectionError(what)

    def failing(state: State) -> dict[str, Any]:
        once("inside")
        return noting.node("y")(state)

    sub = StateGraph(State).add_node("x", noting.node("x")).add_node("y", failing).add_edge(START, "x")
    compiled_sub = sub.add_edge("x", "y").compile()

    def calling(state: State) -> dict[str, Any]:
        got = compiled_sub.invoke({"log": []})
        once("around")
        return {"log": got["log"]}

    policy = RetryPolicy(initial_interval_s=0.001)
    compiled = StateGraph(State).add_node("a", calling, retry=policy).add_edge(START, "a").compile(store)
    assert compiled.invoke({}, thread_id="t")["log"] == ["x", "y"]
    assert noting.ran == ["x", "y", "x", "y"], "the first retry finds x done, the second begins anew"


def test_graph_that_begins_anew_asks_anew_and_gets_its_own_answer(store: Any) -> None:
    fails = [1]
    sub = StateGraph(State).add_node("ask", asking).add_edge(START, "ask").compile()

    def calling(state: State) -> dict[str, Any]:
        got = sub.invoke({"log": []})["log"]
        if fails:
            fails.pop()
            raise ConnectionError("down")
        return {"log": got}

    policy = RetryPolicy(initial_interval_s=0.001)
    compiled = StateGraph(State).add_node("a", calling, retry=policy).add_edge(START, "a").compile(store)
    for answer in ("one", "two"):
        given: Any = {} if answer == "one" else Command(resume="one")
        assert "__interrupt__" in compiled.invoke(given, thread_id="t")
    assert compiled.invoke(Command(resume="two"), thread_id="t")["log"] == ["two"]


def test_question_inside_of_a_node_is_not_answered_on_a_branch_that_asks_it_anew(store: Any) -> None:
    sub = StateGraph(State).add_node("ask", asking).add_edge(START, "ask").compile()

    def calling(state: State) -> dict[str, Any]:
        return {"log": sub.invoke({"log": []})["log"]}

    compiled = StateGraph(State).add_node("a", calling).add_edge(START, "a").compile(store)
    compiled.invoke({}, thread_id="t")
    (past,) = list(compiled.get_state_history(thread_id="t"))
    compiled.invoke(Command(resume="deep"), thread_id="t")
    with pytest.raises(InvalidRunError, match="inside of node 'a'"):
        compiled.invoke(Command(resume="other"), past.config)
    assert compiled.get_state(thread_id="t").values["log"] == ["deep"], "no branch was begun"
    assert "__interrupt__" in compiled.invoke(None, past.config)
    assert compiled.invoke(Command(resume="other"), thread_id="t")["log"] == ["other"]


def test_update_at_the_newest_checkpoint_keeps_what_siblings_did_with_or_without_its_id(
    store: Any, noting: Noting
) -> None:
    def failing(state: State) -> None:
        raise ConnectionError("down")

    graph = StateGraph(State).add_node("a", noting.node("a")).add_node("b", failing)
    compiled = graph.add_edge(START, "a").add_edge(START, "b").compile(store)
    for thread_id in ("with", "without"):
        noting.ran.clear()
        with pytest.raises(ConnectionError):
            compiled.invoke({}, thread_id=thread_id)
        config = compiled.get_state(thread_id=thread_id).config if thread_id == "with" else None
        compiled.update_state(config, {"log": ["b"]}, as_node="b", thread_id=thread_id)
        assert compiled.get_state(thread_id=thread_id).next == ()
        assert compiled.invoke(None, thread_id=thread_id)["log"] == ["a", "b"]
        assert noting.ran == ["a"]


@pytest.mark.parametrize("mode", ["tasks", "debug"])
def test_argument_of_a_send_is_shown_whatever_it_is(mode: str) -> None:
    graph = StateGraph(State).add_node("w", lambda given: {"log": [str(given)]})
    compiled = graph.add_conditional_edges(START, lambda state: [Send("w", 5), Send("w", ("x", 1))], ["w"]).compile()
    events = [event.get("payload", event) for event in compiled.stream({}, stream_mode=mode)]
    assert [event["input"] for event in events if "input" in event] == [5, ("x", 1)]
