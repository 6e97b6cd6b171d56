from __future__ import annotations

import dataclasses
import hashlib
import math
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from meshflow.errors import EncodingError
from meshflow.ledger.format.canonical import MAX_INTEGER, canonical_bytes
from meshflow.ledger.format.payload import UNENCODABLE, payload_bytes, payload_value

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEY = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF))
INSIDE = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(KEY, inner),
    max_leaves=40,
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.decimals() | st.uuids()
    | st.complex_numbers() | st.dates(),
    lambda inner: st.lists(inner)
    | st.dictionaries(st.text() | st.integers() | st.booleans() | st.none() | st.floats(), inner)
    | st.tuples(inner, inner)
    | st.frozensets(st.integers()),
    max_leaves=30,
)  # fmt: skip


@given(INSIDE)
def test_inside_the_profile_the_bytes_are_those_of_rfc_8785(value: Any) -> None:
    assert canonical_bytes(value) == rfc8785.dumps(value)


@given(ANYTHING)
def test_any_value_is_either_rfc_8785_or_refused(value: Any) -> None:
    try:
        data = canonical_bytes(value)
    except EncodingError:
        return
    assert data == rfc8785.dumps(value)


@given(ANYTHING)
def test_a_payload_always_has_bytes_that_read_back_and_stay(value: Any) -> None:
    data = payload_bytes(value)
    assert payload_bytes(payload_value(data)) == data


@pytest.mark.parametrize(
    ("value", "path", "says"),
    [
        ({"cost": 0.5}, "cost", "float"),
        ({"a": [1, {"b": math.nan}]}, "a[1].b", "finite"),
        ({"a": {"b": -math.inf}}, "a.b", "finite"),
        ({"n": 2**53}, "n", "2^53"),
        ({"n": -(2**53)}, "n", "2^53"),
        ({"n": 10**30}, "n", "2^53"),
        ({"a": {1: "x"}}, "a", "keys are strings"),
        ({"a": {"\U0001f600": 1}}, "a", "plane"),
        ({"a": ["\ud800"]}, "a[0]", "surrogate"),
        ({"a": {"\udfff": 1}}, "a key", "surrogate"),
        ({"a": b"x"}, "a", "builtins.bytes"),
        ({"a": {1, 2}}, "a", "builtins.set"),
        ({"a": Decimal(1)}, "a", "decimal.Decimal"),
        ({"a": datetime(2026, 1, 1, tzinfo=UTC)}, "a", "datetime"),
    ],
)
def test_what_is_outside_is_refused_by_the_name_of_its_field(value: Any, path: str, says: str) -> None:
    with pytest.raises(EncodingError, match=says.replace("^", r"\^")) as caught:
        canonical_bytes(value)
    assert caught.value.path == path


class Colour(StrEnum):
    RED = "red"


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize("value", [Colour.RED, Name("x"), MappingProxyType({})])
def test_a_subclass_that_another_reader_would_write_otherwise_is_refused(value: Any) -> None:
    with pytest.raises(EncodingError):
        canonical_bytes({"a": value})


def test_a_cycle_and_a_tower_are_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    tower: Any = 1
    for _ in range(65):
        tower = [tower]
    with pytest.raises(EncodingError, match="cycle"):
        canonical_bytes({"a": cycle})
    with pytest.raises(EncodingError, match="64"):
        canonical_bytes(tower)
    assert canonical_bytes(tower[0]) == b"[" * 64 + b"1" + b"]" * 64


def test_a_graph_that_doubles_at_each_level_is_refused_soon() -> None:
    value: Any = 1
    for _ in range(60):
        value = [value, value]
    with pytest.raises(EncodingError, match="values"):
        canonical_bytes(value)


@dataclasses.dataclass
class Secretive:
    password: str = "hunter2"


class Loud:
    def __repr__(self) -> str:
        return "hunter2"

    __str__ = __repr__


def test_what_json_cannot_say_becomes_a_typed_digest_without_its_content() -> None:
    data = payload_bytes(
        {"a": Loud(), "b": Secretive(), "c": b"hunter2", "d": {"hunter2", "x"}, "e": [Exception("hunter2")]}
    )
    assert b"hunter2" not in data
    said = payload_value(data)
    assert said["a"][UNENCODABLE]["type"].endswith("Loud")
    assert said["b"][UNENCODABLE]["type"].endswith("Secretive")
    assert said["c"][UNENCODABLE] == {
        "type": "builtins.bytes", "length": 7, "sha256": hashlib.sha256(b"hunter2").hexdigest()
    }  # fmt: skip
    assert said["d"][UNENCODABLE] == {"type": "builtins.set", "length": 2}


def test_numbers_that_are_not_finite_never_become_null() -> None:
    said = payload_value(payload_bytes({"a": math.nan, "b": [math.inf], "c": None, "d": 1.5}))
    assert said["a"] == {UNENCODABLE: {"type": "builtins.float", "value": "nan"}}
    assert said["b"] == [{UNENCODABLE: {"type": "builtins.float", "value": "inf"}}]
    assert said["c"] is None
    assert said["d"] == 1.5


def test_keys_that_are_numbers_become_text_and_colliding_ones_a_digest() -> None:
    assert payload_value(payload_bytes({1: "a", None: "b", False: "c"})) == {"1": "a", "null": "b", "false": "c"}
    assert payload_value(payload_bytes({7: "a", "x": 1})) == {"7": "a", "x": 1}
    assert payload_value(payload_bytes({7: "a", "7": "b"}))[UNENCODABLE]["reason"] == "keys"


def test_broken_text_huge_numbers_and_depth_become_digests() -> None:
    tower: Any = "hunter2"
    for _ in range(1_000):
        tower = [tower]
    said = payload_value(payload_bytes({"text": "ab\ud800", "number": 2**70, "tower": tower}))
    assert said["text"][UNENCODABLE]["length"] == 3
    assert said["number"][UNENCODABLE]["bits"] == 71
    assert b"hunter2" not in orjson.dumps(said)


def test_a_cyclic_payload_is_cut() -> None:
    cycle: dict[str, Any] = {"a": 1}
    cycle["self"] = cycle
    assert payload_value(payload_bytes(cycle))["a"] == 1
