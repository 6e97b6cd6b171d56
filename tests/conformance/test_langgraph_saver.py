"""LangGraph's own conformance suite for checkpointers passes over our stores, the optional parts included."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

pytest.importorskip("langgraph.checkpoint.conformance")

from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt

from meshflow.integrations.langgraph import MeshflowSaver

EVERY = {one.value for one in Capability}


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return "memory" if request.param == "memory" else str(tmp_path / "checkpoints.db")


async def test_langgraphs_conformance_suite_passes_in_full(place: str) -> None:
    @checkpointer_test(name="MeshflowSaver")
    async def saver() -> AsyncGenerator[MeshflowSaver, None]:
        made = MeshflowSaver(place)
        yield made
        await made.aclose()

    report = await validate(saver)
    failures = [failure for result in report.results.values() for failure in result.failures or ()]
    assert not failures
    assert {name for name, result in report.results.items() if result.passed} == EVERY
    assert sum(result.tests_passed for result in report.results.values()) >= 58


class State(TypedDict):
    log: Annotated[list[str], lambda so_far, new: so_far + new]


def graph(saver: MeshflowSaver) -> Any:
    def ask(state: State) -> dict[str, Any]:
        return {"log": [interrupt("?")]}

    built = StateGraph(State).add_node("a", lambda state: {"log": ["a"]}).add_node("ask", ask)
    return built.add_edge(START, "a").add_edge("a", "ask").add_edge("ask", END).compile(checkpointer=saver)


async def test_langgraphs_graphs_run_resume_and_travel_in_time_on_our_stores(place: str) -> None:
    saver = MeshflowSaver(place, tenant="acme")
    compiled = graph(saver)
    for thread, wait in (("sync", None), ("async", "a")):
        config: Any = {"configurable": {"thread_id": thread}}
        if wait is None:
            compiled.invoke({"log": ["0"]}, config)
            result = compiled.invoke(Command(resume="yes"), config)
            history = list(compiled.get_state_history(config))
        else:
            await compiled.ainvoke({"log": ["0"]}, config)
            result = await compiled.ainvoke(Command(resume="yes"), config)
            history = [state async for state in compiled.aget_state_history(config)]
        assert result == {"log": ["0", "a", "yes"]}
        past = next(state for state in history if state.next == ("a",))
        again = await compiled.ainvoke(None, past.config)
        assert again["log"] == ["0", "a"]
        assert "__interrupt__" in again
        assert (await compiled.ainvoke(Command(resume="no"), config))["log"] == ["0", "a", "no"]
    assert list(MeshflowSaver(saver.store, tenant="rival").list(None)) == []
    await saver.aclose()


FORKED = """
import os, sys
from langgraph.checkpoint.base import empty_checkpoint
from meshflow.integrations.langgraph import MeshflowSaver

saver = MeshflowSaver(sys.argv[1])
checkpoint = empty_checkpoint()
place = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": checkpoint["id"]}}
for answers in (["first"], ["first", "second"]):
    if not (worker := os.fork()):
        saver.put({"configurable": {"thread_id": "t", "checkpoint_ns": ""}}, checkpoint, {}, {})
        saver.put_writes(place, [("__resume__", answers)], "task")
        saver.close()
        os._exit(0)
    assert os.waitpid(worker, 0)[1] == 0
print(saver.get_tuple(place).pending_writes)
saver.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_answers_of_forked_workers_are_all_kept_and_the_newest_counts(postgres_url: str) -> None:
    command = [sys.executable, "-c", FORKED, postgres_url]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert told.stdout.strip() == "[('task', '__resume__', ['first', 'second'])]", told.stderr


def test_versions_stay_apart_where_the_application_seeds_its_random_numbers() -> None:
    saver, versions = MeshflowSaver(), set()
    for _ in range(2):
        random.seed(7)
        versions.add(saver.get_next_version("1", None))
    assert len(versions) == 2
