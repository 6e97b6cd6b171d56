"""Erasing a run or a person in the ledger takes the graph's state with it, down to the bytes of the files."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

from meshflow import ReplayLedger, StepRuntime
from meshflow.checkpoint.erasing import ErasedWith
from meshflow.checkpoint.sqlite import SqliteCheckpoints
from meshflow.checkpoint.store import CheckpointConflictError, CheckpointError, ThreadKey
from meshflow.graph.builder import StateGraph
from meshflow.graph.markers import START, Command
from meshflow.graph.reducers import add
from meshflow.graph.task import interrupt
from meshflow.ledger.erasure import LegalHoldError

SECRET = "Zwetschgenknoedel-7f3a"


class State(TypedDict):
    log: Annotated[list[str], add]


def graph(store: Any, runtime: Any = None) -> Any:
    """A graph that keeps its input in state, history, unfinished tasks, questions, and in a graph inside."""
    inner = StateGraph(State).add_node("i", lambda state: {"log": [f"inner {SECRET}"]}).add_edge(START, "i").compile()
    built = StateGraph(State).add_node("sub", inner).add_node("beside", lambda state: {"log": [f"beside {SECRET}"]})
    built.add_node("ask", lambda state: {"log": [interrupt(f"about {SECRET}?")]})
    built.add_edge(START, "sub").add_edge("sub", "ask").add_edge("sub", "beside")
    return built.compile(store, runtime=runtime)


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


async def test_run_that_is_deleted_takes_its_threads_with_it_and_leaves_no_byte_in_any_file(tmp_path: Path) -> None:
    store = SqliteCheckpoints(tmp_path / "graphs.db")
    async with ReplayLedger(tmp_path / "ledger.db") as ledger, StepRuntime(ledger=ledger) as runtime:
        ledger.also_erase(store)
        compiled = graph(store, runtime)
        await compiled.ainvoke({"log": [f"input {SECRET}"]}, thread_id="t")
        await compiled.ainvoke({"log": ["somebody else's"]}, thread_id="other", run_id="r2")
        await compiled.ainvoke({"log": ["a later turn"]}, thread_id="t", run_id="later")
        assert bytes_of(tmp_path).count(SECRET.encode()) > 5
        assert await ledger.delete_run("t") > 0
        assert await store.threads("default") == ["other"]
        assert (await compiled.aget_state(thread_id="t")).values == {}
        assert (await compiled.aget_state(thread_id="other")).values["log"][0] == "somebody else's"
        for run_id in ("later", "r2"):  # whose steps and state say it too
            await ledger.delete_run(run_id)
        assert await store.threads("default") == []
        assert SECRET.encode() not in bytes_of(tmp_path)
    await store.aclose()


async def test_run_that_only_answered_takes_its_thread_with_it(tmp_path: Path, store: Any) -> None:
    def ask(state: State) -> Any:
        return {"log": [interrupt("name?"), interrupt("age?")]}

    async with ReplayLedger(tmp_path / "ledger.db") as ledger, StepRuntime(ledger=ledger) as runtime:
        ledger.also_erase(store)
        compiled = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile(store, runtime=runtime)
        await compiled.ainvoke({}, thread_id="t", run_id="first")
        await compiled.ainvoke(Command(resume=SECRET), thread_id="t", run_id="second")
        assert (await compiled.aget_state(thread_id="t")).interrupts[0].value == "age?"
        await ledger.delete_run("second")
        assert await store.threads("default") == []
        assert SECRET.encode() not in bytes_of(tmp_path)


@pytest.mark.parametrize("how", ["delete_thread", "delete_runs", "prune"])
async def test_what_a_store_forgets_is_gone_from_its_files(tmp_path: Path, how: str) -> None:
    store = SqliteCheckpoints(tmp_path / "graphs.db")
    compiled = graph(store)
    compiled.invoke({"log": [SECRET] * 50}, thread_id="t")
    if how == "prune":
        compiled.update_state(None, {"log": ["cleared"]}, as_node="ask", thread_id="t")
        saved = await store.get(ThreadKey("default", "t"))
        assert saved is not None
    elif how == "delete_runs":
        await store.delete_runs("default", ["t"])
    else:
        await compiled.adelete_thread(thread_id="t")
    if how == "prune":
        before = bytes_of(tmp_path).count(SECRET.encode())
        await store.prune("default", "t")
        kept = b"".join((await store.get(ThreadKey("default", "t"))).blobs.values())  # type: ignore[union-attr]
        inside = [saved async for saved in store.list("default", "t") if saved.key.namespace]
        kept += b"".join(b"".join(one.blobs.values()) + one.checkpoint.body for one in inside)
        assert 0 < bytes_of(tmp_path).count(SECRET.encode()) == kept.count(SECRET.encode()) < before
    else:
        assert SECRET.encode() not in bytes_of(tmp_path)
    await store.aclose()


async def test_person_that_is_erased_takes_the_state_of_their_runs_along(tmp_path: Path, store: Any) -> None:
    async with ReplayLedger(tmp_path / "ledger.db") as ledger, StepRuntime(ledger=ledger) as runtime:
        ledger.also_erase(store)
        compiled = graph(store, runtime)
        await compiled.ainvoke({"log": ["x"]}, thread_id="hers", agent_id="alice")
        await compiled.ainvoke({"log": ["x"]}, thread_id="his", agent_id="bob")
        report = await ledger.erase_subject("alice")
        assert (sorted(report["runs"]), report["held"]) == (["hers"], {})
        assert await store.threads("default") == ["his"]
        await ledger.anonymize_run("his", fields=["principal"])
        assert await store.threads("default") == ["his"], "no principal is in the state"
        await ledger.anonymize_run("his")
        assert await store.threads("default") == []


async def test_hold_keeps_the_state_as_well(tmp_path: Path, store: Any) -> None:
    async with ReplayLedger(tmp_path / "ledger.db") as ledger, StepRuntime(ledger=ledger) as runtime:
        ledger.also_erase(store)
        await graph(store, runtime).ainvoke({}, thread_id="t", agent_id="alice")
        await ledger.hold("t", reason="case 9", authority="counsel")
        with pytest.raises(LegalHoldError):
            await ledger.delete_run("t")
        assert "t" in (await ledger.erase_subject("alice"))["held"]
        assert await store.threads("default") == ["t"]


@pytest.mark.parametrize("whose", ["run", "subject"])
async def test_thread_that_a_held_run_shares_stays_until_the_hold_is_released(
    tmp_path: Path, store: Any, whose: str
) -> None:
    async with ReplayLedger(tmp_path / "ledger.db") as ledger, StepRuntime(ledger=ledger) as runtime:
        ledger.also_erase(store)
        compiled = graph(store, runtime)
        for run_id, agent_id in (("held", "alice"), ("free", "bob"), ("third", "carol")):
            await compiled.ainvoke({"log": ["x"]}, thread_id="t", run_id=run_id, agent_id=agent_id)
        await compiled.ainvoke({"log": ["x"]}, thread_id="u", run_id="alone", agent_id="bob")
        on: dict[str, str] = {"run_id": "held"} if whose == "run" else {"subject": "alice"}
        number = await ledger.hold(**on, reason="case 9", authority="counsel")
        with pytest.raises(LegalHoldError, match=f"hold {number} on run 'held'"):
            await ledger.delete_run("free")
        told = (await ledger.erase_subject("carol"))["held"]
        assert list(told) == ["third"]
        assert "delete_run" in told["third"]
        await ledger.delete_run("alone")
        assert await store.threads("default") == ["t"]
        await ledger.release_hold(number, reason="settled", authority="counsel")
        await ledger.delete_run("third")
        assert await store.threads("default") == []


async def test_thread_that_a_run_works_on_is_told_of_and_goes_when_it_is_erased_again(
    tmp_path: Path, store: Any
) -> None:
    async with ReplayLedger(tmp_path / "ledger.db") as ledger, StepRuntime(ledger=ledger) as runtime:
        ledger.also_erase(store)
        for thread_id, agent_id in (("t", "alice"), ("u", "bob")):
            await graph(store, runtime).ainvoke({}, thread_id=thread_id, agent_id=agent_id)
        claims = [await store.claim("default", thread_id) for thread_id in ("t", "u")]
        with pytest.raises(CheckpointConflictError, match="erase again"):
            await ledger.delete_run("t")
        assert "not" in (await ledger.erase_subject("bob"))["held"]["u"]
        for claim in claims:
            await claim.release()
        await ledger.delete_run("t")
        await ledger.delete_run("u")
        assert await store.threads("default") == []


async def test_store_that_is_named_by_its_path_is_opened_for_the_erasure_and_must_be_there(tmp_path: Path) -> None:
    place = tmp_path / "graphs.db"
    with pytest.raises(CheckpointError, match="not there"):
        await ErasedWith(place).erase_runs(None, ["t"])
    store = SqliteCheckpoints(place)
    await graph(store).ainvoke({"log": [SECRET]}, thread_id="t")
    assert await ErasedWith(str(place)).erase_runs(None, ["t"]) == 1
    assert SECRET.encode() not in bytes_of(tmp_path)
    await store.aclose()
    with sqlite3.connect(place) as connection:
        assert connection.execute("SELECT count(*) FROM blobs").fetchone() == (0,)
    connection.close()
