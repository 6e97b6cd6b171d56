"""Ids that the library makes are letters, so that no scan takes one for personal data."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshflow.ids import id_of, new_id


def test_new_ids_differ_and_hold_no_digit() -> None:
    made = {new_id("run") for _ in range(500)}
    assert len(made) == 500
    assert all(one.startswith("run-") and len(one) == 20 and one[4:].isalpha() for one in made)


@given(st.lists(st.text(), min_size=1), st.integers(1, 32))
def test_the_same_parts_give_the_same_letters(parts: list[str], size: int) -> None:
    one = id_of(*parts, size=size)
    assert one == id_of(*parts, size=size)
    assert len(one) == 2 * size
    assert one.isalpha()


def test_other_parts_give_another_id() -> None:
    assert len({id_of("a", "b"), id_of("ab"), id_of("b", "a"), id_of("a", "b", "")}) == 4
