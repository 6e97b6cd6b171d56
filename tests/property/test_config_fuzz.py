"""Ten thousand random configurations: each loads or gives a ConfigError that says where, and nothing else.

The normal run takes a tenth of them, from a fixed seed; MESHFLOW_SOAK=full takes all.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from pydantic import Field

from meshflow.config import (
    Config,
    check_sections,
    config_from_mapping,
    parse_config,
    plugin_settings,
    unknown_plugin_settings,
)
from meshflow.config.example import uncommented_example
from meshflow.errors import ConfigError
from meshflow.plugin import Plugin, Settings
from meshflow.stages import STAGES

pytestmark = pytest.mark.soak

FULL = os.environ.get("MESHFLOW_SOAK") == "full"
TOTAL = 10_000 if FULL else 1_000
SECRET = "hunter2-secret-value"
ENVIRON = {"NAME": SECRET, "EMPTY": "", "PORT": "8080"}


class Inner(Settings):
    name: str = ""
    weight: float = 1.0
    kinds: dict[str, int | str] = Field(default_factory=dict)


class FuzzSettings(Settings):
    tools: dict[str, Inner] = Field(default_factory=dict)
    caps: tuple[Inner, ...] = ()
    path: str = ""
    port: int = 1
    limits: list[int] | int = 0
    anything: Any = None


def plugin_for(name: str | None) -> type[Plugin[Any]]:
    class FuzzPlugin(Plugin[FuzzSettings]):
        settings_type = FuzzSettings
        section = name

    return FuzzPlugin


PLUGINS = {
    "ledger": plugin_for("ledger"), "limits": plugin_for("limits"), "tools": plugin_for("tools"),
    "profiles": plugin_for("profiles"), "telemetry": plugin_for("telemetry"), "rego": plugin_for(None),
}  # fmt: skip


def refusal(call: Callable[[], object]) -> ConfigError | None:
    """Return the ConfigError that the call raised; any other exception fails the test."""
    try:
        call()
    except ConfigError as error:
        return error
    return None


def outcome(load: Callable[[], Config]) -> str:
    """Load, then hand out all settings; return the messages, each of which must say where."""
    error = refusal(load)
    if error is not None:
        assert error.path or error.where
        return str(error)
    config = load()
    uses: list[Callable[[], object]] = [
        partial(unknown_plugin_settings, config, PLUGINS),
        partial(check_sections, config, PLUGINS),
        *(
            partial(plugin_settings, config, name, plugin, tenant=tenant)
            for tenant in (None, *list(config.tenants)[:3])
            for name, plugin in PLUGINS.items()
        ),
    ]
    errors = [error for use in uses if (error := refusal(use)) is not None]
    assert all(error.path for error in errors)
    return "\n".join(map(str, errors))


def check_text(text: str) -> None:
    message = outcome(lambda: parse_config(text, base=Path(), environ=ENVIRON))
    assert SECRET not in message
    assert len(message) < 200_000


WORDS = [
    "version", "ledger", "tenants", "stages", "plugins", "profiles", "limits", "approvals", "telemetry", "tools",
    "use", "also_shadow", "mode", "timeout_ms", "unsafe", "allow", "disable", "expires_s", "rego", "acme", "caps",
    "name", "path", "port", "kinds", "weight", *(stage.name for stage in STAGES),
]  # fmt: skip
ODD = [
    "off", "on", "no", "~", "null", ".nan", "-.inf", "1e999", "0x" + "f" * 40, "9" * 5000, "010", "12:30",
    "2026-01-02", "${NAME}", "x${NAME}y", "${MISSING}", "${MISSING:-1}", "${", "$${NAME}", "*a", "&a x", "&a [*a]",
    "&a {b: *a}", "<<", "<<: *a", "!!binary aGk=", "!x y", "!!set {a}", "!!int x", "? x", "- - - x", "'", '"\\uD800"',
    '"\\0"', "|", ">\n x", "%YAML 9.9", "---", "...", "{a: ${NAME}}", "[" * 70, "{a: " * 70, "shadow", "disabled",
    "enforce", "true", "1", "-1", "0.5", "[]", "{}", "[x, x]", "[x, 1]", "@", "`", "\t", "\x07", "\u2028", "\ud7ff",
    "\ufffe", "é", "𝒳", "a" * 300,
]  # fmt: skip

names = st.one_of(
    st.sampled_from(WORDS), st.sampled_from(WORDS).map(lambda word: word[1:] + word[0]), st.text(max_size=8)
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(min_value=10**30, max_value=10**40), st.floats(), names,
    st.text(max_size=20), st.sampled_from(["shadow", "disabled", "enforce", "${NAME}", "${MISSING}", "\ud800"]),
)  # fmt: skip
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(names, st.integers(), st.booleans()), inner, max_size=5)
    ),
    max_leaves=20,
)
stage_like = st.one_of(names, st.lists(names, max_size=3), st.dictionaries(names, trees, max_size=4))
shaped = st.fixed_dictionaries(
    {},
    optional={
        "version": st.one_of(st.just(1), scalars),
        "stages": st.one_of(st.dictionaries(names, stage_like, max_size=4), trees),
        "plugins": st.one_of(st.dictionaries(names, trees, max_size=4), trees),
        "tenants": st.one_of(
            st.dictionaries(names, st.dictionaries(names, st.one_of(st.dictionaries(names, stage_like), trees))), trees
        ),
        "limits": trees,
        "tools": trees,
        "ledger": trees,
        "profiles": trees,
        "approvals": trees,
    },
)
lines = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from(["", "- "]), st.sampled_from(WORDS), st.sampled_from([*ODD, *WORDS])),
    max_size=25,
).map(lambda rows: "\n".join(f"{' ' * depth}{dash}{key}: {value}" for depth, dash, key, value in rows))


def fuzz(share: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Take this share of all examples, from a fixed seed."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    limits = settings(
        max_examples=math.ceil(TOTAL * share),
        deadline=None,
        database=None,
        derandomize=False,
        suppress_health_check=checks,
    )
    return lambda test: seed(20_261_124)(limits(test))


@fuzz(0.1)
@given(st.text(max_size=300))
def test_any_text_loads_or_is_refused(text: str) -> None:
    check_text(text)


@fuzz(0.2)
@given(
    st.lists(st.sampled_from([*ODD, *WORDS, ":", ": ", "\n", "  ", "- ", ", ", "{", "}", "[", "]", "#"])).map("".join)
)
def test_any_pile_of_yaml_tokens_loads_or_is_refused(text: str) -> None:
    check_text(text)


@fuzz(0.2)
@given(lines)
def test_any_lines_of_settings_load_or_are_refused(text: str) -> None:
    check_text(text)


@fuzz(0.25)
@given(st.one_of(trees, shaped))
def test_any_mapping_loads_or_is_refused(value: Any) -> None:
    outcome(lambda: config_from_mapping(value))


@fuzz(0.1)
@given(shaped)
def test_any_mapping_written_as_yaml_loads_or_is_refused(value: Any) -> None:
    try:
        text = yaml.safe_dump(value, allow_unicode=True)
    except UnicodeEncodeError:
        text = json.dumps(value)
    check_text(text)


def mutate(text: str, chance: random.Random) -> str:
    """Return the text with a few of its lines broken."""
    rows = text.splitlines()
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(rows))
        row = rows[at]
        place = chance.randrange(len(row) + 1)
        rows[at] = chance.choice([
            row[:place] + row[place + 1 :],
            row[:place] + chance.choice("abz:-{}[]&*!?|>'\"%@`#,\t ${}0.~") + row[place:],
            row[:place] + chance.choice(ODD) + row[place:],
            row.split(":")[0] + ": " + chance.choice(ODD),
            "  " + row,
            row[1:],
            row + "\n" + row,
            row.replace(chance.choice(WORDS), chance.choice(WORDS)),
            "",
        ])  # fmt: skip
    return "\n".join(rows)


def test_a_broken_valid_file_loads_or_is_refused() -> None:
    chance = random.Random(20_261_124)
    text = uncommented_example()
    parse_config(text, base=Path(), environ=ENVIRON)
    refused = 0
    rounds = math.ceil(TOTAL * 0.15)
    for _ in range(rounds):
        broken = mutate(text, chance)
        check_text(broken)
        refused += refusal(partial(parse_config, broken, base=Path(), environ=ENVIRON)) is not None
    assert rounds * 0.2 < refused < rounds, "the mutations should break many files, and not all"


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000, '"' + "a" * 1_000_000, "!" * 1_000_000, "&a " * 300_000, "*a " * 300_000, "{a: 1}, " * 120_000,
        "a: 1\n" * 200_000, "? " * 500_000, "#\n" * 500_000, "\n" * 1_000_000, " " * 1_000_000, "- \n" * 300_000,
        "limits: '" + "''" * 500_000 + "'", "limits: " + "${NAME}" * 140_000, "limits: " + "$" * 1_000_000,
        "limits: " + "${" * 500_000, "%" * 1_000_000, "x: |\n" + " a\n" * 300_000,
        "limits: [" + "'${X}'," * 140_000 + "]",
        "plugins:\n" + "".join(f" p{n}: {{a: [x]}}\n" for n in range(30_000)),
        "stages:\n" + "".join(f" s{n}: {{a: [x]}}\n" for n in range(30_000)),
    ],
    ids=lambda text: repr(text[:16]),
)  # fmt: skip
def test_a_mebibyte_of_anything_is_done_in_seconds(text: str) -> None:
    started = time.process_time()
    check_text(text)
    assert time.process_time() - started < 20
