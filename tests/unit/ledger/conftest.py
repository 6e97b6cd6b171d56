"""A ledger on disk and records to put into it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from meshflow.clock import ManualClock
from meshflow.decision import Effect
from meshflow.facts import Principal
from meshflow.ledger import ReplayLedger
from meshflow.record import ApprovalRequest, StageResult, StepRecord, Verdict

# A test that asks for one of these looks into the file.
SQLITE_ALONE = {"path"}

MakeRecord = Callable[..., StepRecord]

# For ``forgery``, which tests of this folder share; test modules are not a package.
sys.path.append(str(Path(__file__).parent))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what names a place for its ledger on every kind of store, and what looks into a file on SQLite alone.

    A module that is about one kind says so with KINDS.
    """
    if "place" in metafunc.fixturenames:
        asked = inspect.signature(metafunc.function).parameters
        every: tuple[str, ...] = getattr(metafunc.module, "KINDS", ("sqlite", "postgres"))
        metafunc.parametrize("kind", ("sqlite",) if SQLITE_ALONE & asked.keys() else every, indirect=True)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | Path:
    """Where a ledger is to be: a file, or a schema of a server."""
    if kind == "sqlite":
        return tmp_path / "runs.db"
    monkeypatch.chdir(tmp_path)  # for the signing key
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger's file."""
    return tmp_path / "runs.db"


@pytest.fixture
async def ledger(place: str | Path, clock: ManualClock) -> AsyncIterator[ReplayLedger]:
    async with ReplayLedger(place, clock=clock) as ledger:
        ledger.place = place  # type: ignore[attr-defined] # for tests that open it again
        yield ledger


@pytest.fixture
def record() -> MakeRecord:
    def make(number: int = 0, run_id: str = "run-1", **changes: Any) -> StepRecord:
        values: dict[str, Any] = {
            "run_id": run_id,
            "node_id": f"node-{number % 3}",
            "step_id": f"step-{number}",
            "tenant_id": "acme",
            "principal": Principal("alice", "agent-7", roles=("ops",), claims={"team": "blue"}),
            "input": {"text": f"question {number}"},
            "output": {"answer": 19.99, "nothing": None},
            "metadata": {"source": "test"},
            "results": (
                StageResult("identity_verification", "identity", Effect.ALLOW, elapsed_ns=1_000),
                StageResult("risk_classification", "risk", Effect.ALLOW, "", "declared", evidence={"tier": "internal"}),
            ),
            "executed": True,
            "cost_micro_usd": 1_500,
            "reserved_micro_usd": 2_000,
            "tokens": 12,
            "risk": "internal",
            "origin": "user",
            "confidentiality": "tenant",
            "uncertainty_ppm": 250_000,
            "carbon_mg_co2": 40,
            "started_us": 1_700_000_000_000_000 + number,
            "duration_ns": 2_500_000,
            "fingerprint": "f" * 64,
        }
        return StepRecord(**(values | changes))

    return make


@pytest.fixture
def escalated(record: MakeRecord, clock: ManualClock) -> MakeRecord:
    def make(
        number: int = 0, approval_id: str = "ap-1", holds_output: bool = False, required: int = 1, **changes: Any
    ) -> StepRecord:  # fmt: skip
        request = ApprovalRequest(
            approval_id,
            "d" * 64,
            "5a" * 16,
            clock.now_us() + 60_000_000,
            ("policy_evaluation.review",),
            holds_output,
            required,
        )
        values: dict[str, Any] = {
            "verdict": Verdict.ESCALATE,
            "code": "policy_evaluation.review",
            "reason": "a refund needs a person",
            "approval_request": request,
            "executed": holds_output,
        }
        return record(number, **(values | changes))

    return make
