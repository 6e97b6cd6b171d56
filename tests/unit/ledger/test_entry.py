"""The quick look at a record's types, and the salts that commitments are made with."""

from __future__ import annotations

import dataclasses
import threading
from enum import IntEnum, StrEnum
from typing import Any
from uuid import UUID

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from meshflow.decision import Effect
from meshflow.errors import EncodingError
from meshflow.ledger.format.canonical import canonical_bytes
from meshflow.ledger.format.entry import Written, is_plain, seal, step_contents, step_fields
from meshflow.ledger.format.salts import Salts
from meshflow.record import ApprovalRequest, StageResult, StepRecord


class Name(StrEnum):
    ONE = "one"


class Number(IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


# orjson writes every one of these without a word, but for the last two.
FOREIGN = (1.5, float("nan"), Name.ONE, Number.ONE, UUID(int=1), [2.5], {"a": {"b": 0.5}}, Text("x"), b"x")
RESULT = StageResult("execution", "default", Effect.ALLOW, elapsed_ns=5)
RECORD = StepRecord(run_id="r", node_id="n", step_id="s", results=(RESULT,) * 3, tool="t", fingerprint="f" * 64)


def taken_over(record: StepRecord, value: Any) -> bool:
    """Say whether the body would hold the value."""
    fields = step_fields(record)
    return any(one is value for one in [*fields.values(), *(one for stage in fields["stages"] for one in stage)])


def test_an_ordinary_record_is_plain() -> None:
    assert is_plain(RECORD)
    assert is_plain(StepRecord(run_id="r", node_id="n"))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(StepRecord)])
def test_a_record_is_not_plain_with_a_foreign_value_in_any_field_of_its_body(name: str) -> None:
    for value in FOREIGN:
        record = dataclasses.replace(RECORD)
        object.__setattr__(record, name, value)
        try:
            taken = taken_over(record, value)
        except (KeyError, TypeError, AttributeError, ValueError):
            continue  # a verdict, result or request of another type has no body at all
        assert not (taken and is_plain(record)), value


@pytest.mark.parametrize("name", StageResult._fields)
def test_a_record_is_not_plain_with_a_foreign_value_in_any_field_of_a_result(name: str) -> None:
    for value in FOREIGN:
        if name == "effect" and not isinstance(value, StrEnum | IntEnum):
            continue  # has no body at all
        record = dataclasses.replace(RECORD, results=(RESULT, RESULT._replace(**{name: value})))
        assert not (taken_over(record, value) and is_plain(record)), value
        if name == "effect":
            assert not is_plain(record)


def test_what_is_not_plain_is_looked_at_value_by_value() -> None:
    request = ApprovalRequest("a", "d" * 64, "salt", 5, ("risk.high",))
    for record in (
        dataclasses.replace(RECORD, unsafe=("execution",)),
        dataclasses.replace(RECORD, approval_request=request),
    ):
        assert not is_plain(record)
        seal(step_fields(record), {})
    with pytest.raises(EncodingError, match="codes"):
        seal(step_fields(dataclasses.replace(RECORD, approval_request=dataclasses.replace(request, codes=(1.5,)))), {})


@given(st.integers(), st.text(), st.text())
def test_a_plain_record_has_the_bytes_of_rfc_8785_or_is_refused(number: int, text: str, code: str) -> None:
    record = dataclasses.replace(RECORD, tokens=number, tool=text, results=(RESULT._replace(code=code),))
    assert is_plain(record)
    fields = step_fields(record)
    try:
        data = canonical_bytes(fields, plain=True)
    except EncodingError:
        with pytest.raises(EncodingError):
            canonical_bytes(fields)
        return
    assert data == canonical_bytes(fields) == rfc8785.dumps(fields)


def test_no_two_threads_draw_the_same_salt() -> None:
    salts, drawn = Salts(), [list[bytes]() for _ in range(8)]

    def draw(mine: list[bytes]) -> None:
        mine.extend(salts.take() for _ in range(2_000))

    threads = [threading.Thread(target=draw, args=(mine,)) for mine in drawn]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = [salt for mine in drawn for salt in mine]
    assert len(set(every)) == len(every) == 16_000
    assert {len(salt) for salt in every} == {16}


def test_a_sealed_step_keeps_contents_apart_from_the_body() -> None:
    record = dataclasses.replace(RECORD, input="a secret", reason="another secret")
    draft = seal(step_fields(record), dict.fromkeys(step_contents(record), b'"x"'), plain=True)
    assert [name for name, _, _ in draft.payloads] == ["input", "reason"]
    assert b"secret" not in draft.body


def test_what_was_written_cannot_be_changed() -> None:
    written = Written("r", 0, "s", "h")
    with pytest.raises(AttributeError):
        written.seq = 1  # type: ignore[misc]
