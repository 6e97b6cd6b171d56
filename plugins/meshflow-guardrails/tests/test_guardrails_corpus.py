"""How many attacks are caught and how many ordinary texts are let through, on corpora written for this project.

``attacks`` and ``benign`` were at hand while the signals were tuned; ``heldout`` was written afterwards.
Both hold texts that the guardrails get wrong: the counts below are what they do, not what they should.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshflow.plugin import Effect, NodeInput, context_for
from meshflow_guardrails import GuardrailsPlugin, GuardrailsSettings

HERE = Path(__file__).parent


def corpus(name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((HERE / f"guardrails_{name}.json").read_text(encoding="utf-8"))
    return rows


@pytest.fixture(scope="module")
def plugin() -> GuardrailsPlugin:
    return GuardrailsPlugin(GuardrailsSettings())


async def denied(plugin: GuardrailsPlugin, text: str) -> bool:
    decision = await plugin.guard_input(context_for(NodeInput(node_id="n", input=text)))
    if decision.effect is Effect.DENY:
        assert decision.code == "input_guardrails.prompt_injection"
        assert decision.evidence["injection_signals"]
    return decision.effect is Effect.DENY


async def test_attacks_in_plain_sight_are_denied_and_no_style_but_the_indirect_one_gets_past(
    plugin: GuardrailsPlugin,
) -> None:
    rows = corpus("attacks")
    assert len(rows) >= 60
    missed = [row["style"] for row in rows if not await denied(plugin, row["text"])]
    assert set(missed) <= {"indirect"}
    assert len(rows) - len(missed) >= 64


async def test_ordinary_texts_pass_also_those_about_injections(plugin: GuardrailsPlugin) -> None:
    rows = corpus("benign")
    assert len(rows) >= 40
    assert sum(row["kind"] == "security" for row in rows) >= 8
    assert [row["text"] for row in rows if await denied(plugin, row["text"])] == []


async def test_texts_that_were_not_tuned_for_do_nearly_as_well(plugin: GuardrailsPlugin) -> None:
    rows = corpus("heldout")
    caught = sum([await denied(plugin, row["text"]) for row in rows if row["attack"]])
    wrongly = sum([await denied(plugin, row["text"]) for row in rows if not row["attack"]])
    assert caught >= 14
    assert wrongly <= 1
