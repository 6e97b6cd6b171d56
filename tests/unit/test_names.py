"""Spellings of one name, and names that only look alike."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshflow.names import folded_name

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


@pytest.mark.parametrize(
    "spelling",
    [
        "bob", " BOB ", "ｂｏｂ", "b\u200bob", "bob\u2060", "\u00adbob", "bob\ufe0f", "b\u034fob", "bob\x00", "b\x07ob",
        "bob\U000e0101", "\u3164bob", "bob\u2800", "bob\u2065", "bob\ue000", "\ufeffbob", "bob\u180b",
        "\u202ebob\u202c",
    ],
)  # fmt: skip
def test_what_does_not_show_makes_no_other_name(spelling: str) -> None:
    assert folded_name(spelling) == "bob"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Zoë", "Zoe\u0308"),
        ("Zoë", "Zoe\u034f\u0308"),  # a grapheme joiner keeps the two from being composed
        ("Straße", "STRASSE"),
        ("Ada  Lovelace", "ada\u00a0lovelace"),
        ("ΐ", "Ϊ́"),
        ("ﬁona", "FIONA"),
    ],
)
def test_ways_to_write_one_name_are_one_name(one: str, other: str) -> None:
    assert folded_name(one) == folded_name(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("ada", "adа"), ("ada lovelace", "adalovelace"), ("bob", "bób"), ("ımar", "imar")],
)
def test_what_looks_alike_and_shows_a_difference_stays_apart(one: str, other: str) -> None:
    assert folded_name(one) != folded_name(other)


@given(TEXT)
def test_a_folded_name_folds_to_itself(name: str) -> None:
    assert folded_name(folded_name(name)) == folded_name(name)


@given(TEXT)
def test_composed_and_decomposed_are_one_name(name: str) -> None:
    decomposed, composed = unicodedata.normalize("NFD", name), unicodedata.normalize("NFC", name)
    assert folded_name(decomposed) == folded_name(composed) == folded_name(name)
