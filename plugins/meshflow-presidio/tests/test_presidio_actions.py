"""Hash, encrypt and surrogate: keyed, bound to the tenant or the run, and turned back only with the key."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from meshflow.plugin import UNSET, ConfigError, NodeInput, Purpose, TenantScope, context_for
from meshflow_presidio import PresidioPlugin, PresidioSettings
from meshflow_presidio.actions import KeyedTokens, Vault
from meshflow_presidio.secrets import SecretScanner

MAIL, OTHER = "jane@example.com", "joe@example.com"


def made(**more: Any) -> PresidioPlugin:
    plugin = PresidioPlugin(PresidioSettings(**more))
    plugin._scanner.load()
    return plugin


async def scan(
    plugin: PresidioPlugin, value: Any, run: str = "r1", tenant: str = "acme", purpose: Purpose = Purpose.ENFORCE
) -> Any:
    context = context_for(NodeInput(node_id="n", input=value, run_id=run), tenant_scoping=TenantScope(tenant))
    context._state.purpose = purpose
    return (await plugin.scan_sensitive_data(context)).replacement


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TEST_PII_KEY", "k" * 40)
    return "TEST_PII_KEY"


async def test_the_same_value_has_the_same_hash_within_a_tenant_only(key: str) -> None:
    plugin = made(entities={"EMAIL_ADDRESS": "hash"}, key_env=key)
    first = await scan(plugin, f"{MAIL} and {MAIL}")
    left, right = first.split(" and ")
    assert left == right != await scan(plugin, MAIL, tenant="other")
    assert left == await scan(made(entities={"EMAIL_ADDRESS": "hash"}, key_env=key), MAIL)
    assert await scan(plugin, first) is UNSET


async def test_encryption_is_reversed_by_the_same_tenant_and_shows_tampering(key: str) -> None:
    plugin = made(entities={"EMAIL_ADDRESS": "encrypt"}, key_env=key)
    sealed = await scan(plugin, f"to {MAIL}.")
    assert MAIL not in sealed
    assert plugin.restore(sealed, tenant_id="acme", run_id="x") == f"to {MAIL}."
    assert plugin.restore(sealed, tenant_id="other", run_id="x") == sealed
    index = sealed.index(":enc:") + 20
    broken = sealed[:index] + ("A" if sealed[index] != "A" else "B") + sealed[index + 1 :]
    assert plugin.restore(broken, tenant_id="acme", run_id="x") == broken
    assert plugin.restore(sealed.replace("EMAIL_ADDRESS", "US_SSN"), tenant_id="acme", run_id="x") != f"to {MAIL}."


async def test_a_surrogate_stands_for_one_value_in_one_run() -> None:
    plugin = made(entities={"EMAIL_ADDRESS": "surrogate"})
    assert await scan(plugin, f"{MAIL}, {OTHER}, {MAIL}") == "<EMAIL_ADDRESS_1>, <EMAIL_ADDRESS_2>, <EMAIL_ADDRESS_1>"
    assert await scan(plugin, OTHER) == "<EMAIL_ADDRESS_2>"
    assert await scan(plugin, OTHER, run="r2") == "<EMAIL_ADDRESS_1>"
    assert plugin.restore("a <EMAIL_ADDRESS_2> <EMAIL_ADDRESS_9>", tenant_id="acme", run_id="r1") == (
        f"a {OTHER} <EMAIL_ADDRESS_9>"
    )
    assert plugin.restore("<EMAIL_ADDRESS_2>", tenant_id="other", run_id="r1") == "<EMAIL_ADDRESS_2>"


@pytest.mark.parametrize("purpose", [Purpose.SHADOW, Purpose.EXPLAIN, Purpose.RECORD])
async def test_looking_writes_nothing_to_the_vault(purpose: Purpose) -> None:
    plugin = made(entities={"EMAIL_ADDRESS": "surrogate"})
    seen = await scan(plugin, MAIL, purpose=purpose)
    assert seen == ("<EMAIL_ADDRESS>" if purpose is Purpose.RECORD else "<EMAIL_ADDRESS_1>")
    assert not plugin._vault._shelf.runs


def test_the_vault_is_bounded_and_a_number_never_comes_back() -> None:
    vault = Vault(max_runs=2, max_values=2)
    names = [vault.surrogate(("t", f"run{i}"), "X", "value", look_only=False) for i in range(5)]
    assert len(vault._shelf.runs) == 2
    assert names == ["<X_1>", "<X_1>", "<X_2>", "<X_2>", "<X_3>"]
    again = vault.surrogate(("t", "run0"), "X", "other", look_only=False)
    assert again not in {"<X_1>", "<X_2>"}
    for value in "abcdef":
        last = vault.surrogate(("t", "run0"), "X", value, look_only=False)
    assert last == "<X>"


@pytest.mark.parametrize("action", ["hash", "encrypt"])
def test_a_keyed_action_without_a_key_is_a_configuration_error(action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="need a key"):
        made(entities={"US_SSN": action})
    monkeypatch.setenv("SHORT_KEY", "too short")
    with pytest.raises(ConfigError, match="at least 32") as caught:
        made(entities={"US_SSN": action}, key_env="SHORT_KEY")
    assert "too short" not in str(caught.value)


async def test_the_record_may_hash_instead_of_masking(key: str) -> None:
    plugin = made(record_action="hash", key_env=key)
    seen = await scan(plugin, {"input": MAIL}, purpose=Purpose.RECORD)
    assert seen == await scan(plugin, {"input": MAIL}, purpose=Purpose.RECORD)
    assert seen["input"].startswith("<EMAIL_ADDRESS:")


def test_odd_text_round_trips_through_encryption() -> None:
    tokens = KeyedTokens("k" * 32)
    for value in ("", "\ud800", "\x00", "中" * 1000):
        assert tokens.opened(tokens.sealed("X", value, "t"), "t") == value


def test_a_missing_secret_detector_is_said_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redact_secret", None)
    plugin = made()
    assert plugin._scanner.not_covered == ("LOCATION", "PERSON", "SECRET")
    scanner = SecretScanner("auto")
    assert scanner.scan("key " + "AKIA" + "QYLPMN5HHHFPZAM2")
    with pytest.raises(ConfigError, match="redact-secret"):
        made(secrets="required")


def test_no_secrets_when_none_are_wanted() -> None:
    assert "SECRET" not in made(secrets="none")._scanner.covered
