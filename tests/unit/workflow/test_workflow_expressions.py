"""Expressions are checked at load, bounded in cost, and never guessed at when they have no value."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshflow.workflow.expressions import EvaluationError, ExpressionError, Scope
from meshflow.workflow.expressions.cost import affordable
from meshflow.workflow.expressions.tree import read_tree
from meshflow.workflow.expressions.wire import fields
from meshflow.workflow.plain import MAX_DEPTH, NotPlainError, Plain, plain
from meshflow.workflow.template import Template, split

SCOPE = Scope(
    {
        "input": "any", "run.id": "text", "state.count": "whole", "nodes.fetch.output": "any",
        "nodes.fetch.status": "text", "nodes.fetch.runs": "whole",
    }
)  # fmt: skip


def data(**values: Any) -> dict[str, Plain]:
    return {name: plain(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("nodes.fech.output.x", "unknown node fech (did you mean fetch?)"),
        ("nodes.fetch.outptu", "a node has output, status and runs"),
        ("nodes['fetch'].output", "nodes is no value of its own"),
        ("inpt.x", "unknown name inpt.x"),
        ("state.count + 'a'", "no matching overload for '_+_'"),
        ("run.id > 3", "no matching overload"),
        ("exec('x')", "unknown name exec"),
        ("__import__('os')", "unknown name __import__"),
        ("input.x @ 1", "token recognition error"),
        ("", "is empty"),
        ("1 +", "mismatched input"),
        ("(" * 50 + "1" + ")" * 50, "is nested too deeply"),
        ("+".join(["1"] * 100), "is nested too deeply"),
        ("input == '" + "x" * 5_000 + "'", "is longer than 4,000 characters"),
        ("input.matches('(a')", "has a pattern that is none"),
        ("input.matches('(a{1,1000}){1,1000}')", "has a pattern that is none"),
        ("input.all(x, input.all(y, input.all(z, x + y == z)))", "may take too long"),
        ("[input]" + ".map(a, a + a + a + a + a + a + a + a)" * 5 + ".size() > 0", "may take too long"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_at_load(source: str, expected: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        SCOPE.compile(source)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("input.missing == 1", {}),
        ("input.n > 1", {"n": None}),
        ("input.n.x == 1", {"n": None}),
        ("input.a == 1 && input.b", {"a": 1, "b": 1}),
        ("1 / input.a == 1", {"a": 0}),
        ("input.a + 9223372036854775807 > 0", {"a": 1}),
        ("input.a", {"a": "true"}),
        ("input.a", {"a": 1}),
        ("input.a", {"a": None}),
        ("input.l[5] == 1", {"l": []}),
        ("input.matches(input)", "("),
        ("input.a > 0", {"a": 2**70}),
        ("input.map(x, 1 / x) == [1]", [0]),
    ],
)  # fmt: skip
def test_a_condition_without_a_value_is_an_error_and_never_false(source: str, value: Any) -> None:
    with pytest.raises(EvaluationError):
        SCOPE.condition(source).truth(data(input=value))


@pytest.mark.parametrize(
    ("source", "value", "expected"),
    [
        ("input.a > 1.5 && nodes.fetch.status == 'completed'", {"a": 2}, True),
        ("has(input.b) && input.b", {"a": 2}, False),
        ("input.n == null", {"n": None}, True),
        ("input.a == 2.0", {"a": 2}, True),
        ("input.l.exists(x, x.startsWith('b'))", {"l": ["a", "bc"]}, True),
        ("size(input.l) == 2 && 'a' in input.l", {"l": ["a", "bc"]}, True),
        ("input.t.matches('^(a+)+$')", {"t": "a" * 5_000 + "!"}, False),
    ],
)  # fmt: skip
def test_conditions_hold_or_do_not(source: str, value: Any, expected: bool) -> None:
    given_data = data(input=value) | {"nodes.fetch.status": plain("completed")}
    assert SCOPE.condition(source).truth(given_data) is expected


def test_data_beyond_the_bound_is_refused_before_it_is_looked_at() -> None:
    quadratic = SCOPE.condition("input.all(x, input.exists(y, x == y))")
    assert quadratic.truth(data(input=list(range(40))))
    begun = time.perf_counter()
    with pytest.raises(EvaluationError) as caught:
        quadratic.truth(data(input=["x" * 100] * 50_000))
    assert caught.value.cause == "expression_too_costly"
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize(
    "source",
    [
        "input.all(x, input.all(y, x != y || x == y))", "input.map(x, x + x).size() > 0", "input.all(x, x.contains(x))",
        "input.filter(x, x in input).size() >= 0", "input.map(x, input).size() > 0", "input == input",
        "[input, input].map(x, x.map(y, [y, y])).size() > 0", "input.map(x, [x, x]).map(x, x + x).size() > 0",
    ],
)  # fmt: skip
def test_the_largest_data_that_an_expression_may_see_take_it_no_long_time(source: str) -> None:
    expression = SCOPE.condition(source)
    for item, most in (("ab", 40_000), ("x" * 5_000, 2_000)):
        count = most
        while True:
            begun = time.perf_counter()
            try:
                assert expression.truth(data(input=[item] * count)) in (True, False)
                break
            except EvaluationError as error:
                assert error.cause == "expression_too_costly" or "budget" in str(error)  # noqa: PT017
                count = count * 2 // 3
            finally:
                assert time.perf_counter() - begun < 3
        assert count > 10


def test_expressions_give_json_or_an_error() -> None:
    for source, expected in (
        ("timestamp('2026-01-02T03:04:05Z')", "2026-01-02T03:04:05Z"), ("duration('90s')", "90s"), ("1u", 1),
        ("{'a': [1, 2.5, null, true]}", {"a": [1, 2.5, None, True]}),
    ):  # fmt: skip
        assert SCOPE.compile(source).value({}).value == expected
    for source in ("b'x'", "{1: 2}", "type(1)"):
        with pytest.raises(EvaluationError):
            SCOPE.compile(source).value({})


def test_a_loop_in_a_loop_may_see_less() -> None:
    def most(source: str) -> int:
        work = SCOPE.compile(source).work
        return max(size for size in (2**power for power in range(40)) if affordable(work, size, size))

    sizes = [most(source) for source in ("1 < 2", "input.all(x, x == 1)", "input.all(x, x in input)")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[2] < 20_000 < sizes[1]


def test_templates_put_values_in_and_never_read_them_again() -> None:
    errors: list[Any] = []
    source = {"all": "${{ input }}", "text": "<${{ input.a }}> $${{ kept }}", "list": [1, "${{ input.b }}"]}
    template = Template(source, SCOPE.compile, errors)
    assert not errors
    evil = {"a": "${{ run.id }} {{ 7*7 }} {0.__class__} %(x)s $PATH", "b": {"c": "${{ input }}"}}
    rendered = template.render(data(input=evil)).value
    assert rendered["text"] == "<${{ run.id }} {{ 7*7 }} {0.__class__} %(x)s $PATH> ${{ kept }}"
    assert rendered["list"] == [1, {"c": "${{ input }}"}]
    assert rendered["all"] == evil
    assert template.names == {"input"}


def test_null_in_a_text_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="is null and stands in a text"):
        Template("Dear ${{ input.a }}", SCOPE.compile, []).render(data(input={"a": None}))


@given(st.text(alphabet="${}'\"\\a ", max_size=30))
def test_any_text_splits_or_is_refused(text: str) -> None:
    try:
        parts = split(text)
    except ExpressionError:
        return
    rebuilt = "".join("${{" + part + "}}" if at >= 0 else part.replace("${{", "$${{") for part, at in parts)
    assert rebuilt == text


@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_a_message_or_refused(blob: bytes) -> None:
    for read in (lambda: list(fields(blob)), lambda: read_tree(blob)):
        try:
            read()
        except ValueError:
            continue


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_plain_data_is_copied_whole_and_is_the_same_in_cel(value: Any) -> None:
    try:
        copied = plain(value)
    except NotPlainError:
        assert "\\x00" in repr(value) or "\\ud" in repr(value)
        return
    assert copied.value == value
    assert SCOPE.compile("input").value({"input": copied}).value == value


def test_what_is_no_plain_data_is_named() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    circle: dict[str, Any] = {}
    circle["self"] = circle
    for value, expected in (
        (float("nan"), r"\$ is nan"), ({"a": [1, float("inf")]}, r"\$\.a\[1\] is inf"), (object(), "is a object"),
        ({1: 2}, "has the key 1"), (deep, f"more than {MAX_DEPTH} levels"), (circle, f"more than {MAX_DEPTH} levels"),
        ("\ud800", "surrogate"), ({"a": b"x"}, "is a bytes"), ("x" * 20_000_000, "larger than"), ({1, 2}, "is a set"),
        ("a\0b", "NUL"), ({"a\0": 1}, "NUL"),
    ):  # fmt: skip
        with pytest.raises(NotPlainError, match=expected):
            plain(value)
    assert plain((1, (2,))).value == [1, [2]]
