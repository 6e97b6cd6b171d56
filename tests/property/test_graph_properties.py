"""Graphs, reducers, copies and stored values, for any input that Hypothesis thinks of."""

from __future__ import annotations

import asyncio
import copy
import math
import operator
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, TypedDict
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from meshflow.checkpoint.encode import decode, encode, type_name
from meshflow.checkpoint.memory import MemoryCheckpoints
from meshflow.errors import EncodingError
from meshflow.graph.builder import StateGraph
from meshflow.graph.copying import Isolated, copied
from meshflow.graph.markers import END, START, Overwrite
from meshflow.graph.reducers import MISSING, Channel, add, apply_all, first, last, overlaid

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


class Log(TypedDict):
    log: Annotated[list[str], add]


# --- reducers


@given(st.lists(st.lists(st.integers(), max_size=3), max_size=8), st.booleans())
def test_a_list_that_grows_in_place_is_the_one_that_grows_by_copying(parts: list[list[int]], held: bool) -> None:
    channel, values, expected = Channel("key", add, list), {"key": [0]}, [0]
    kept: list[tuple[list[int], list[int]]] = []
    for part in parts:
        if held:
            kept.append((values["key"], list(values["key"])))
        channel.write(values, part)
        expected = expected + part
    assert values["key"] == expected
    assert all(seen == as_it_was for seen, as_it_was in kept), "somebody held the list, and it grew"
    assert parts == copy.deepcopy(parts)


REDUCERS = {"add": add, "last": last, "first": first, "operator": operator.add, "max": lambda old, new: max(old, new)}


@given(st.sampled_from(sorted(REDUCERS)), st.lists(st.lists(st.integers(), min_size=1, max_size=2), max_size=6))
def test_one_superstep_folds_as_many_steps_do(name: str, written: list[list[int]]) -> None:
    channel = Channel("key", REDUCERS[name], list)
    together: dict[str, Any] = {}
    apply_all(together, {"key": channel}, [(f"n{index}", [("key", value)]) for index, value in enumerate(written)])
    one_by_one: dict[str, Any] = {}
    for value in written:
        channel.write(one_by_one, value)
    assert together == one_by_one
    seen_by_router = overlaid({}, {"key": channel}, [("key", value) for value in written])
    assert seen_by_router == together


@given(st.lists(st.integers(), max_size=5), st.integers(0, 5), st.integers())
def test_overwrite_wins_over_all_writes_of_its_superstep(written: list[int], at: int, value: int) -> None:
    channel = Channel("key", operator.add, int)
    several: list[Any] = [*written[:at], Overwrite(value), *written[at:]]
    assert channel.fold(7, several) == value
    assert channel.fold(MISSING, several) == value


# --- graphs

Dag = tuple[int, list[tuple[int, int]]]


@st.composite
def dags(draw: st.DrawFn) -> Dag:
    count = draw(st.integers(1, 8))
    pairs = [(one, two) for one in range(count) for two in range(one + 1, count)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=12)) if pairs else []
    return count, chosen


def expected_log(dag: Dag) -> list[str]:
    """Return the log by the rule alone: a superstep runs, sorted by name, all that the one before leads to."""
    _, edges = dag
    log: list[str] = []
    frontier = {0}
    while frontier:
        log += [f"n{one}" for one in sorted(frontier)]
        frontier = {two for one, two in edges if one in frontier}
    return log


def build(dag: Dag, function: Any) -> StateGraph:
    count, edges = dag
    graph = StateGraph(Log)
    for number in range(count):
        graph.add_node(f"n{number}", function(f"n{number}"))
    graph.add_edge(START, "n0")
    for one, two in edges:
        graph.add_edge(f"n{one}", f"n{two}")
    return graph


def say(name: str) -> Any:
    return lambda state: {"log": [name]}


def asay(name: str) -> Any:
    async def saying(state: Any) -> Any:
        await asyncio.sleep(0)
        return {"log": [name]}

    return saying


pytestmark = pytest.mark.filterwarnings("ignore::meshflow.graph.errors.UnreachableNodeWarning")


