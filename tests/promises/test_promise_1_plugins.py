"""Promise 1, on plugins: each default plugin, made to fail for real, denies with a code and a record."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import pytest

from meshflow.digest import arguments_digest
from meshflow.errors import ConfigError


async def _denied(desk: Any, code: str, **fields: Any) -> None:
    before = len(await desk.ledger.get_run("run-1"))
    outcome = await desk.run(**fields)
    assert (outcome.status.value, outcome.code, outcome.output, desk.ran) == ("denied", code, None, [])
    assert outcome.recorded
    assert len(await desk.ledger.get_run("run-1")) == before + 1


async def test_keys_that_vanish_or_rot_while_it_runs_deny(
    open_desk: Callable[..., Any], issuer: Any, tmp_path: Path
) -> None:
    keys = tmp_path / "jwks.json"
    keys.write_text(json.dumps({"keys": [issuer.jwk]}))
    settings = {"issuer": "https://issuer", "audience": "meshflow", "jwks_file": str(keys)}
    desk = open_desk({"plugins": {"identity": settings}})
    token = issuer.token("t")
    assert (await desk.run(credential=token)).ok
    desk.ran.clear()
    for spoil in (
        keys.unlink,
        lambda: keys.write_text("{"),
        lambda: keys.write_bytes(b"\xff\x00"),
        keys.unlink,
        keys.mkdir,
    ):
        spoil()
        await _denied(desk, "identity_verification.keys_unavailable", credential=token)


async def test_a_revocation_file_that_vanishes_or_rots_denies(
    open_desk: Callable[..., Any], issuer: Any, tmp_path: Path
) -> None:
    revoked = tmp_path / "revoked.json"
    revoked.write_text('{"tokens": [], "subjects": []}')
    desk = open_desk({"plugins": {"identity": {**issuer.settings, "revocation_file": str(revoked)}}})
    token = issuer.token("t")
    assert (await desk.run(credential=token)).ok
    desk.ran.clear()
    for spoil in (
        revoked.unlink,
        lambda: revoked.write_text("[" * 100_000),
        lambda: revoked.write_bytes(b"\xff"),
        revoked.unlink,
    ):
        spoil()
        await _denied(desk, "identity_verification.revocations_unavailable", credential=token)
    revoked.write_text('{"tokens": ["t"]}')
    await _denied(desk, "identity_verification.revoked", credential=token)


@pytest.mark.parametrize(
    "text",
    [
        "package meshflow.policy\ndecision := ",
        'package meshflow.policy\nimport rego.v1\ndecision := {"allow": http.send({})}',
        "package other\nallow := true",
        "\x00",
        "",
    ],
)
async def test_a_policy_that_is_broken_stops_the_start_or_the_reload_and_never_allows(
    open_desk: Callable[..., Any], tmp_path: Path, text: str
) -> None:
    bundle = tmp_path / "policy"
    bundle.mkdir()
    (bundle / "policy.rego").write_text('package meshflow.policy\n\ndecision := {"allow": true}\n')
    desk = open_desk({"plugins": {"rego": {"bundle": str(bundle)}}})
    assert (await desk.run()).ok
    fingerprint = desk.runtime.fingerprint
    (bundle / "policy.rego").write_text(text)
    with pytest.raises(ConfigError):
        await desk.runtime.reload()
    assert desk.runtime.fingerprint == fingerprint
    assert (await desk.run()).ok


@pytest.mark.parametrize(
    "answer",
    [
        "true", '"allow"', "1", "[]", "{}", '{"allow": "yes"}', '{"allow": 1}', '{"allow": true, "escalate": 1}',
        '{"allow": true, "obligations": "x"}', '{"allow": true, "obligations": [{"name": "nobody_meets_this"}]}',
        '{"allow": true} if input.never', '{"allow": true, "surprise": 1}', '{"allow": 1 / 0 == 0}',
    ],
)  # fmt: skip
async def test_a_policy_that_answers_anything_but_a_clear_yes_denies(
    open_desk: Callable[..., Any], tmp_path: Path, answer: str
) -> None:
    bundle = tmp_path / "policy"
    bundle.mkdir()
    (bundle / "policy.rego").write_text(f"package meshflow.policy\n\ndecision := {answer}\n")
    try:
        desk = open_desk({"plugins": {"rego": {"bundle": str(bundle)}}})
        outcome = await desk.run()
    except ConfigError:
        return
    assert (outcome.status.value, desk.ran) == ("denied", [])
    assert outcome.code.startswith("policy_evaluation.")


async def test_two_results_of_a_complete_rule_deny(open_desk: Callable[..., Any], tmp_path: Path) -> None:
    bundle = tmp_path / "policy"
    bundle.mkdir()
    (bundle / "policy.rego").write_text(
        'package meshflow.policy\n\ndecision := {"allow": true} if input.run_id\n\n'
        'decision := {"allow": false} if input.kind == "function"\n'
    )
    desk = open_desk({"plugins": {"rego": {"bundle": str(bundle)}}})
    outcome = await desk.run()
    assert (outcome.status.value, desk.ran) == ("denied", [])


async def test_a_policy_that_runs_away_denies_by_the_clock(open_desk: Callable[..., Any], tmp_path: Path) -> None:
    bundle = tmp_path / "policy"
    bundle.mkdir()
    (bundle / "policy.rego").write_text(
        "package meshflow.policy\n\n"
        "work := count([1 | some a in numbers.range(1, 300); some b in numbers.range(1, 900)])\n\n"
        'decision := {"allow": true} if work > 0\n'
    )
    stages = {"policy_evaluation": {"timeout_ms": 1}}
    desk = open_desk({"plugins": {"rego": {"bundle": str(bundle)}}, "stages": stages})
    outcome = await desk.run()
    assert (outcome.status.value, desk.ran) == ("denied", [])
    assert outcome.code.startswith("policy_evaluation.")


async def test_a_scan_out_of_time_denies_and_the_record_keeps_no_raw_text(open_desk: Callable[..., Any]) -> None:
    desk = open_desk({"plugins": {"presidio": {"timeout_ms": 1}}})
    await desk.runtime.start()
    secret = "my card is 4111 1111 1111 1111, call +1 212 555 0100. "
    outcome = await desk.run(secret * 4_000)
    assert (outcome.status.value, desk.ran) == ("denied", [])
    [step] = await desk.ledger.get_run("run-1")
    assert "1111 1111" not in str(step)


async def test_a_full_thread_pool_denies_before_the_handler_begins(open_desk: Callable[..., Any]) -> None:
    desk = open_desk({"plugins": {"executor": {"workers": 1, "max_stuck_workers": 0, "timeout_ms": 300}}})
    free = threading.Event()
    stuck = asyncio.create_task(desk.run(run_id="other", handler=lambda _: free.wait(20)))
    await asyncio.sleep(0.05)
    try:
        await _denied(desk, "execution.no_worker")
    finally:
        free.set()
        await stuck


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"estimate_usd": float("nan")}, "budget_check.invalid_estimate"),
        ({"estimate_usd": 10**40}, "budget_check.invalid_estimate"),
        ({"estimate_usd": "1e999999999"}, "budget_check.invalid_estimate"),
        ({"estimate_usd": -1}, "budget_check.invalid_estimate"),
        ({"estimate_tokens": 1.5}, "budget_check.invalid_estimate"),
        ({"estimate_tokens": 2**70}, "budget_check.invalid_estimate"),
        ({"agent_id": "a\n"}, "identity_verification.invalid_agent"),
        ({"agent_id": "x" * 257}, "identity_verification.invalid_agent"),
        ({"credential": "abc"}, "identity_verification.no_keys"),
        ({"credential": 5}, "identity_verification.no_keys"),
        ({"tenant": 5}, "tenant_scoping.invalid_tenant"),
        ({"tenant": "../x"}, "tenant_scoping.invalid_tenant"),
        ({"risk": "nope"}, "risk_classification.unknown_tier"),
        ({"risk": 7}, "risk_classification.unknown_tier"),
        ({"labels": 5}, "taint_propagation.invalid_labels"),
        ({"reads": ("nothing",)}, "taint_propagation.unknown_source"),
        ({"reads": 5}, "taint_propagation.stage_error"),
        ({"timeout_ms": "x"}, "execution.invalid_timeout"),
        ({"timeout_ms": float("nan")}, "execution.invalid_timeout"),
        ({"timeout_ms": 0}, "execution.invalid_timeout"),
        ({"handler": None}, "execution.no_handler"),
    ],
    ids=str,
)
async def test_a_field_that_makes_no_sense_denies(
    open_desk: Callable[..., Any], fields: dict[str, Any], code: str
) -> None:
    await _denied(open_desk(), code, **fields)


async def test_an_input_changed_between_the_gates_and_the_handler_denies(open_desk: Callable[..., Any]) -> None:
    desk = open_desk({"limits": {"rates": []}})
    await desk.runtime.start()
    given = {"to": "ann", "text": "x" * 200_000}  # long enough to leave the loop while it is scanned
    running = asyncio.create_task(desk.run(given))
    await asyncio.sleep(0)  # the step has begun
    while not running.done():
        given["to"] = "mallory"
        await asyncio.sleep(0)
    outcome = running.result()
    assert outcome.code == "execution.input_mutated"
    assert desk.ran == []


@pytest.mark.parametrize("odd", [Decimal(10), PurePath("/srv/a"), [2**64], {"to": "ann", "n": 2**64}], ids=str)
def test_an_approval_of_one_value_does_not_cover_another_of_its_type(odd: Any) -> None:
    # The default policy is not shown such values and denies; another policy provider may let them through.
    other = {Decimal: Decimal(10_000_000), PurePosixPath: PurePath("/etc"), list: ["x", 2**65], dict: {"n": 2**64}}
    assert arguments_digest(odd, "00") != arguments_digest(other[type(odd)], "00")
