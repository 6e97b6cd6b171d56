"""Promise 5: tenants do not see each other, and nothing that one did counts for another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from meshflow import ReplayLedger
from meshflow.facts import Confidentiality, Origin, TaintLabels
from meshflow.ledger import ApprovalRefusedError
from meshflow.step import Metered

OUTSIDE = {
    "strict": True,
    "approval_from": "never",
    "tools": {
        "fetch": {"risk": "read_only", "emits": {"origin": "external", "confidentiality": "secret"}},
        "pay": {"risk": "external_io", "accepts": {"max_origin": "user"}},
        "wire": {"risk": "irreversible"},
    },
}


def _verdicts(steps: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(step["tenant_id"], step["verdict"]) for step in steps]


async def test_every_read_of_the_ledger_is_scoped_also_with_the_same_run_id(
    open_desk: Callable[..., Any], issuer: Any
) -> None:
    desk = open_desk({"plugins": {"identity": issuer.settings}})
    for tenant in ("acme", "globex"):
        outcome = await desk.run(f"of {tenant}", run_id="shared", credential=issuer.token(tenant, tenant))
        assert outcome.ok, outcome.code
    ledger = desk.ledger
    for tenant in ("acme", "globex"):
        assert _verdicts(await ledger.get_run("shared", tenant=tenant)) == [(tenant, "commit")]
        assert (await ledger.run_summary("shared", tenant=tenant))["steps"] == 1
        assert await ledger.list_runs(tenant=tenant) == ["shared"]
        assert (await ledger.load_state("shared", 0, tenant=tenant))["tenant_id"] == tenant
    assert await ledger.get_run("shared", tenant="other") == []
    assert await ledger.list_runs(tenant="other") == []
    async with ReplayLedger(desk.path, tenant="acme") as own:
        assert _verdicts(await own.get_run("shared")) == [("acme", "commit")]


async def test_the_tenant_of_the_token_wins_over_the_one_that_the_step_names(
    open_desk: Callable[..., Any], issuer: Any
) -> None:
    desk = open_desk({"plugins": {"identity": issuer.settings}})
    outcome = await desk.run(tenant="globex", credential=issuer.token("t1", "acme"))
    assert (outcome.ok, desk.ran) == (False, [])
    assert outcome.code.startswith("tenant_scoping.")
    assert outcome.record.tenant_id != "globex"


async def test_an_approval_of_another_tenants_step_is_neither_seen_nor_given(
    open_desk: Callable[..., Any], issuer: Any
) -> None:
    desk = open_desk({"plugins": {"identity": issuer.settings}, "tools": {**OUTSIDE, "approval_from": "irreversible"}})
    call: dict[str, Any] = {"kind": "tool", "tool": "wire", "run_id": "shared", "step_id": "s"}
    paused = await desk.run({"to": "x"}, credential=issuer.token("t1", "acme"), **call)
    assert paused.approval_id is not None
    ledger = desk.ledger
    assert await ledger.pending_approvals(tenant="globex") == []
    with pytest.raises(ApprovalRefusedError):
        await ledger.decide_approval(paused.approval_id, approve=True, approver="boss", tenant="globex")
    await ledger.decide_approval(paused.approval_id, approve=True, approver="boss", tenant="acme")
    taken = await desk.run({"to": "x"}, credential=issuer.token("t2", "globex"), resume=True, **call)
    assert (taken.code, taken.output, desk.ran) == ("identity_verification.approval_mismatch", None, [])
    call["attempt"] = 3
    other = await desk.run({"to": "x"}, credential=issuer.token("t3", "acme", sub="bob"), resume=True, **call)
    assert (other.code, desk.ran) == ("identity_verification.approval_mismatch", [])
    call["attempt"] = 4
    own = await desk.run({"to": "x"}, credential=issuer.token("t4", "acme", exp=1_700_000_000), resume=True, **call)
    assert own.ok, own.code


async def test_labels_and_budgets_of_one_tenants_run_are_not_anothers(
    open_desk: Callable[..., Any], issuer: Any
) -> None:
    caps = [{"name": "run", "per": ["run"], "usd": "0.10", "period": "run"}]
    desk = open_desk({"plugins": {"identity": issuer.settings}, "tools": OUTSIDE, "limits": {"caps": caps}})
    acme, globex = issuer.token("a", "acme"), issuer.token("g", "globex")
    fetched = await desk.run(
        {}, kind="tool", tool="fetch", run_id="r", step_id="f", credential=acme, estimate_usd="0.10",
        handler=lambda _: Metered("page", "0.10"),
    )  # fmt: skip
    assert fetched.ok, fetched.code
    assert (await desk.run(run_id="r", credential=acme, estimate_usd="0.01")).code == "budget_check.exhausted"
    # Another tenant's run of the same name has its whole budget, and none of the labels.
    reads = await desk.run(run_id="r", credential=globex, reads=("f",))
    assert reads.code == "taint_propagation.unknown_source"
    paid = await desk.run({}, kind="tool", tool="pay", run_id="r", credential=globex, estimate_usd="0.05")
    assert paid.ok, paid.code


async def test_a_token_stays_bound_to_its_run_over_a_reload(open_desk: Callable[..., Any], issuer: Any) -> None:
    desk = open_desk({"plugins": {"identity": issuer.settings}})
    token = issuer.token("once")
    assert (await desk.run(run_id="first", credential=token)).ok
    await desk.runtime.reload({**desk.config, "plugins": {"identity": {**issuer.settings, "leeway_s": 1}}})
    replayed = await desk.run(run_id="second", credential=token)
    assert replayed.code == "identity_verification.token_replayed"
    assert (await desk.run(run_id="first", credential=token)).ok


async def test_labels_of_a_run_survive_a_reload_of_the_tools(open_desk: Callable[..., Any]) -> None:
    desk = open_desk({"tools": OUTSIDE})
    assert (await desk.run({}, kind="tool", tool="fetch", step_id="f")).ok
    more = {**OUTSIDE, "tools": {**OUTSIDE["tools"], "new": {"risk": "read_only"}}}
    await desk.runtime.reload({**desk.config, "tools": more})
    # What the run has read is remembered, so the payment that follows it still carries the secret page.
    paid = await desk.run({}, kind="tool", tool="pay")
    assert paid.code == "tool_permission.confidential_to_sink"
    read = await desk.run("x", reads=("f",))
    assert (read.record.origin, read.record.confidentiality) == ("external", "secret")


async def test_a_circuit_and_a_surrogate_survive_a_reload(open_desk: Callable[..., Any]) -> None:
    presidio = {"entities": {"EMAIL_ADDRESS": "surrogate"}}
    executor = {"circuit": {"failures": 2, "open_ms": 3_600_000}}
    desk = open_desk({"plugins": {"presidio": presidio, "executor": executor}})
    assert (await desk.run("write to ann@example.org and bob@example.org")).ok
    for _ in range(2):
        await desk.run(node_id="bad", handler=lambda _: 1 / 0)
    changed = {"presidio": {**presidio, "timeout_ms": 4_000}, "executor": {**executor, "grace_ms": 100}}
    await desk.runtime.reload({**desk.config, "plugins": changed})
    assert (await desk.run(node_id="bad")).code == "execution.circuit_open"
    assert (await desk.run("write to bob@example.org")).ok
    assert desk.ran[0].split()[-1] == desk.ran[1].split()[-1]
    assert "@" not in "".join(desk.ran)


async def test_a_caller_cannot_label_its_input_below_what_was_found_in_it(open_desk: Callable[..., Any]) -> None:
    desk = open_desk({"plugins": {"presidio": {"entities": {"EMAIL_ADDRESS": "allow"}}}})
    clean = TaintLabels(Origin.TRUSTED, Confidentiality.PUBLIC)
    outcome = await desk.run("write to ann@example.org", labels=clean)
    assert outcome.record.confidentiality == "personal"
