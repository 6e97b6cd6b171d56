"""One run at a time works on a thread: a second one is refused before any of its nodes begins."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from typing import Annotated, Any, TypedDict

import pytest

from meshflow.checkpoint.store import CheckpointConflictError
from meshflow.graph.builder import StateGraph
from meshflow.graph.markers import START, Command
from meshflow.graph.reducers import add
from meshflow.graph.task import interrupt


class State(TypedDict):
    log: Annotated[list[str], add]


class Held:
    """A graph whose node waits until it is let go, and notes when it runs."""

    def __init__(self, store: Any, **options: Any) -> None:
        self.ran: list[str] = []
        self.began = threading.Event()
        self.go_on = threading.Event()
        graph = StateGraph(State).add_node("a", self.node, **options).add_edge(START, "a")
        self.graph = graph.compile(store)

    def node(self, state: State) -> dict[str, Any]:
        self.ran.append("a")
        self.began.set()
        assert self.go_on.wait(20)
        return {"log": ["a"]}

    @contextlib.contextmanager
    def running(self, thread_id: str = "t") -> Any:
        """Run it in a thread of its own while the block is worked through."""
        results: list[Any] = []
        worker = threading.Thread(target=lambda: results.append(self.graph.invoke({}, thread_id=thread_id)))
        worker.start()
        assert self.began.wait(20)
        try:
            yield results
        finally:
            self.go_on.set()
            worker.join(20)


def test_second_run_of_a_thread_is_refused_before_any_node_begins(store: Any) -> None:
    held = Held(store)
    with held.running() as results:
        for given in ({}, None, Command(resume=1)):
            with pytest.raises(CheckpointConflictError, match="another run works on thread 't'"):
                held.graph.invoke(given, thread_id="t")
        with pytest.raises(CheckpointConflictError):
            list(held.graph.stream({}, thread_id="t"))
        assert held.ran == ["a"]
    assert results == [{"log": ["a"]}]
    assert held.graph.invoke({}, thread_id="t")["log"] == ["a", "a"]


def test_other_threads_and_other_tenants_are_not_held_up(store: Any) -> None:
    held = Held(store)
    with held.running():
        held.go_on.set()
        assert held.graph.invoke({}, thread_id="other") == {"log": ["a"]}
        assert held.graph.invoke({}, thread_id="t", tenant="other") == {"log": ["a"]}


def test_thread_is_not_changed_or_deleted_under_a_run(store: Any) -> None:
    held = Held(store)
    with held.running():
        with pytest.raises(CheckpointConflictError):
            held.graph.update_state(None, {"log": ["meddled"]}, as_node="a", thread_id="t")
        with pytest.raises(CheckpointConflictError):
            held.graph.delete_thread(thread_id="t")
        assert held.graph.get_state(thread_id="t").next == ("a",), "looking is free"
    assert held.graph.get_state(thread_id="t").values == {"log": ["a"]}


def test_thread_is_free_after_an_error_a_pause_and_a_stream_that_is_closed(store: Any) -> None:
    state = {"fails": True}

    def node(given: State) -> dict[str, Any]:
        if state["fails"]:
            raise ConnectionError("down")
        return {"log": [interrupt("?")]}

    graph = StateGraph(State).add_node("a", node).add_edge(START, "a").compile(store)
    with pytest.raises(ConnectionError):
        graph.invoke({}, thread_id="t")
    state["fails"] = False
    assert "__interrupt__" in graph.invoke(None, thread_id="t")
    events = graph.stream(Command(resume="yes"), thread_id="t", stream_mode="values")
    next(events)
    with pytest.raises(CheckpointConflictError, match="until it is closed"):
        graph.invoke(None, thread_id="t")
    events.close()
    assert graph.invoke(None, thread_id="t") == {"log": ["yes"]}


async def test_thread_is_free_after_a_cancellation(store: Any) -> None:
    began = asyncio.Event()

    async def node(state: State) -> dict[str, Any]:
        if not began.is_set():
            began.set()
            await asyncio.sleep(60)
        return {"log": ["a"]}

    graph = StateGraph(State).add_node("a", node).add_edge(START, "a").compile(store)
    for cancel_at_once in (True, False):
        run = asyncio.create_task(graph.ainvoke({}, thread_id="t"))
        if not cancel_at_once:
            await began.wait()
        else:
            await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert (await graph.ainvoke({}, thread_id="t"))["log"] == ["a"]


async def test_of_many_runs_at_once_one_is_let_in(store: Any) -> None:
    ran: list[int] = []
    go_on = asyncio.Event()

    async def node(state: State) -> dict[str, Any]:
        ran.append(1)
        await go_on.wait()
        return {"log": ["a"]}

    graph = StateGraph(State).add_node("a", node).add_edge(START, "a").compile(store)
    runs = [asyncio.create_task(graph.ainvoke({}, thread_id="t")) for _ in range(8)]
    for refused in itertools.islice(asyncio.as_completed(runs, timeout=20), 7):
        with pytest.raises(CheckpointConflictError):
            await refused
    go_on.set()
    results = await asyncio.gather(*runs, return_exceptions=True)
    assert [one for one in results if not isinstance(one, CheckpointConflictError)] == [{"log": ["a"]}]
    assert ran == [1]


async def test_graph_inside_works_under_the_claim_of_the_graph_around(store: Any) -> None:
    inner = StateGraph(State).add_node("i", lambda state: {"log": ["i"]}).add_edge(START, "i").compile()

    def calling(state: State) -> dict[str, Any]:
        return {"log": inner.invoke({})["log"]}

    graph = StateGraph(State).add_sequence([("sub", inner), ("call", calling)]).add_edge(START, "sub")
    assert graph.compile(store).invoke({}, thread_id="t") == {"log": ["i", "i"]}


def test_delete_thread_forgets_all_of_it_and_no_other(store: Any) -> None:
    inner = StateGraph(State).add_node("i", lambda state: {"log": [interrupt("?")]}).add_edge(START, "i").compile()
    graph = StateGraph(State).add_node("sub", inner).add_edge(START, "sub").compile(store)
    for thread_id in ("t", "other"):
        graph.invoke({"log": ["secret"]}, thread_id=thread_id)
    graph.delete_thread(thread_id="t")
    assert graph.get_state(thread_id="t").values == {}
    assert list(graph.get_state_history(thread_id="t")) == []
    assert "__interrupt__" in graph.invoke({}, thread_id="t"), "it begins anew"
    assert graph.invoke(Command(resume="yes"), thread_id="other")["log"] == ["secret", "secret", "yes"]


@pytest.mark.parametrize("end", ["returns", "asks", "fails", "ends before a sibling"])
async def test_run_that_lost_its_claim_writes_nothing_more(postgres_url: str, end: str) -> None:
    import asyncpg

    from meshflow.checkpoint.postgres import PostgresCheckpoints

    store = PostgresCheckpoints(postgres_url)

    async def node(state: State) -> dict[str, Any]:
        connection = await asyncpg.connect(store._url)
        claims = store._claims
        assert claims is not None
        await connection.execute("SELECT pg_terminate_backend($1)", claims._session.get_server_pid())
        await connection.close()
        async with asyncio.timeout(20):
            while not claims._session.is_closed():
                await asyncio.sleep(0.01)
        if end == "fails":
            raise ConnectionError("down")
        return {"log": [interrupt("?") if end == "asks" else "a"]}

    graph = StateGraph(State).add_node("a", node).add_edge(START, "a")
    if end == "ends before a sibling":
        graph.add_node("b", lambda state: asyncio.sleep(60)).add_edge(START, "b")
    compiled = graph.compile(store)
    if end == "fails":
        failed = await compiled.arun({}, thread_id="t")
        assert isinstance(failed.error, ConnectionError)
        assert any("lost its claim" in note for note in failed.error.__notes__)
    else:
        with pytest.raises(CheckpointConflictError, match="lost its claim"):
            await compiled.arun({}, thread_id="t")
    state = await compiled.aget_state(thread_id="t")
    assert state.next[0] == "a"
    assert [(task.error, task.interrupts, task.result) for task in state.tasks] == [(None, (), None)] * len(state.tasks)
    await store.aclose()


async def test_claim_whose_unlock_fails_ends_with_its_session(postgres_url: str) -> None:
    from meshflow.checkpoint.postgres import _address
    from meshflow.checkpoint.session_claim import SessionClaims

    asyncpg = pytest.importorskip("asyncpg")
    ours, others = (SessionClaims(*_address(postgres_url)) for _ in range(2))
    claim = await ours.take("t", "a")
    await claim.session.execute("BEGIN")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await claim.session.execute("SELECT 1 / 0")
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await ours.give_back(claim)
    assert claim.lost
    async with asyncio.timeout(20):
        while True:  # until the server has seen that the session is gone
            with contextlib.suppress(CheckpointConflictError):
                await others.take("t", "a")
                break
            await asyncio.sleep(0.01)
    await ours.take("t", "b")
    for claims in (ours, others):
        await claims.close()


async def test_session_that_cannot_be_set_up_is_not_left_open(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meshflow.checkpoint import session_claim
    from meshflow.checkpoint.postgres import _address

    asyncpg = pytest.importorskip("asyncpg")
    url, schema = _address(postgres_url)
    monkeypatch.setattr(session_claim, "_KEEP_ALIVE", "SELECT 1 / 0")
    opened: list[Any] = []
    connect = asyncpg.connect

    async def noted(url: str) -> Any:
        opened.append(await connect(url))
        return opened[-1]

    monkeypatch.setattr(asyncpg, "connect", noted)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await session_claim.SessionClaims(url, schema).take("t", "a")
    assert [session.is_closed() for session in opened] == [True]
