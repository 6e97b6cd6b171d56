from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshflow.cli.exits import ExitCode, code_of
from meshflow.cli.ledgers import command
from meshflow.cli.output import line, plain, usd
from meshflow.errors import ConfigError, LedgerConflictError, MeshflowError, PluginError, StageConflictError
from meshflow.visible import visible


@given(st.text())
def test_no_character_that_a_terminal_obeys_is_left(text: str) -> None:
    cleaned = visible(text)
    assert all(unicodedata.category(one) not in ("Cc", "Cs") or one in "\n\t" for one in cleaned)
    assert not {"\u202a", "\u202e", "\u2066", "\u200b", "\ufeff", "\u2028"} & set(cleaned)
    assert "\n" not in line(text)


def test_text_without_such_characters_is_left_alone() -> None:
    assert visible("Größe 日本 [red] \\u{1b}\n") == "Größe 日本 [red] \\u{1b}\n"
    assert visible("\x1b[31m\x9b\u202e") == "\\u{1b}[31m\\u{9b}\\u{202e}"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(Path),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
)


@given(anything)
def test_every_value_has_a_json_form(value: object) -> None:
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == plain(value)


@pytest.mark.parametrize(
    ("micro", "shown"),
    [(0, "$0.00"), (1, "$0.000001"), (50_000, "$0.05"), (1_234_500_000, "$1,234.50"), (-10, "-$0.00001")],
)
def test_money_is_shown_to_the_last_micro(micro: int, shown: str) -> None:
    assert usd(micro) == shown


def test_each_error_has_its_exit_code() -> None:
    assert code_of(ConfigError("x")) == code_of(StageConflictError("x")) == code_of(PluginError("x")) == ExitCode.CONFIG
    assert code_of(LedgerConflictError("x")) == ExitCode.LEDGER
    assert code_of(MeshflowError("x")) == code_of(OSError("x")) == ExitCode.FAILED
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 4, 5, 130, 141]


def test_printed_commands_are_quoted_and_ids_cannot_be_options() -> None:
    assert command("ledger", "show", ids=("r 1", "s"), options=("--ledger", "a'b")) == (
        "meshflow ledger show 'r 1' s --ledger 'a'\"'\"'b'"
    )
    assert command("ledger", "show", ids=("r", "-1")) == "meshflow ledger show -- r -1"
