"""The tenancy plugin: whose tenant a step gets, and which are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from meshflow.plugin import Decision, Effect, NodeInput, Principal, StepContext, TenantScope, context_for
from meshflow_tenancy import CODES, TenancyPlugin, TenancySettings

LOCAL = Principal("local", "local")
VERIFIED = Principal("alice", "agent-1", issuer="https://issuer", verified=True, tenant="acme")
TENANTLESS = Principal("alice", "agent-1", issuer="https://issuer", verified=True)


def step(tenant: object = None, principal: Principal | None = LOCAL) -> StepContext:
    facts = {} if principal is None else {"identity_verification": principal}
    return context_for(NodeInput(node_id="n", tenant=tenant), **facts)  # type: ignore[arg-type]


async def answer(context: StepContext, **settings: object) -> Decision:
    return await TenancyPlugin(TenancySettings.model_validate(settings)).scope_tenant(context)


async def tenant_of(context: StepContext, **settings: object) -> str:
    decision = await answer(context, **settings)
    assert decision.effect is Effect.ALLOW, decision.reason
    assert type(decision.fact) is TenantScope
    return decision.fact.tenant_id


async def code_of(context: StepContext, **settings: object) -> str:
    decision = await answer(context, **settings)
    assert decision.effect is Effect.DENY
    assert decision.code in CODES
    return decision.code


async def test_a_local_step_without_a_tenant_gets_the_default() -> None:
    assert await tenant_of(step()) == "default"
    assert await tenant_of(step(), default="lab") == "lab"


async def test_a_local_step_gets_the_tenant_that_it_names() -> None:
    assert await tenant_of(step("acme")) == "acme"


async def test_without_a_default_a_local_step_must_name_its_tenant() -> None:
    assert await code_of(step(), default=None) == "tenant_scoping.missing_tenant"
    assert await tenant_of(step("acme"), default=None) == "acme"


async def test_a_verified_claim_decides_and_may_be_repeated() -> None:
    assert await tenant_of(step(None, VERIFIED)) == "acme"
    assert await tenant_of(step("acme", VERIFIED)) == "acme"


@pytest.mark.parametrize("asked", ["globex", "ACME", "default"])
async def test_a_step_that_contradicts_a_verified_claim_is_denied(asked: str) -> None:
    assert await code_of(step(asked, VERIFIED)) == "tenant_scoping.contradicts_claim"


async def test_a_verified_principal_without_a_claim_gets_no_tenant_by_naming_one() -> None:
    assert await code_of(step(None, TENANTLESS)) == "tenant_scoping.missing_tenant"
    assert await code_of(step("acme", TENANTLESS)) == "tenant_scoping.missing_tenant"
    assert await tenant_of(step(None, TENANTLESS), default_for_verified=True) == "default"
    assert await code_of(step("acme", TENANTLESS), default_for_verified=True) == "tenant_scoping.contradicts_claim"


async def test_a_step_without_a_principal_is_denied() -> None:
    assert await code_of(step("acme", None)) == "tenant_scoping.no_principal"


async def test_unknown_and_suspended_tenants_are_denied() -> None:
    assert await code_of(step("globex"), known=["acme"]) == "tenant_scoping.unknown_tenant"
    assert await tenant_of(step("acme"), known=["acme"]) == "acme"
    assert await code_of(step("acme"), known=["acme"], suspended=["acme"]) == "tenant_scoping.suspended"
    assert await code_of(step("acme", VERIFIED), suspended=["acme"]) == "tenant_scoping.suspended"
    assert await code_of(step("acme"), known=[]) == "tenant_scoping.unknown_tenant"


@pytest.mark.parametrize(
    "tenant",
    [
        "",
        ".",
        "-a",
        "_a",
        "a b",
        "a/b",
        "../etc",
        "a\n",
        "\u0430cme",
        "acm\u0435",
        "a" * 65,
        "a\x00",
        "\u0661",
        7,
        b"acme",
    ],
)
async def test_a_malformed_tenant_is_denied_wherever_it_comes_from(tenant: object) -> None:
    assert await code_of(step(tenant)) == "tenant_scoping.invalid_tenant"
    claimed = Principal("a", "b", verified=True, tenant=tenant)  # type: ignore[arg-type]
    assert await code_of(step(None, claimed)) == "tenant_scoping.invalid_tenant"


@pytest.mark.parametrize("tenant", ["a", "A.b_c-9", "0", "a" * 64, "a-", "a.."])
async def test_a_well_formed_tenant_passes(tenant: str) -> None:
    assert await tenant_of(step(tenant)) == tenant


async def test_a_hostile_tenant_is_not_echoed() -> None:
    decision = await answer(step("secret value " * 1000))
    assert "secret value" not in decision.reason + str(dict(decision.evidence))
    assert len(decision.reason) < 300


@pytest.mark.parametrize("setting", ["default", "known", "suspended"])
def test_a_malformed_tenant_in_the_settings_is_refused(setting: str) -> None:
    value = "a b" if setting == "default" else ["a b"]
    with pytest.raises(ValidationError, match="a tenant id is 1 to 64"):
        TenancySettings.model_validate({setting: value})


@given(st.text(max_size=70))
async def test_whatever_the_text_only_well_formed_ids_become_tenants(text: str) -> None:
    decision = await answer(step(text))
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    well_formed = 1 <= len(text) <= 64 and set(text) <= allowed and text[0] not in "._-"
    assert (decision.effect is Effect.ALLOW) == well_formed
