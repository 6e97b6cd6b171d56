"""The contracts of a ledger's store that are about reading, and about keeping tenants apart."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.record import Verdict
from meshflow.testing.base import run
from meshflow.testing.ledger_base import STARTED_US, StoreConformance, escalated, record


class ReadingConformance(StoreConformance):
    """Reads see what was acknowledged, in its order, and nothing of other tenants."""

    def test_an_empty_ledger_reads_as_empty(self, tmp_path: Path) -> None:
        """Nothing is made by reading, and a run that is not known has nothing and is never valid."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger:
                assert await ledger.list_runs() == []
                assert await ledger.get_run("run-1") == []
                assert (await ledger.run_summary("run-1"))["steps"] == 0
                assert await ledger.pending_approvals() == []
                assert await ledger.unfinished() == []
                assert await ledger.holds() == []
                result = await ledger.verify_chain("run-1")
                assert (result["valid"], result["state"]) == (False, "unknown")
                with pytest.raises(LedgerError):
                    await ledger.load_state("run-1", 0)
                async with ledger._store.snapshot() as snapshot:
                    assert snapshot is None

        run(check())

    def test_steps_come_in_order_page_after_page(self, tmp_path: Path) -> None:
        """More steps than any page holds come each once, from any index on, and each is found by its index."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger:
                await asyncio.gather(*(ledger.write(record(number)) for number in range(700)))
                steps = await ledger.get_run("run-1")
                assert [step["step_index"] for step in steps] == list(range(700))
                later = [entry.step_index async for entry in ledger._store.entries("run-1", "step", after=600)]
                assert later == list(range(601, 700))
                for index in (0, 1, 255, 256, 699, -1, -700):
                    assert (await ledger.load_state("run-1", index))["step_id"] == steps[index]["step_id"]
                for index in (700, -701):
                    with pytest.raises(LedgerError):
                        await ledger.load_state("run-1", index)
                spent = await ledger._store.spending("run-1", 690, None)
                assert [tuple(row) for row in spent] == [(index, 1_500, 12) for index in range(691, 700)]
                whole = [entry.seq async for entry in ledger._store.history("run-1", None)]
                assert whole == list(range(700))

        run(check())

    def test_runs_are_listed_from_the_newest(self, tmp_path: Path) -> None:
        """Runs come in the order in which they began, the last one first, in pages by offset or by the run before."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger:
                for number in range(12):
                    await ledger.write(record(number, f"run-{number}"))
                await ledger.write(record(99, "run-0"))
                names = [f"run-{number}" for number in reversed(range(12))]
                assert await ledger.list_runs() == names
                assert await ledger.list_runs(limit=5, offset=2) == names[2:7]
                assert await ledger.list_runs(limit=3, before="run-8") == ["run-7", "run-6", "run-5"]
                assert await ledger.list_runs(before="run-0") == []

        run(check())

    def test_runs_are_found_by_what_is_in_them(self, tmp_path: Path) -> None:
        """By verdict, node, tool and time, all that is asked for at once."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger:
                await ledger.write(record(0, "first", node_id="plan"))
                await ledger.write(record(1, "second", node_id="act", verdict=Verdict.REJECT))
                await ledger.write(record(2, "third", node_id="plan", tool="fax"))
                await ledger.write(record(3, "third", node_id="act", tenant_id="bolt"))
                for wanted, found in (
                    ({"node": "plan"}, ["third", "first"]), ({"tool": "mail"}, ["third", "second"]),
                    ({"tool": "fax", "node": "act"}, ["third"]), ({"verdict": "reject"}, ["second"]),
                    ({"tool": "none"}, []), ({"node": "act", "tenant": "bolt"}, ["third"]),
                    ({"tool": "fax", "tenant": "bolt"}, []),
                    ({"node": "plan", "limit": 1}, ["third"]), ({"node": "plan", "before": "third"}, ["first"]),
                ):  # fmt: skip
                    assert await ledger.list_runs(**wanted) == found, wanted

        run(check())

    def test_tenants_see_nothing_of_each_other(self, tmp_path: Path) -> None:
        """Every read of one tenant answers as if the others' entries were not there, by argument or by ledger."""

        async def check() -> None:
            async with self.filled(tmp_path) as ledger, self.opened(tmp_path, tenant="bolt") as scoped:
                assert await _seen(scoped, None) == await _seen(ledger, "bolt")
                seen = await _seen(scoped, None)
                assert "acme" not in str(seen)
                assert seen["runs"] == ["shared", "run-2"]
                assert [step["step_index"] for step in seen["shared"]] == [1, 3, 5]
                assert (await scoped.load_state("shared", 0))["step_id"] == "step-1"
                assert (await scoped.load_state("shared", -1))["step_id"] == "step-5"
                for index in (0, -1):
                    with pytest.raises(LedgerError):
                        await scoped.load_state("run-1", index)
                with pytest.raises(LedgerError):
                    await scoped.write(record(70))
                with pytest.raises(LedgerError):
                    await scoped.get_run("run-1", tenant="acme")
                assert (await scoped.verify_chain("run-1"))["state"] == "unknown"
                result = await scoped.verify_chain("shared")
                assert (result["valid"], result["steps_verified"]) == (True, 3)

        run(check())

    def test_approvals_are_found(self, tmp_path: Path) -> None:
        """A step that waits is listed until it is decided, and its decision is found."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger, self.opened(tmp_path) as other:
                await ledger.write(escalated(0))
                await ledger.write(escalated(1, "ap-2", tenant_id="bolt"))
                assert [one["approval_id"] for one in await other.pending_approvals()] == ["ap-1", "ap-2"]
                assert [one["approval_id"] for one in await other.pending_approvals(tenant="bolt")] == ["ap-2"]
                await other.decide_approval("ap-1", approve=True, approver="bob")
                assert [one["approval_id"] for one in await ledger.pending_approvals()] == ["ap-2"]
                decision = await ledger.find_approval("run-1", "step-0")
                assert decision is not None
                assert decision.approval_id == "ap-1"
                with pytest.raises(LedgerError):
                    await ledger.decide_approval("ap-1", approve=False, approver="bob")
                with pytest.raises(LedgerError):
                    await ledger.decide_approval("no such", approve=True, approver="bob")

        run(check())

    def test_runs_compare(self, tmp_path: Path) -> None:
        """A comparison has what each run did, inherited steps included, and outputs where they differ."""

        async def check() -> None:
            async with self.filled(tmp_path) as ledger:
                await ledger.write(record(2, "fork", output={"answer": "another"}, cost_micro_usd=2_500))
                difference = await ledger.diff("run-1", "fork")
                assert "node-2" in difference.common
                assert [change["output_b"] for change in difference.changed if change["output_b"]]
                outputs = await ledger._store.outputs("fork", [0, 1, 3], None)
                assert sorted(outputs) == [0, 1, 3]
                assert await ledger._store.outputs("fork", [0, 1, 3], "bolt") == {}
                outline = await ledger._store.outline("fork", None)
                assert outline is not None
                assert (len(outline), outline.inherited) == (4, 2)
                assert await ledger._store.outline("unknown", None) is None

        run(check())

    def test_a_snapshot_does_not_move(self, tmp_path: Path) -> None:
        """What is held for reading stays as it was, whatever is written and erased meanwhile."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger, self.opened(tmp_path) as other:
                await asyncio.gather(*(ledger.write(record(number)) for number in range(300)))
                async with ledger._store.snapshot() as snapshot:
                    assert snapshot is not None
                    head = await snapshot.head()
                    await other.write(record(300))
                    await other.erase_payloads("run-1", reason="request", authority="dpo")
                    entries = [entry async for entry in snapshot.entries(None, None, 10**9, True)]
                    assert [entry.position for entry in entries] == list(range(300))
                    assert all(set(entry.payloads) >= {"input", "output"} for entry in entries)
                    assert await snapshot.tenants("run-1") == {"acme"}
                    assert await snapshot.head() == head
                    assert not await snapshot.has_beyond(300, None)
                async with ledger._store.snapshot() as later:
                    assert later is not None
                    assert await later.has_beyond(300, {"run-1"})

        run(check())

    def test_a_reader_that_goes_away_leaves_the_store_usable(self, tmp_path: Path) -> None:
        """Cancelled reads, and iterations that are broken off, hold nothing up."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger:
                await asyncio.gather(*(ledger.write(record(number)) for number in range(400)))
                for _ in range(30):
                    history = ledger._store.history("run-1", None)
                    await anext(history)
                    await history.aclose()  # type: ignore[attr-defined]
                    reading = asyncio.ensure_future(ledger.get_run("run-1"))
                    await asyncio.sleep(0)
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
                assert len(await ledger.get_run("run-1")) == 400
                assert (await ledger.write(record(400))).seq == 400

        run(check())


async def _seen(ledger: ReplayLedger, tenant: str | None) -> dict[str, Any]:
    """Return what a ledger answers to many questions."""
    return {
        "runs": await ledger.list_runs(tenant=tenant),
        "tools": await ledger.list_runs(tool="mail", since=STARTED_US / 1_000_000, tenant=tenant),
        **{name: await ledger.get_run(name, tenant=tenant) for name in ("run-1", "run-2", "shared", "fork")},
        "sums": [await ledger.run_summary(name, tenant=tenant) for name in ("run-1", "run-2", "shared", "fork")],
        "unfinished": await ledger.unfinished(tenant=tenant),
        "holds": await ledger.holds(tenant=tenant),
        "csv": await ledger.export_run_csv("shared", tenant=tenant),
    }
