"""The contracts of a ledger's store that are about writing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import perf_counter

import pytest

from meshflow.errors import LedgerConflictError, LedgerError
from meshflow.ledger import Intent
from meshflow.ledger.format.chain import entry_hash, genesis_hash
from meshflow.record import Verdict
from meshflow.testing.base import run
from meshflow.testing.ledger_base import STARTED_US, StoreConformance, record, valid

_ODD = (
    "\x00",
    "a\x00b",
    "\ue000",
    "\ue0000",
    "e\u0301",
    "\u00e9",
    "'; DROP TABLE entries; --",
    "\u2028\U0001f600",
    "%s ? :run $1",
)


class WritingConformance(StoreConformance):
    """Entries get their place from the store, are kept before the call returns, and fail alone."""

    def test_places_are_given_by_the_store(self, tmp_path: Path) -> None:
        """Numbers count a run's entries, step indexes its steps, positions the ledger's entries, all from 0."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger:
                written = [
                    await ledger.write_intent(Intent(run_id="run-1", step_id="step-0", node_id="n", tenant_id="acme"))
                ]
                written += [await ledger.write(record(number)) for number in range(2)]
                written += [await ledger.write(record(0, "other"))]
                assert [one.seq for one in written] == [0, 1, 2, 0]
                assert [one.step_index for one in written] == [None, 0, 1, 0]
                assert [one.position for one in written] == [0, 1, 2, 3]

        run(check())

    def test_entries_of_a_run_are_chained(self, tmp_path: Path) -> None:
        """Each entry has its own hash over the one before, the first over the genesis of its run."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger:
                await asyncio.gather(*(ledger.write(record(number, f"run-{number % 2}")) for number in range(20)))
                for name in ("run-0", "run-1"):
                    previous = genesis_hash(name)
                    async for entry in ledger._store.history(name, None):
                        assert entry.prev_hash == previous
                        assert entry_hash(name, entry.seq, previous, entry.body) == entry.entry_hash
                        assert entry.intact()
                        previous = entry.entry_hash

        run(check())

    def test_same_entry_twice_is_one(self, tmp_path: Path) -> None:
        """Written again with the same content, an entry is answered with the one that is there, whoever writes it."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger, self.opened(tmp_path) as other:
                first = await ledger.write(record(0))
                assert await ledger.write(record(0)) == first
                assert await other.write(record(0)) == first
                many = await asyncio.gather(*(one.write(record(1)) for one in (ledger, other) * 10))
                assert set(many) == {many[0]}
                assert len(await ledger.get_run("run-1")) == 2

        run(check())

    def test_another_entry_under_a_taken_key_is_refused_alone(self, tmp_path: Path) -> None:
        """A step, attempt and kind are one entry; what contradicts it fails, and nothing that was written beside it."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger:
                await ledger.write(record(0))
                done = await asyncio.gather(
                    *(ledger.write(record(number, tokens=99 if number == 0 else 12)) for number in range(20)),
                    return_exceptions=True,
                )
                refused = [one for one in done if isinstance(one, BaseException)]
                assert [type(one) for one in refused] == [LedgerConflictError]
                assert len(await ledger.get_run("run-1")) == 20
                with pytest.raises(LedgerConflictError):
                    await ledger.write(record(0, output="another"))
                assert (await ledger.write(record(0, attempt=2, tokens=99))).step_index == 20
                await valid(ledger)

        run(check())

    def test_intents_and_outcomes_keep_to_their_attempts(self, tmp_path: Path) -> None:
        """A second intent is refused even if it is equal, and so is one whose attempt is over."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger:
                intent = Intent(run_id="run-1", step_id="step-0", node_id="n", tenant_id="acme")
                await ledger.write_intent(intent)
                with pytest.raises(LedgerConflictError):
                    await ledger.write_intent(intent)
                assert [one["step_id"] for one in await ledger.unfinished()] == ["step-0"]
                await ledger.write(record(0))
                assert await ledger.unfinished() == []
                await ledger.write(record(1))
                with pytest.raises(LedgerConflictError, match="taken"):
                    await ledger.write_intent(Intent(run_id="run-1", step_id="step-1", node_id="n", tenant_id="acme"))
                assert await ledger.next_attempt("run-1", "step-1") == 2

        run(check())

    def test_what_the_caller_believes_is_compared(self, tmp_path: Path) -> None:
        """A wrong ``prev_hash`` or ``entry_hash`` is refused; a right one is not."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger:
                first = await ledger.write({"run_id": "run-1", "node_id": "n", "step_id": "a"})
                step = {"run_id": "run-1", "node_id": "n", "step_id": "b"}
                for wrong in ({"prev_hash": "00" * 32}, {"entry_hash": "00" * 32}):
                    with pytest.raises(LedgerConflictError):
                        await ledger.write({**step, **wrong})
                assert (await ledger.write({**step, "prev_hash": first.entry_hash})).seq == 1

        run(check())

    def test_nothing_but_an_erasure_follows_a_close(self, tmp_path: Path) -> None:
        """The closing entry counts the entries before it, is one however often it is asked for, and ends the run."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger, self.opened(tmp_path) as other:
                await ledger.write(record(0))
                closed = await ledger.close_run("run-1")
                assert (await other.close_run("run-1")).entry_hash == closed.entry_hash
                (entry,) = await ledger.entries("run-1", "close")
                assert entry["count"] == 1
                for one in (ledger, other):
                    with pytest.raises(LedgerConflictError, match="closed"):
                        await one.write(record(1))
                    assert (await one.write(record(0))).seq == 0
                await other.erase_payloads("run-1", reason="request", authority="dpo")
                assert (await ledger.verify_chain("run-1"))["state"] == "closed"
                with pytest.raises(LedgerError, match="no run"):
                    await ledger.close_run("unknown")
                await valid(ledger)

        run(check())

    def test_forks_inherit_by_reference(self, tmp_path: Path) -> None:
        """A fork begins with its parent's steps, counts on from them, and names the one it was forked at."""

        async def check() -> None:
            async with self.filled(tmp_path) as ledger:
                steps = await ledger.get_run("fork")
                assert [(step["run_id"], step["step_index"]) for step in steps] == [
                    ("run-1", 0), ("run-1", 1), ("fork", 2),
                ]  # fmt: skip
                assert (await ledger.run_summary("fork"))["steps"] == 1
                await ledger._store.fork_run("deeper", "fork", 3, None, STARTED_US)
                assert len(await ledger.get_run("deeper")) == 3
                with pytest.raises(LedgerError, match="steps"):
                    await ledger._store.fork_run("more", "run-1", 99, None, STARTED_US)
                with pytest.raises(LedgerConflictError, match="begun already"):
                    await ledger._store.fork_run("run-2", "run-1", 1, None, STARTED_US)
                await valid(ledger)

        run(check())

    def test_several_stores_write_one_ledger(self, tmp_path: Path) -> None:
        """Any number of store objects write at once, and take turns, and what they wrote verifies."""

        async def check() -> None:
            async with self.opened(tmp_path) as one, self.opened(tmp_path) as two, self.opened(tmp_path) as three:
                every = (one, two, three)
                await asyncio.gather(*(every[n % 3].write(record(n, f"run-{n % 4}")) for n in range(120)))
                for number in range(120, 150):
                    await every[number % 3].write(record(number, f"run-{number % 4}"))
                assert sum([len(await two.get_run(f"run-{number}")) for number in range(4)]) == 150
                positions = [step["step_id"] for n in range(4) for step in await three.get_run(f"run-{n}")]
                assert len(set(positions)) == 150
                await valid(one)

        run(check())

    def test_what_was_acknowledged_is_there_for_others_at_once(self, tmp_path: Path) -> None:
        """When the call has returned, another store object sees the entry, also one that is opened later."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger, self.opened(tmp_path) as other:
                for number in range(5):
                    written = await ledger.write(record(number))
                    steps = await other.get_run("run-1")
                    assert (len(steps), steps[-1]["entry_hash"]) == (number + 1, written.entry_hash)
            async with self.opened(tmp_path) as again:
                assert len(await again.get_run("run-1")) == 5
                assert (await again.write(record(5))).seq == 5
                await valid(again)

        run(check())

    def test_odd_texts_and_large_values_are_kept_as_they_are(self, tmp_path: Path) -> None:
        """Names may be any text, NUL and look-alikes included, and payloads any size."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger:
                for number, name in enumerate(_ODD):
                    names = dict.fromkeys(("node_id", "step_id", "tenant_id", "tool", "code"), name)
                    await ledger.write(record(number, name, **names))
                    (step,) = await ledger.get_run(name)
                    kept = {step[key] for key in ("run_id", "node_id", "step_id", "tenant_id", "tool", "code")}
                    assert kept == {name}
                    assert await ledger.list_runs(tool=name, node=name, tenant=name) == [name]
                    assert (await ledger.run_summary(name))["nodes"] == [name]
                assert set(await ledger.list_runs()) == set(_ODD)
                await ledger.write(record(0, "large", input="x" * 3_000_000, output={"n": [0.1, 2**53, -1, "\x00"]}))
                (step,) = await ledger.get_run("large")
                assert (len(step["input_task"]), step["output_content"]) == (3_000_000, {"n": [0.1, 2**53, -1, "\x00"]})
                await valid(ledger)

        run(check())

    def test_every_kind_of_outcome_is_summed_up(self, tmp_path: Path) -> None:
        """The totals of a run are kept for each tenant in it, and only its own steps count."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger:
                for number, verdict in enumerate(Verdict):
                    await ledger.write(record(number, verdict=verdict))
                summary = await ledger.run_summary("run-1")
                assert summary["verdicts"] == dict.fromkeys([verdict.value for verdict in Verdict], 1)
                assert (summary["total_cost_micro_usd"], summary["total_tokens"]) == (6_000, 48)
                assert summary["nodes"] == ["node-0", "node-1", "node-2"]
                (row,) = await ledger._store.totals("run-1", None)
                assert (row["first_us"], row["last_us"]) == (STARTED_US, STARTED_US + 3_002_500)

        run(check())

    def test_does_not_hold_up_the_event_loop(self, tmp_path: Path) -> None:
        """Whatever a call waits for, others go on meanwhile."""

        async def check(folder: Path) -> float:
            async with self.opened(folder) as ledger:
                worst, going = 0.0, True

                async def tick() -> None:
                    nonlocal worst
                    last = perf_counter()
                    while going:
                        await asyncio.sleep(0.001)
                        now = perf_counter()
                        worst, last = max(worst, now - last), now

                ticking = asyncio.create_task(tick())
                for number in range(20):
                    await ledger.write(record(number))
                await ledger.get_run("run-1")
                await ledger.verify_chain("run-1")
                going = False
                await ticking
                return worst * 1_000

        tries = []
        for number in range(3):
            folder = tmp_path / f"try-{number}"
            folder.mkdir()
            tries.append(asyncio.run(check(folder)))
        assert min(tries) < self.stall_ms, f"the event loop waited {min(tries):.0f} ms at best"

    def test_a_closed_store_stays_closed(self, tmp_path: Path) -> None:
        """After ``aclose`` every call is a LedgerError; closing again is not."""

        async def check() -> None:
            async with self.opened(tmp_path) as ledger:
                await ledger.write(record(0))
            await ledger.aclose()
            for call in (
                ledger.write(record(1)),
                ledger.get_run("run-1"),
                ledger.list_runs(),
                ledger.verify_chain("run-1"),
            ):
                with pytest.raises(LedgerError, match="closed"):
                    await call

        run(check())
