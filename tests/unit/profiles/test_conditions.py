"""Conditions: what each comparison says, and three-valued logic that erasure cannot bend."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshflow.profiles.conditions import ERASED, Compiled, Scope, compile_condition

SETTINGS = {"tools": ["pay_*", "wire"], "people": ["Mara"], "days": 30}


class Fields:
    def __init__(self, **values: Any) -> None:
        self._values = values

    def value(self, field: str) -> Any:
        return self._values.get(field)


def compiled(written: dict[str, Any], **named: Any) -> Compiled:
    problems: list[Any] = []
    condition = compile_condition(written, (), Scope(lambda _: None, SETTINGS, named), problems)
    assert problems == []
    return condition


@pytest.mark.parametrize(
    ("written", "values", "truth"),
    [
        ({"a": 1}, {"a": 1}, True),
        ({"a": True}, {"a": 1}, False),
        ({"a": 0}, {"a": False}, False),
        ({"a": None}, {}, True),
        ({"a": ["x", "y"]}, {"a": "y"}, True),
        ({"a": {"not": "x"}}, {"a": "y"}, True),
        ({"a": {"not": "x"}}, {}, True),
        ({"a": {"known": True}}, {"a": []}, False),
        ({"a": {"known": False}}, {"a": ""}, True),
        ({"a": {"at_least": 3}}, {"a": 3}, True),
        ({"a": {"at_least": 3}}, {"a": True}, False),
        ({"a": {"at_least": 3}}, {}, False),
        ({"a": {"at_most": {"setting": "days"}}}, {"a": 30.5}, False),
        ({"a": {"at_least": "external_io"}}, {"a": "irreversible"}, True),
        ({"a": {"at_least": "external_io"}}, {"a": "internal"}, False),
        ({"a": {"at_most": "personal"}}, {"a": "secret"}, False),
        ({"a": {"at_least": "internal"}}, {"a": "unheard of"}, False),
        ({"a": {"has": "x"}}, {"a": ["x", "y"]}, True),
        ({"a": {"has": ["z"]}}, {"a": ["x", "y"]}, False),
        ({"a": {"has": "x"}}, {}, False),
        ({"a": {"has": "x"}}, {"a": "text"}, False),
        ({"a": {"has": "x"}}, {"a": 5}, False),
        ({"a": {"has": "x"}}, {"a": {"x": 1}}, False),
        ({"a": {"has": 1}}, {"a": "one"}, False),
        ({"a": {"has": 1}}, {"a": [True]}, False),
        ({"a": {"glob": "look_*"}}, {"a": "look_up"}, True),
        ({"a": {"setting": "tools"}}, {"a": "pay_out"}, True),
        ({"a": {"setting": "tools"}}, {"a": "wired"}, False),
        ({"a": {"setting": "tools"}}, {"a": ["x", "wire"]}, True),
        ({"a": {"setting": "people"}}, {"a": "mara"}, False),
        ({"a": {"setting_folded": "people"}}, {"a": " MARA"}, True),
        ({"a": {"same_as": "b"}}, {"a": "Ana", "b": "ana "}, True),
        ({"a": {"same_as": "b"}}, {"a": "Ana"}, False),
        ({"a": {"same_as": "b"}}, {"a": "Ana", "b": ERASED}, None),
        ({"any": [{"a": 1}, {"b": 2}]}, {"b": 2}, True),
        ({"none": [{"a": 1}, {"b": 2}]}, {"b": 2}, False),
        ({"is": "quiet"}, {"a": 1}, True),
        ({"is": ["quiet"], "b": 2}, {"a": 1}, False),
    ],
)
def test_what_a_condition_says(written: dict[str, Any], values: dict[str, Any], truth: bool | None) -> None:
    assert compiled(written, quiet={"a": 1}).holds(Fields(**values)) is truth


NAMES = ("a", "b", "c")
TERMS = st.dictionaries(st.sampled_from(NAMES), st.sampled_from([0, 1]), min_size=1, max_size=3)
CONDITIONS = st.recursive(
    TERMS,
    lambda inner: st.builds(
        lambda terms, alternatives, never: {
            **terms, **({"any": alternatives} if alternatives else {}), **({"none": never} if never else {}),
        },
        TERMS, st.lists(inner, max_size=2), st.lists(inner, max_size=2),
    ),
    max_leaves=6,
)  # fmt: skip
VALUES = st.fixed_dictionaries({name: st.sampled_from([0, 1]) for name in NAMES})


def plainly(condition: dict[str, Any], values: dict[str, int]) -> bool:
    """Evaluate as the reference says it: all terms, some alternative, none of the rest."""
    terms = all(values[name] == wanted for name, wanted in condition.items() if name in NAMES)
    some = "any" not in condition or any(plainly(one, values) for one in condition["any"])
    return terms and some and not any(plainly(one, values) for one in condition.get("none", ()))


@given(CONDITIONS, VALUES, st.sets(st.sampled_from(NAMES)))
def test_an_answer_despite_erasure_is_the_answer_whatever_was_erased(
    condition: dict[str, Any], values: dict[str, int], erased: set[str]
) -> None:
    full = compiled(condition).holds(Fields(**values))
    assert full is plainly(condition, values)
    answer = compiled(condition).holds(Fields(**{**values, **dict.fromkeys(erased, ERASED)}))
    assert answer in (full, None)
    if answer is not None:
        for guess in (0, 1):
            other = Fields(**{**values, **dict.fromkeys(erased, guess)})
            assert compiled(condition).holds(other) is answer


@given(CONDITIONS, VALUES)
def test_what_does_not_hold_names_fields_on_account_of_which(condition: dict[str, Any], values: dict[str, int]) -> None:
    one = compiled(condition)
    if one.holds(Fields(**values)) is not True:
        assert set(one.failing(Fields(**values))) & set(NAMES)
