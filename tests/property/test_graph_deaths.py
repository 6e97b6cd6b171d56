"""A store that dies at any moment, again and again: the run goes on from what was kept, and repeats nothing of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshflow.checkpoint.encode import decode
from meshflow.checkpoint.memory import MemoryCheckpoints
from meshflow.checkpoint.store import CheckpointError, ThreadKey
from meshflow.graph.builder import StateGraph
from meshflow.graph.markers import START, Command
from meshflow.graph.records import RESULT
from meshflow.graph.reducers import add
from meshflow.graph.task import interrupt


class Log(TypedDict):
    log: Annotated[list[str], add]


class Mortal(MemoryCheckpoints):
    """Dies after so many writes, before or after it has done the last one, and stays dead until it is revived."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self.does_the_last = False

    async def put(self, *arguments: Any, **more: Any) -> None:
        await self._or_die(super().put(*arguments, **more))

    async def put_writes(self, *arguments: Any, **more: Any) -> None:
        await self._or_die(super().put_writes(*arguments, **more))

    async def _or_die(self, work: Any) -> None:
        if self.left is None or self.left > 0:
            self.left = self.left if self.left is None else self.left - 1
            await work
            return
        if self.left == 0 and self.does_the_last:
            await work
        else:
            work.close()
        self.left = -1
        raise CheckpointError("the store has died")


Plan = tuple[list[str], list[tuple[int, int]]]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Nodes of three kinds, and edges from earlier to later ones."""
    kinds = draw(st.lists(st.sampled_from(["plain", "calls", "asks"]), min_size=1, max_size=6))
    pairs = [(one, two) for one in range(len(kinds)) for two in range(one + 1, len(kinds))]
    return kinds, draw(st.lists(st.sampled_from(pairs), unique=True, max_size=8)) if pairs else []


def expected_log(plan: Plan) -> list[str]:
    log: list[str] = []
    frontier = {0}
    while frontier:
        log += [f"n{one}" for one in sorted(frontier)]
        frontier = {two for one, two in plan[1] if one in frontier}
    return log


def build(plan: Plan, store: Any, ran: Counter[str]) -> Any:
    def noting(name: str) -> Any:
        def node(state: Any) -> dict[str, Any]:
            ran[name] += 1
            return {"log": [name]}

        return node

    def calling(name: str) -> Any:
        inner = StateGraph(Log).add_sequence([("i0", noting(f"{name}.0")), ("i1", noting(f"{name}.1"))])
        compiled = inner.add_edge(START, "i0").compile()

        def node(state: Any) -> dict[str, Any]:
            assert compiled.invoke({"log": []})["log"] == [f"{name}.0", f"{name}.1"]
            return noting(name)(state)

        return node

    def asking(name: str) -> Any:
        def node(state: Any) -> dict[str, Any]:
            assert interrupt(f"{name}?") == f"{name}!"
            return noting(name)(state)

        return node

    kinds = {"plain": noting, "calls": calling, "asks": asking}
    graph = StateGraph(Log)
    for number, kind in enumerate(plan[0]):
        graph.add_node(f"n{number}", kinds[kind](f"n{number}"))
    graph.add_edge(START, "n0")
    for one, two in plan[1]:
        graph.add_edge(f"n{one}", f"n{two}")
    return graph.compile(store)


async def what_is_kept(store: MemoryCheckpoints) -> Counter[str]:
    """Count the nodes whose results are in the store, by what it holds: in the state, or beside it."""
    saved = await store.get(ThreadKey("default", "t"))
    if saved is None:
        return Counter()
    kept = Counter(decode(saved.blobs["log"]))
    for write in saved.writes:
        if write.channel == RESULT:
            kept.update(name for _, names in decode(write.payload)["output"]["updates"] for name in names)
    return kept


@pytest.mark.filterwarnings("ignore::meshflow.graph.errors.UnreachableNodeWarning")
@settings(max_examples=150, deadline=None)
@given(plans(), st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=6))
def test_run_that_dies_and_is_resumed_ends_as_if_it_had_not_and_repeats_nothing_that_was_kept(
    plan: Plan, deaths: list[tuple[int, bool]]
) -> None:
    expected, store, waiting = Counter(expected_log(plan)), Mortal(), list(deaths)
    given: Any = {}
    for _ in range(100):
        ran: Counter[str] = Counter()
        graph = build(plan, store, ran)
        kept = asyncio.run(what_is_kept(store))
        store.left, store.does_the_last = waiting.pop(0) if waiting else (None, False)
        try:
            result = graph.invoke(given, thread_id="t")
        except CheckpointError:
            result = None
        store.left = None
        graph.close()
        for name, times in ran.items():
            outer = name.partition(".")[0]
            assert times <= expected[outer] - kept[outer], f"{name} ran again though it was kept"
        if result is None:
            given = None if graph.get_state(thread_id="t").config["configurable"].get("checkpoint_id") else {}
        elif "__interrupt__" in result:
            given = Command(resume={one.id: one.value.replace("?", "!") for one in result["__interrupt__"]})
        else:
            break
    assert result is not None
    assert result["log"] == expected_log(plan)
    assert graph.get_state(thread_id="t").next == ()