@settings(max_examples=60, deadline=None)
@given(dags())
def test_any_dag_runs_superstep_by_superstep_however_it_is_run(dag: Dag) -> None:
    graph, expected = build(dag, say).compile(), expected_log(dag)
    assert graph.invoke({})["log"] == expected
    assert [one["log"] for one in graph.stream({}, stream_mode="values")][-1] == expected
    assert asyncio.run(build(dag, asay).compile().ainvoke({}))["log"] == expected
    updates = [name for event in graph.stream({}) for name in event]
    assert Counter(updates) == Counter(expected)
    graph.close()


@settings(max_examples=60, deadline=None)
@given(dags(), st.data())
def test_any_dag_that_fails_somewhere_goes_on_and_repeats_nothing_that_had_finished(
    dag: Dag, data: st.DataObject
) -> None:
    expected = expected_log(dag)
    fails_at = data.draw(st.integers(0, len(expected) - 1))
    ran: list[str] = []
    broken = [True]

    def running(name: str) -> Any:
        def run(state: Any) -> Any:
            if broken and name == expected[fails_at] and ran.count(name) == expected[:fails_at].count(name):
                broken.clear()
                raise ConnectionError("down")
            ran.append(name)
            return {"log": [name]}

        return run

    graph = build(dag, running).compile(MemoryCheckpoints())
    with pytest.raises(ConnectionError):
        graph.invoke({}, thread_id="t")
    assert graph.invoke(None, thread_id="t")["log"] == expected
    assert Counter(ran) == Counter(expected)
    for state in graph.get_state_history(thread_id="t"):
        assert graph.get_state(state.config).values == state.values
    graph.close()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(0, 12), st.integers(1, 15))
def test_recursion_limit_is_reached_exactly(width: int, steps: int, limit: int) -> None:
    class Counting(TypedDict):
        n: int

    graph = StateGraph(Counting).add_node("a", lambda state: {"n": state["n"] + 1}).add_edge(START, "a")
    compiled = graph.add_conditional_edges("a", lambda s: END if s["n"] > steps else "a", ["a", END]).compile()
    if steps + 1 <= limit:
        assert compiled.invoke({"n": 0}, recursion_limit=limit) == {"n": steps + 1}
    else:
        with pytest.raises(RecursionError):
            compiled.invoke({"n": 0}, recursion_limit=limit)


# --- copies

KEYS = st.sampled_from("abc")
OPERATIONS = st.one_of(
    st.tuples(st.sampled_from(["get", "item", "pop", "del", "setdefault", "contains"]), KEYS),
    st.tuples(st.sampled_from(["set"]), KEYS, st.integers()),
    st.tuples(
        st.sampled_from(["items", "values", "keys", "len", "copy", "dict", "or", "ror", "update", "popitem", "clear"])
    ),
)


def operate(target: dict[str, Any], operation: tuple[Any, ...]) -> Any:
    name, *rest = operation
    try:
        match name:
            case "get":
                return target.get(rest[0], "none")
            case "item":
                return target[rest[0]]
            case "pop":
                return target.pop(rest[0])
            case "del":
                del target[rest[0]]
            case "setdefault":
                return target.setdefault(rest[0], 0)
            case "contains":
                return rest[0] in target
            case "set":
                target[rest[0]] = rest[1]
            case "items" | "values" | "keys":
                return list(getattr(target, name)())
            case "len":
                return len(target)
            case "copy":
                return target.copy()
            case "dict":
                return {**target}, dict(target)
            case "or":
                return target | {"z": 1}
            case "ror":
                return {"z": 1} | target
            case "update":
                target.update({"a": 5}, b=6)
            case "popitem":
                return target.popitem()
            case "clear":
                target.clear()
    except KeyError:
        return "KeyError"


@given(st.dictionaries(KEYS, st.lists(st.integers())), st.lists(OPERATIONS, max_size=12))
def test_isolated_state_is_a_dict_in_all_it_does_and_never_hands_out_what_is_shared(
    shared: dict[str, Any], operations: list[Any]
) -> None:
    isolated, plain, before = Isolated(shared), copy.deepcopy(shared), copy.deepcopy(shared)
    originals = {id(value) for value in shared.values()}
    for operation in operations:
        got, expected = operate(isolated, operation), operate(plain, operation)
        assert got == expected
        found = got.values() if isinstance(got, dict) else got if isinstance(got, (list, tuple)) else [got]
        assert not originals & {id(one) for one in found}
    assert isolated == plain
    assert shared == before


