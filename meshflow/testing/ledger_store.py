"""The contract of a ledger's store, which SQLite's and PostgreSQL's keep, and anybody's may."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from meshflow.errors import LedgerError
from meshflow.ledger.erasure import LegalHoldError
from meshflow.ledger.format.checkpoints import check_consistency, check_inclusion, read_checkpoint
from meshflow.ledger.retention import RetentionRule
from meshflow.testing.base import run
from meshflow.testing.ledger_base import STARTED_US, record, valid
from meshflow.testing.ledger_reads import ReadingConformance
from meshflow.testing.ledger_writes import WritingConformance

_YEAR_US = 365 * 86_400_000_000


class LedgerStoreConformance(WritingConformance, ReadingConformance):
    """Tests a store against the contract of ``LedgerStore``, through ``ReplayLedger(store=...)``.

    Override ``make_store``. Set ``signs`` to False for a store without checkpoints, and ``stall_ms`` if yours is slow.
    The tests are plain functions that run their own event loop: no pytest plugin for asyncio is needed.
    """

    def test_erasure_leaves_a_tombstone_and_nothing_else(self, tmp_path: Path) -> None:
        """Erased fields are gone for every reader, listed as erased, and the run verifies; a second time is nothing."""

        async def check() -> None:
            async with self.filled(tmp_path) as ledger, self.opened(tmp_path) as other:
                assert await ledger.erase_payloads("run-1", fields=["input"], reason="request", authority="dpo") == 6
                assert await other.erase_payloads("run-1", fields=["input"], reason="request", authority="dpo") == 0
                steps = await other.get_run("run-1")
                assert {str(step["input_task"]) for step in steps} == {"None"}
                assert {tuple(step["erased"]) for step in steps} == {("input",)}
                (entry,) = await other.entries("run-1", "erasure")
                assert (entry["reason"], entry["authority"]) == ("request", "dpo")
                assert "question" not in "".join([part async for part in other.iter_export("run-1")])
                await valid(other)

        run(check())

    def test_a_deleted_run_is_out_of_sight_and_verifies(self, tmp_path: Path) -> None:
        """Its steps are not listed any more, nor those that a fork inherited; what is written after it is."""

        async def check() -> None:
            async with self.filled(tmp_path) as ledger, self.opened(tmp_path) as other:
                assert await ledger.delete_run("run-1") > 0
                assert await ledger.delete_run("run-1") == 0
                for one in (ledger, other):
                    assert await one.get_run("run-1") == []
                    assert (await one.run_summary("run-1"))["deleted"]
                    assert [step["run_id"] for step in await one.get_run("fork")] == ["fork"]
                    with pytest.raises(LedgerError):
                        await one.load_state("run-1", 0)
                await other.write(record(60))
                assert [step["step_id"] for step in await ledger.get_run("run-1")] == ["step-60"]
                with pytest.raises(LedgerError, match="no run"):
                    await ledger.delete_run("unknown")
                await valid(ledger)

        run(check())

    def test_one_tenant_erases_its_part_alone(self, tmp_path: Path) -> None:
        """What others wrote in the same run stays."""

        async def check() -> None:
            async with self.filled(tmp_path) as ledger:
                await ledger.delete_run("shared", tenant="bolt")
                assert {step["tenant_id"] for step in await ledger.get_run("shared")} == {"acme"}
                assert all(step["input_task"] for step in await ledger.get_run("shared", tenant="acme"))
                with pytest.raises(LedgerError, match="no run"):
                    await ledger.delete_run("run-1", tenant="bolt")
                await valid(ledger)

        run(check())

    def test_a_subject_is_erased_wherever_it_acted(self, tmp_path: Path) -> None:
        """By subject or agent, in every run, also what was written since the last time."""

        async def check() -> None:
            async with self.filled(tmp_path) as ledger, self.opened(tmp_path) as other:
                assert set((await ledger.erase_subject("carol"))["runs"]) == {"run-2"}
                await other.write(record(70, "later"))
                assert set((await ledger.erase_subject("agent-7"))["runs"]) == {"run-1", "shared", "fork", "later"}
                assert (await other.erase_subject("alice"))["erased"] == 0
                await valid(ledger)

        run(check())

    def test_a_hold_forbids_erasure_until_it_is_released(self, tmp_path: Path) -> None:
        """On a run, on a subject, and on what a held fork inherits; placed and released under a record."""

        async def check() -> None:
            async with self.filled(tmp_path) as ledger, self.opened(tmp_path) as other:
                first = await ledger.hold("fork", reason="case 9", authority="counsel")
                second = await ledger.hold(subject="carol", reason="case 10", authority="counsel")
                for run_id in ("run-1", "fork", "run-2"):
                    with pytest.raises(LegalHoldError):
                        await other.delete_run(run_id)
                assert [one["hold"] for one in await other.holds()] == [first, second]
                assert (await other.erase_subject("carol"))["erased"] == 0
                await ledger.delete_run("shared")
                assert await other.release_hold(first, reason="settled", authority="counsel")
                assert not await ledger.release_hold(first, reason="settled", authority="counsel")
                assert await ledger.delete_run("run-1") > 0
                with pytest.raises(LedgerError, match="no hold"):
                    await ledger.release_hold(99, reason="r", authority="a")
                await valid(ledger)

        run(check())

    def test_what_is_past_its_time_is_found(self, tmp_path: Path) -> None:
        """By tenant, tool and node, the first rule that matches an entry deciding, page after page."""

        async def check() -> None:
            async with self.filled(tmp_path) as ledger:
                rules = [RetentionRule(keep_us=_YEAR_US, tenant="bolt"), RetentionRule(keep_us=2_500_000, tool="mail")]
                store, seen, pages = ledger._store, set(), 0
                after: int | None = -1
                at_us = STARTED_US + 6_000_000
                while after is not None:
                    runs, after = await store.expired(rules, at_us, after, 7, None)
                    seen |= {(name, position) for name, positions in runs.items() for position in positions}
                    pages += 1
                assert pages > 1
                assert {name for name, _ in seen} == {"run-1"}
                assert len(seen) == 2
                report = await ledger.apply_retention(rules, now_us=at_us)
                assert set(report.runs) == {"run-1"}
                await valid(ledger)

        run(check())

    def test_checkpoints_and_proofs_hold(self, tmp_path: Path) -> None:
        """Every entry is provable, the log only grows, and a key hands over to the next one."""
        if not self.signs:
            pytest.skip("this store signs nothing")

        async def check() -> None:
            async with self.filled(tmp_path) as ledger, self.opened(tmp_path) as other:
                old = await ledger.checkpoint()
                await asyncio.gather(*(other.write(record(number, "many")) for number in range(300)))
                await ledger.rotate_key()
                await other.write(record(300, "many"))
                keys = await other.verifiers()
                assert len(keys) == 2
                for name, seq in (("run-1", 0), ("many", 299), ("many", 300)):
                    proof = await other.prove(name, seq)
                    assert check_inclusion(proof, keys).size == proof["tree_size"]
                growth = await ledger.prove_consistency(read_checkpoint(old).size)
                check_consistency(old, growth["checkpoint"], growth["path"], keys)
                result = await other.verify_ledger(since=[old], keys=keys)
                assert (result["errors"], result["held_size"]) == ([], read_checkpoint(old).size)
                assert (await other.verify_chain("many", checkpoint=old, keys=keys))["valid"]
                with pytest.raises(LedgerError, match="no entry"):
                    await other.prove("run-1", 0, tenant="bolt")

        run(check())

    def test_another_history_is_found(self, tmp_path: Path) -> None:
        """A checkpoint from another ledger, and one of more entries than there are, do not verify."""
        if not self.signs:
            pytest.skip("this store signs nothing")

        async def check() -> None:
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
            async with self.opened(tmp_path / "one") as one, self.opened(tmp_path / "two") as two:
                await one.write(record(0))
                await two.write(record(1))
                note = await two.checkpoint()
                assert not (await one.verify_ledger(since=note))["valid"]
                assert not (await one.verify_chain("run-1", checkpoint=note))["valid"]
                await valid(one)
                await valid(two)

        run(check())

    def test_health_is_told(self, tmp_path: Path) -> None:
        """Each thing looked at has a level, a name and a sentence; nothing is wrong with a new ledger's tables."""

        async def check() -> None:
            async with self.filled(tmp_path) as ledger:
                found = await ledger.health()
                assert found
                assert {one.level for one in found} <= {"ok", "warning", "error"}
                assert all(one.check and one.found for one in found)

        run(check())
