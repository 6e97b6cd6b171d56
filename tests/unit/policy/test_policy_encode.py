"""The way of a decision document into JSON: what JSON would bend is refused, with its place and never its value."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshflow.policy import PolicyFailure
from meshflow.policy.encode import encode

CAP = 1 << 20


def refused(value: Any) -> str:
    failure = encode({"arguments": value}, CAP)
    assert isinstance(failure, PolicyFailure)
    assert failure.cause == "unencodable_input"
    return failure.message


@pytest.mark.parametrize(
    "value",
    [
        float("nan"), float("inf"), -float("inf"), 2**63, -(2**63), 10**30, b"bytes", {1, 2}, Decimal("1.5"), object(),
        datetime.datetime(2024, 1, 1), 1j, "\ud800", {"k": "\udfff"}, {1: "a"}, {None: "a"}, {"\ud800": 1}, lambda: 1,
    ],
)  # fmt: skip
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    refused(value)
    refused([{"deep": (value,)}])


def test_the_place_is_named_and_the_value_is_not() -> None:
    assert refused({"order": [{"amount": float("nan")}]}).startswith("input.arguments.order[0].amount: ")
    message = refused({"customer ana@example.com": {"x": {"4111111111111111"}}})
    assert "ana" not in message
    assert "4111" not in message


def test_depth_is_limited_without_recursion() -> None:
    value: Any = 1
    for _ in range(200_000):
        value = [value]
    assert "deeper than 100" in refused(value)
    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    assert "deeper than 100" in refused(cycle)
    while isinstance(value, list):  # unwound by hand: the interpreter frees nested lists by recursion
        value = value[0]


def test_a_document_above_the_cap_is_refused() -> None:
    failure = encode({"input": "x" * 2_000}, 1_024)
    assert isinstance(failure, PolicyFailure)
    assert failure.cause == "input_too_large"
    assert isinstance(encode({"input": "x" * 900}, 1_024), bytes)


def test_read_only_mappings_and_tuples_are_encoded() -> None:
    document = MappingProxyType({"a": (1, 2), "b": MappingProxyType({"c": None})})
    assert encode(document, CAP) == b'{"a":[1,2],"b":{"c":null}}'


@given(
    st.dictionaries(
        st.text(),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        ),
        max_size=4,
    )
)  # fmt: skip
def test_every_plain_document_survives_unchanged(document: dict[str, Any]) -> None:
    encoded = encode(document, CAP)
    assert isinstance(encoded, bytes)
    assert json.loads(encoded) == document