@given(JSON)
def test_copy_is_equal_and_shares_nothing_that_can_change(value: Any) -> None:
    same = copied(value)
    assert same == value
    assert not _mutables(value) & _mutables(same)


def test_copy_of_what_contains_itself_and_of_what_refuses() -> None:
    import threading

    loop: list[Any] = [1]
    loop.append(loop)
    same = copied(loop)
    assert same[1] is same
    lock = threading.Lock()
    assert copied({"lock": lock, "list": [1]}) == {"lock": lock, "list": [1]}
    shared = [1]
    for _ in range(60):
        shared = [shared, shared]
    assert len(copied(shared)) == 2, "sixty levels of sharing are sixty copies, not two to the sixty"


def _mutables(value: Any) -> set[int]:
    if isinstance(value, list):
        return {id(value)}.union(*(_mutables(one) for one in value))
    if isinstance(value, dict):
        return {id(value)}.union(*(_mutables(one) for one in value.values()))
    return set()


# --- stored values


class Colour(Enum):
    RED = 1


@dataclass(frozen=True)
class Point:
    x: Any


TYPES = {type_name(kind): kind for kind in (Colour, Point)}
HASHABLE = st.integers() | st.text() | st.binary() | st.booleans() | st.none() | st.dates()
LEAVES = (
    HASHABLE
    | st.floats()
    | st.datetimes()
    | st.times()
    | st.timedeltas()
    | st.decimals()
    | st.uuids()
    | st.fractions()
    | st.complex_numbers()
    | st.just(Colour.RED)
    | st.text(st.characters(codec=None))
)
STORED = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(HASHABLE | st.sampled_from(["$tuple", "$x", ""]), inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
        | st.frozensets(HASHABLE, max_size=4)
        | inner.map(Point)
    ),
    max_leaves=15,
)


@given(STORED)
@example({2**64, -(2**63) - 1, "\ud800"})
@example({"\ud800": 2**70, 5: ("\ud800",)})
def test_stored_value_comes_back_as_it_was_types_and_all(value: Any) -> None:
    assert shape(decode(encode(value), TYPES)) == shape(value)


def shape(value: Any) -> Any:
    """Return a value with the types of all in it, comparable also where floats are not equal to themselves."""
    if isinstance(value, (list, tuple)):
        return type(value), [shape(one) for one in value]
    if isinstance(value, dict):
        return dict, [(shape(key), shape(one)) for key, one in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(repr, map(shape, value)))
    if isinstance(value, Point):
        return Point, shape(value.x)
    if isinstance(value, float):
        return float, "nan" if math.isnan(value) else value.hex()
    return type(value), repr(value)


@given(st.binary(max_size=60) | JSON.map(lambda value: encode(value)))
def test_bytes_from_a_store_are_read_or_refused_and_never_run(data: bytes) -> None:
    with suppress(EncodingError):
        decode(data)


@pytest.mark.parametrize(
    "forged",
    [
        b'{"$data": ["os.system", {"x": 1}]}',
        b'{"$model": ["subprocess.Popen", {}, []]}',
        b'{"$enum": ["builtins.eval", "x"]}',
        b'{"$pickle": "gASVCg=="}',
        b'{"$tuple": 5}',
        b'{"$dict": [[1]]}',
        b'{"$data": ["tests.Point"]}',
        b'{"$decimal": "no number"}',
        b'{"$timedelta": [1e300, 0, 0]}',
        b'{"$bytes": "\\u00e9"}',
        b'{"$dict": [[[], 1]]}',
        b"\xff",
    ],
)
def test_forged_value_is_refused(forged: bytes) -> None:
    with pytest.raises(EncodingError):
        decode(forged, TYPES)


def test_value_nested_too_deeply_or_within_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(EncodingError, match="deeper"):
        encode(loop)
    assert decode(encode([date(2026, 1, 2), time(1), timedelta(1), Decimal("1.10"), UUID(int=5), datetime(2026, 1, 2)]))
