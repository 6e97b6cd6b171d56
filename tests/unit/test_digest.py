"""What an approval is bound to: two inputs that a handler can tell apart have two digests."""

from __future__ import annotations

import dataclasses
from collections import deque
from datetime import timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel, Field, RootModel, SecretBytes, SecretStr

from meshflow.digest import arguments_digest, digest

SALT = "5a" * 16


class Model(BaseModel):
    cents: int
    note: Any = None


class Named(NamedTuple):
    cents: int


@dataclasses.dataclass
class Data:
    cents: int


@dataclasses.dataclass(frozen=True, slots=True)
class Hidden:
    _cents: int


class Excluded(BaseModel):
    cents: int = Field(exclude=True)


class Open(BaseModel, extra="allow"):
    pass


class Locked(BaseModel):
    key: SecretStr


class Sub(Model):
    fee: int = 0


class Of(BaseModel):
    model: Model


class Opaque:
    def __init__(self, cents: int) -> None:
        self.cents = cents


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Model(cents=5), Model(cents=500)),
        (Model(cents=5, note=Model(cents=1)), Model(cents=5, note=Model(cents=2))),
        (Hidden(5), Hidden(500)),
        (Excluded(cents=5), Excluded(cents=500)),
        (Open(cents=5), Open(cents=500)),  # type: ignore[call-arg]
        (Of(model=Sub(cents=5, fee=1)), Of(model=Sub(cents=5, fee=2))),
        (Of(model=Model(cents=5)), Of(model=Sub(cents=5))),
        (RootModel[int](5), RootModel[int](500)),
        (SecretStr("5"), SecretStr("500")),
        (SecretBytes(b"5"), SecretBytes(b"500")),
        (Locked(key=SecretStr("5")), Locked(key=SecretStr("500"))),
        (Named(5), Named(500)),
        (Data(5), Data(500)),
        (MappingProxyType({"cents": 5}), MappingProxyType({"cents": 500})),
        (deque([5]), deque([500])),
        (timedelta(5), timedelta(500)),
        (range(5), range(500)),
        (Decimal(5), Decimal(500)),
        (b"5", b"500"),
        ({5}, {500}),
        ((5,), (500,)),
        (5, 5.0),
        (1, True),
        ("5", 5),
        (None, "null"),
        (2**70, 2**70 + 1),
        ("\ud800", "\ud801"),
    ],
)
def test_what_differs_for_a_handler_differs_in_the_digest(one: Any, other: Any) -> None:
    for nested in (lambda value: value, lambda value: {"deep": [value]}):
        assert arguments_digest(nested(one), SALT) != arguments_digest(nested(other), SALT)
        assert digest(nested(one)) != digest(nested(other))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Model(cents=5, note=b"x"),
        lambda: Named(5),
        lambda: Data(5),
        lambda: Of(model=Sub(cents=5, fee=1)),
        lambda: Locked(key=SecretStr("5")),
        lambda: MappingProxyType({"a": {"b": 1}, "c": 2}),
        lambda: {"handle": Opaque(5), "cents": 5},
        lambda: {3, 1, 2},
    ],
)
def test_what_is_made_anew_for_a_resumed_step_has_the_same_digest(make: Any) -> None:
    assert arguments_digest(make(), SALT) == arguments_digest(make(), SALT)


def test_a_change_in_place_shows_within_a_model() -> None:
    value = {"of": Model(cents=5)}
    before = digest(value)
    value["of"].cents = 500
    assert digest(value) != before
