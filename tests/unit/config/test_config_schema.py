"""The JSON Schema of meshflow.yaml agrees with what the loader accepts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import jsonschema_rs
import pytest
import yaml
from pydantic import Field

from meshflow.config import config_from_mapping, config_schema
from meshflow.errors import ConfigError
from meshflow.plugin import Decision, Plugin, Settings, StepContext, hookimpl
from meshflow.stages import STAGES


class Item(Settings):
    weight: int = Field(1, description="Grams.")
    below: tuple[Item, ...] = ()


class FirstSettings(Settings):
    bundle: str = "x"
    needed: int
    item: Item = Item()


class First(Plugin[FirstSettings]):
    settings_type = FirstSettings

    @hookimpl
    async def evaluate_policy(self, context: StepContext) -> Decision:
        return Decision.allow()

    @hookimpl(specname="guard_input")
    async def look(self, context: StepContext) -> Decision:
        return Decision.allow()


class Tree(Settings):
    """Refers to itself, and to another Item."""

    item: Item = Item()
    trees: tuple[Tree, ...] = ()


class Second(Plugin[Tree]):
    settings_type = Tree


class LedgerSettings(Settings):
    shorthand: ClassVar[str] = "path"
    path: str = "x.db"
    batch: int = 1


class Ledger(Plugin[LedgerSettings]):
    settings_type = LedgerSettings
    section = "ledger"

    @hookimpl
    async def record_audit(self, context: StepContext, record: Any) -> None: ...


class RiskSettings(Settings):
    tools: dict[str, int] = Field(default_factory=dict)
    verbs: int = 1


class Risk(Plugin[RiskSettings]):
    settings_type = RiskSettings
    section = "tools"


class ToolsSettings(Settings):
    tools: dict[str, int] = Field(default_factory=dict)
    verbs: str = ""
    owner: str
    odd: int = Field(0, alias="a/b~c %")


class Tools(Plugin[ToolsSettings]):
    settings_type = ToolsSettings
    section = "tools"


PLUGINS: dict[str, type[Plugin[Any]]] = {
    "first": First, "second": Second, "ledger": Ledger, "risk": Risk, "tools": Tools, "odd/name~": First,
}  # fmt: skip


@pytest.fixture(scope="module")
def accepts() -> Callable[[str], bool]:
    schema = config_schema(PLUGINS)
    jsonschema_rs.meta.validate(schema)
    validator = jsonschema_rs.Draft202012Validator(json.loads(json.dumps(schema)))
    return lambda text: validator.is_valid(yaml.safe_load(text))


RIGHT = [
    "{}",
    "version: 1",
    "{stages: , plugins: , tenants: , approvals: , limits: , ledger: }",
    "stages: {policy_evaluation: first}",
    "stages: {policy_evaluation: [first]}",
    "stages: {policy_evaluation: {use: [first], mode: shadow, timeout_ms: 5}}",
    "stages: {input_guardrails: {also_shadow: first}}",
    "stages: {policy_evaluation: {mode: disabled, unsafe: true}}",
    "stages: {sla_record: {mode: disabled}, execution: }",
    "stages: {rate_limiting: anything_since_nothing_is_installed}",
    "stages: {policy_evaluation: {use: '${POLICY}', mode: '${MODE}', timeout_ms: '${T}'}}",
    "plugins: {allow: [first], disable: second}",
    "plugins: {first: {needed: 1, item: {weight: 2, below: [{weight: 3}]}}}",
    "plugins: {first: {needed: '${N}'}, second: }",
    "plugins: {second: {item: {weight: 1}, trees: [{trees: []}]}}",
    "plugins: {'odd/name~': {needed: 1}}",
    "ledger: x.db",
    "ledger: {path: x.db, batch: 2}",
    "tools: {tools: {pay: 1}, verbs: 1}",
    "tools: {verbs: read}",
    "tools: {owner: me, 'a/b~c %': 1}",
    "plugins: {tools: {tools: {}}}",
    "approvals: {expires_s: 5}",
    "tenants: {acme: {stages: {policy_evaluation: first}, plugins: {first: {bundle: x}}, tools: {verbs: 2}}}",
    "tenants: {acme: }",
]
WRONG = [
    "[]",
    "version: 2",
    "stage: {}",
    "stages: {policy_evalution: first}",
    "stages: {policy_evaluation: second}",
    "stages: {policy_evaluation: off}",
    "stages: {policy_evaluation: []}",
    "stages: {policy_evaluation: {mode: off}}",
    "stages: {policy_evaluation: {mode: shadwo}}",
    "stages: {policy_evaluation: {mode: disabled}}",
    "stages: {policy_evaluation: {timeout_ms: 0}}",
    "stages: {policy_evaluation: {timeout_ms: soon}}",
    "stages: {risk_classification: {mode: shadow}}",
    "stages: {execution: [a, b]}",
    "stages: {audit_ledger: {also_shadow: ledger}}",
    "plugins: {allow: []}",
    "plugins: {frist: {}}",
    "plugins: {first: {}}",
    "plugins: {first: {needed: x}}",
    "plugins: {first: {needed: 1, bundel: x}}",
    "plugins: {first: {needed: 1, item: {wieght: 1}}}",
    "ledger: 5",
    "ledger: {pth: x}",
    "tools: {vrbs: 1}",
    "tools: {'a/b~c %': x}",
    "tools: [pay]",
    "limits: {}",
    "approvals: {expire_s: 1}",
    "approvals: {expires_s: 0}",
    "tenants: {'a b': {}}",
    "tenants: {acme: {ledger: x}}",
    "tenants: {acme: {stages: {identity_verification: {}}}}",
    "tenants: {acme: {stages: {execution: {use: x}}}}",
    "tenants: {acme: {stages: {policy_evaluation: {mode: shadow}}}}",
    "tenants: {acme: {plugins: {allow: [first]}}}",
]


@pytest.mark.parametrize("text", RIGHT)
def test_the_schema_accepts_what_is_right(text: str, accepts: Callable[[str], bool]) -> None:
    assert accepts(text)


@pytest.mark.parametrize("text", WRONG)
def test_the_schema_refuses_what_is_wrong(text: str, accepts: Callable[[str], bool]) -> None:
    assert not accepts(text)


@pytest.mark.parametrize("text", [text for text in RIGHT if "${" not in text])
def test_the_loader_accepts_what_the_schema_accepts(text: str) -> None:
    given = yaml.safe_load(text)
    config = config_from_mapping(given, base=Path())
    assert config.stages.keys() == (given.get("stages") or {}).keys()
    assert config.tenants.keys() == (given.get("tenants") or {}).keys()
    assert config.approvals.expires_s == (given.get("approvals") or {}).get("expires_s", 86_400)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: str(stage.name))
@pytest.mark.parametrize("root", ["", "tenants: {acme: "])
@pytest.mark.parametrize(
    "body",
    ["{mode: shadow}", "{mode: disabled}", "{mode: disabled, unsafe: true}", "{also_shadow: x}", "{use: [x]}", "[x]"],
)
def test_schema_and_loader_agree_on_each_stage(stage: Any, root: str, body: str) -> None:
    value = yaml.safe_load(f"{root}{{stages: {{{stage.name}: {body}}}}}{'}' if root else ''}")
    try:
        config_from_mapping(value)
        loads = True
    except ConfigError:
        loads = False
    assert jsonschema_rs.Draft202012Validator(config_schema({})).is_valid(value) is loads


def test_what_editors_show_is_there() -> None:
    schema = config_schema(PLUGINS)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == {
        "version", "ledger", "tenants", "stages", "plugins", "profiles", "limits", "approvals", "telemetry", "tools",
    }  # fmt: skip
    assert "Grams." in json.dumps(schema["$defs"]["first:Item"])
    assert {"first", "first:Item", "second:Item", "second:Tree", "odd_name_:Item"} <= set(schema["$defs"])
