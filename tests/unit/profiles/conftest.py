"""A folder with an issuer of tokens, a meshflow.yaml and a ledger that real steps fill."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jwt
from joserfc.jwk import OKPKey

from meshflow import NodeInput, ReplayLedger, RuntimeOutcome, StepRuntime
from meshflow.ledger.retention import RetentionRule
from meshflow.profiles import find_pack
from meshflow.profiles.report import Window, profile_report

PRIVATE = Ed25519PrivateKey.generate()
_SIGNING = OKPKey.import_key(
    PRIVATE.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
)
_PUBLIC = PRIVATE.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
IDENTITY = {
    "keys": [{"pem": "issuer.pem", "kid": "k1"}],
    "issuer": "https://id.example",
    "audience": "meshflow",
    "bind_to_run": False,
}


def merged(base: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping with another laid over it; None takes a key away."""
    result = dict(base)
    for key, value in other.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


class World:
    """Where a profile is tried: ``config`` is a meshflow.yaml that every shipped profile can run with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = folder / "runs.db"
        (folder / "issuer.pem").write_bytes(_PUBLIC)
        self._numbers = iter(range(1, 10_000))

    def config(self, *profiles: Any, **changes: Any) -> dict[str, Any]:
        base: dict[str, Any] = {
            "version": 1,
            "ledger": {"path": str(self.ledger)},
            "plugins": {"identity": {**IDENTITY, "keys": [{"pem": str(self.folder / "issuer.pem"), "kid": "k1"}]}},
            "profiles": list(profiles),
        }
        return merged(base if profiles else {**base, "profiles": None}, changes)

    def write(self, config: dict[str, Any], name: str = "meshflow.yaml") -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
        return path

    def token(self, **claims: Any) -> str:
        """Return a signed token; a claim that is None is left out."""
        number = next(self._numbers)
        said = {
            "iss": "https://id.example", "aud": "meshflow", "sub": "dr.lee", "agent_id": "chart-agent",
            "roles": ["nurse"], "tenant": "clinic", "jti": f"t-{number}", "exp": int(time.time()) + 900, **claims,
        }  # fmt: skip
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode({"alg": "Ed25519", "kid": "k1"}, said, _SIGNING, algorithms=["Ed25519"])

    async def act(self, runtime: StepRuntime, claims: dict[str, Any] | None = None, **step: Any) -> RuntimeOutcome:
        """Run one step with a fresh token; with claims None, as the local principal."""
        number = next(self._numbers)
        given: dict[str, Any] = {
            "node_id": "step", "step_id": f"s-{number}", "run_id": "run-1", "input": {"id": 7},
            "handler": lambda value: value, **step,
        }  # fmt: skip
        credential = None if claims is None else self.token(**claims)
        return await runtime.run(NodeInput(credential=credential, **given))

    async def approved(self, runtime: StepRuntime, claims: dict[str, Any], approver: str = "mara", **step: Any) -> Any:
        """Run a step that waits for a person, have another person approve it, and hand it in again."""
        number = next(self._numbers)
        given: dict[str, Any] = {
            "node_id": "step", "step_id": f"s-{number}", "run_id": "run-1", "input": {"id": 7},
            "handler": lambda value: value, **step,
        }  # fmt: skip
        outcome = await runtime.run(NodeInput(credential=self.token(**claims), **given))
        if outcome.approval_id is None:
            return outcome
        ledger = runtime.plugin("ledger").ledger  # type: ignore[attr-defined]
        await ledger.decide_approval(outcome.approval_id, approve=True, approver=approver)
        return await runtime.run(NodeInput(resume=True, **given))

    @asynccontextmanager
    async def running(self, config: dict[str, Any], **parts: Any) -> AsyncIterator[StepRuntime]:
        async with StepRuntime(config=config, **parts) as runtime:
            yield runtime

    async def report(self, name: str, now_us: int | None = None, **more: Any) -> dict[str, Any]:
        """Report of a pack, by name and settings, over the world's ledger."""
        settings = more.pop("settings", {})
        window = Window.of(more.pop("since", None), more.pop("until", None), more.pop("tenant", None))
        pack = find_pack(name, settings, self.folder)
        async with ReplayLedger(self.ledger) as ledger:
            return await profile_report(ledger, pack, window, now_us=now_us or time.time_ns() // 1_000, **more)

    def served(self, name: str) -> set[str]:
        """Return the controls of a shipped pack."""
        return {control.id for control in find_pack(name, {}, self.folder).manifest.controls}

    async def kill_a_step(self, **step: Any) -> None:
        """Leave an intent without an outcome: a process that ends in the middle of its step."""
        given = {"node_id": "killed", "step_id": "killed", "run_id": "run-killed", "kind": "tool", "tool": "send_mail",
                 "input": {}, **step}  # fmt: skip
        await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", _KILLED, str(self.ledger), json.dumps(given)],
            check=False,
            timeout=60,
        )

    async def leave_unsigned(self, **step: Any) -> None:
        """Have a step recorded in a ledger that signs nothing."""
        ledger = ReplayLedger(self.ledger, key=None)
        async with ledger, self.running(self.config(ledger=None), ledger=ledger) as runtime:
            await self.act(runtime, {}, **step)

    async def expire(self, keep_us: int = 1) -> None:
        """Have a retention rule erase all that is there."""
        async with ReplayLedger(self.ledger) as ledger:
            later = time.time_ns() // 1_000 + 1_000_000
            swept = await ledger.apply_retention([RetentionRule(keep_us=keep_us)], now_us=later)
            assert swept.erased


_KILLED = """
import json, os, sys
from meshflow import NodeInput, StepRuntime

# Without what takes long to import.
stages = {"sensitive_data_scan": {"mode": "disabled"}, "output_guardrails": "guardrails"}
config = {"ledger": {"path": sys.argv[1]}, "tools": {"approval_from": "never"}, "stages": stages}
runtime = StepRuntime(config=config)
runtime.run_sync(NodeInput(handler=lambda value: os._exit(9), risk="external_io", **json.loads(sys.argv[2])))
"""


def states(report: dict[str, Any]) -> dict[str, str]:
    """Return the state of each control."""
    return {control["id"]: control["status"] for control in report["controls"]}


def steps_that(report: dict[str, Any], control_id: str, state: str) -> set[str]:
    """Return the steps that a control lists under a state."""
    (control,) = (one for one in report["controls"] if one["id"] == control_id)
    return {one.get("step_id", "ledger") for one in control["records"].get(state, ())}


class Violations:
    """Steps that a profile would have stopped, by the control that each violates."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.steps: dict[str, str] = {}

    def by(self, control: str, outcome: RuntimeOutcome) -> None:
        """Note an outcome; it must have executed, or nothing was violated."""
        assert outcome.record.executed, (control, outcome.code, outcome.reason)
        self.steps[f"{self.prefix}{control}"] = outcome.step_id

    def all_found_in(self, report: dict[str, Any]) -> None:
        """Check that the report lists each under its control, as violating it."""
        for control, step_id in self.steps.items():
            assert step_id in steps_that(report, control, "violated"), control


@pytest.fixture
def violations() -> Any:
    """Make a collection of violations for controls that begin with a text."""
    return Violations


OFF = {"mode": "disabled", "unsafe": True}


@pytest.fixture
def judged() -> Any:
    """The functions that read a report."""
    return SimpleNamespace(states=states, steps_that=steps_that)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
