"""What the contracts of a ledger's store share: making stores and ledgers over them, and records to put in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from meshflow.clock import ManualClock
from meshflow.facts import Principal
from meshflow.ledger import ReplayLedger
from meshflow.ledger.store import LedgerStore
from meshflow.record import ApprovalRequest, StepRecord, Verdict

STARTED_US = 1_700_000_000_000_000


def record(number: int = 0, run_id: str = "run-1", **changes: Any) -> StepRecord:
    """Return the record of a step; those of equal numbers are equal."""
    values: dict[str, Any] = {
        "run_id": run_id, "node_id": f"node-{number % 3}", "step_id": f"step-{number}", "tenant_id": "acme",
        "principal": Principal("alice", "agent-7"), "input": {"text": f"question {number}"},
        "output": {"answer": 19.99, "nothing": None}, "metadata": {"source": "kit"}, "executed": True,
        "cost_micro_usd": 1_500, "tokens": 12, "started_us": STARTED_US + number * 1_000_000, "duration_ns": 2_500_000,
        "tool": "mail" if number % 2 else None,
    }  # fmt: skip
    return StepRecord(**(values | changes))


def escalated(number: int = 0, approval_id: str = "ap-1", **changes: Any) -> StepRecord:
    """Return the record of a step that waits for a person."""
    request = ApprovalRequest(approval_id, "d" * 64, "salt", 2**52, ("policy_evaluation.review",), False)
    values: dict[str, Any] = {
        "verdict": Verdict.ESCALATE,
        "code": "policy_evaluation.review",
        "approval_request": request,
    }
    return record(number, **(values | {"executed": False} | changes))


class StoreConformance:
    """The ground that the contracts stand on; see ``LedgerStoreConformance``."""

    stall_ms: ClassVar[float] = 50.0
    """What the store may hold up the event loop for, on the best of three tries."""
    signs: ClassVar[bool] = True
    """Whether the store signs checkpoints; one that does not cannot prove, and says so in what it verifies."""

    def make_store(self, folder: Path) -> LedgerStore:
        """Return a new store object, of a ledger that belongs to the folder.

        For the same folder it is the same ledger each time, as two processes would have it: the kit opens several at
        once, and some again after others were closed. For another folder it is another ledger, empty at first.
        """
        raise NotImplementedError("return a store of yours from make_store(self, folder)")

    @asynccontextmanager
    async def opened(self, folder: Path, *, tenant: str | None = None) -> AsyncIterator[ReplayLedger]:
        """Give a ledger over a new store object."""
        async with ReplayLedger(store=self.make_store(folder), tenant=tenant, clock=ManualClock()) as ledger:
            yield ledger

    @asynccontextmanager
    async def filled(self, folder: Path, count: int = 6) -> AsyncIterator[ReplayLedger]:
        """Give a ledger with a run of acme's, one of bolt's, one of both, and a fork of the first."""
        async with self.opened(folder) as ledger:
            await asyncio.gather(*(ledger.write(record(number)) for number in range(count)))
            for number in range(count):
                await ledger.write(record(number, "run-2", tenant_id="bolt", principal=Principal("carol", "agent-9")))
                await ledger.write(record(number, "shared", tenant_id=("acme", "bolt")[number % 2]))
            await ledger._store.fork_run("fork", "run-1", 2, None, STARTED_US)
            await ledger.write(record(50, "fork"))
            yield ledger


async def valid(ledger: ReplayLedger, *runs: str) -> None:
    """Check runs, or all of the ledger."""
    for run_id in runs or await ledger.list_runs(limit=1_000):
        result = await ledger.verify_chain(run_id)
        assert result["errors"] == []
        assert result["valid"]
    if not runs:
        whole = await ledger.verify_ledger()
        assert whole["errors"] == []
        assert whole["valid"]
