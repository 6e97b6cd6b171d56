"""The ledger beside its floors: group commit, one record's CPU, verification, proofs and look-ups in a large ledger."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from benchmarks.harness import Row, Spent, at_most, beside, folder
from meshflow.decision import Effect
from meshflow.ledger import ReplayLedger
from meshflow.ledger.format.canonical import canonical_bytes
from meshflow.ledger.format.chain import entry_hash, genesis_hash
from meshflow.ledger.format.entry import step_fields
from meshflow.ledger.format.log import Log
from meshflow.ledger.format.merkle import Frontier
from meshflow.ledger.sqlite.tables import ENTRIES, PAYLOADS, run_script
from meshflow.record import StageResult, StepRecord
from meshflow.stages import STAGES

LONG, OTHER = "long", "other"
_HELD = 100_000
_SAME = ("page_size = 8192", "journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 2000",
         "cache_size = -16000", "secure_delete = ON")  # fmt: skip
"""How the ledger opens its file, which a bare connection then does too."""
RESULTS = tuple(StageResult(stage.name, "default", Effect.ALLOW, elapsed_ns=1_000) for stage in STAGES[:7])


def record(number: int, run_id: str) -> StepRecord:
    """Return a record whose body and payloads have about 1.5 KB together; one in a hundred of ``other`` differs."""
    price = 20.99 if run_id == OTHER and number % 1_000 == 1 else 19.99
    return StepRecord(
        run_id=run_id, node_id=f"node-{number // 10 % 5}", step_id=f"step-{number}", tenant_id="acme", results=RESULTS,
        input={"question": "q" * 150}, output={"answer": "a" * 200, "price": price}, executed=True, tokens=12,
        cost_micro_usd=1_500, started_us=1_700_000_000_000_000 + number, duration_ns=1_000_000, fingerprint="f" * 64,
    )  # fmt: skip


def run_of(number: int) -> str:
    """Return whose step that is: a tenth each is of the two long runs, the rest of a thousand short ones."""
    return {0: LONG, 1: OTHER}.get(number % 10) or f"run-{number % 1_000}"


async def rows(quick: bool) -> list[Row]:
    """Measure the part."""
    with folder() as place:
        return [
            *await _commits(place, 400 if quick else 6_000, 1 if quick else 9),
            _one_record(2_000 if quick else 50_000),
            *await _verification(place, 2_000 if quick else 50_000, 1 if quick else 9),
            *await _large(place, 20_000 if quick else 1_000_000),
        ]


async def _commits(place: Path, count: int, rounds: int) -> list[Row]:
    """Return how 256 waiters do beside one, and beside a bare ``executemany`` of the same rows; all three in turn."""
    single, group, bare = list[Spent](), list[Spent](), list[Spent]()
    for turn in range(rounds + 1):
        for waiters, number, spent in ((1, count // 16, single), (256, count, group)):
            spent.append(await _write(place / f"{waiters}-{turn}.db", number, waiters))
        bare.append(_bare(place / f"256-{turn}.db", place / f"bare-{turn}.db"))
    # The first turn warms up and is not counted.
    one, many, floor = (
        Spent(statistics.median(each.wall for each in some[1:]), statistics.median(each.cpu for each in some[1:]))
        for some in (single, group, bare)
    )
    same = "executemany of the same rows, 256 each"
    return [
        _at_least("group commit, 256 waiters", 1 / many.wall, "records/s", 8, 1 / one.wall, "one waiter"),
        _at_least("group commit, 256 waiters", 1 / many.wall, "records/s", 0.5, 1 / floor.wall, same),
        beside("CPU of a record, 256 waiters, all threads", many.cpu * 1e6, "us", floor.cpu * 1e6, same),
        beside("CPU of a record, one waiter", one.cpu * 1e6, "us", floor.cpu * 1e6, same),
    ]


async def _write(path: Path, count: int, waiters: int) -> Spent:
    """Return what a record costs on its way from a call of ``write`` until it is durable."""
    async with ReplayLedger(path) as ledger:
        await ledger.write(record(count, "warm"))
        # Made before the clocks run, unless there are too many to be held in memory: those are not timed.
        made = (record(number, run_of(number)) for number in range(count))
        records = iter(list(made) if count <= _HELD else made)

        async def waiter() -> None:
            for one in records:
                await ledger.write(one)

        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(waiter() for _ in range(waiters)))
        return Spent((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)


def _bare(source: Path, target: Path) -> Spent:
    db = sqlite3.connect(target, isolation_level=None)
    for setting in _SAME:
        db.execute(f"PRAGMA {setting}")
    run_script(db, ENTRIES + PAYLOADS)
    db.execute("ATTACH ? AS source", (str(source),))
    tables = {
        table: db.execute(f"SELECT * FROM source.{table} ORDER BY id").fetchall() for table in ("entries", "payloads")
    }
    db.execute("DETACH source")
    count, share = len(tables["entries"]), len(tables["payloads"]) // len(tables["entries"])
    wall, cpu = time.perf_counter(), time.process_time()
    for at in range(0, count, 256):
        db.execute("BEGIN IMMEDIATE")
        for table, scale in (("entries", 1), ("payloads", share)):
            some = tables[table][at * scale : (at + 256) * scale]
            db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(some[0]))})", some)
        db.execute("COMMIT")
    spent = Spent((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)
    db.close()
    return spent


def _one_record(count: int) -> Row:
    """Return the CPU of making a body's canonical bytes, hashing, chaining and logging it; it has about 1.5 KB."""
    fields = step_fields(record(0, "run")) | {"commitments": {"input": "0" * 64, "output": "1" * 64}}
    fields["code"] = "c" * (1_500 - len(canonical_bytes(fields)))
    log, previous = Log(Frontier(), lambda level, start, stop: []), genesis_hash("run")
    gc.collect()
    began = time.process_time()
    for seq in range(count):
        previous = entry_hash("run", seq, previous, canonical_bytes(fields))
        log.extend((previous,))
    spent = (time.process_time() - began) / count
    return at_most("canonical bytes, hash, chain and log of a 1.5 KB record", spent * 1e6, "us CPU", 12)


async def _large(place: Path, count: int) -> list[Row]:
    """Return whole verification and look-ups in a ledger of a million entries, a tenth of them in each of two runs."""
    path = place / "large.db"
    await _write(path, count, 512)
    async with ReplayLedger(path) as ledger:
        found = [
            await _both_cores(ledger, count),
            at_most("memory of a process that verifies everything", _memory_mib(path), "MiB", 200),
        ]  # fmt: skip
        last = count // 10 - 1
        looks: list[tuple[str, Callable[[], Awaitable[object]], float]] = [
            ("load_state", lambda: ledger.load_state(LONG, last // 2), 2),
            ("run_summary", lambda: ledger.run_summary(LONG), 2),
            ("list_runs, first page", lambda: ledger.list_runs(), 2),
            ("an inclusion proof", lambda: ledger.prove(LONG, last // 2), 1),
        ]
        found += [at_most(f"{what} in {count:,} entries", await _median_ms(look), "ms", most)
                  for what, look, most in looks]  # fmt: skip
        return [*found, *await _difference(ledger, count // 10)]


async def _difference(ledger: ReplayLedger, steps: int) -> list[Row]:
    """Return how long two long runs take to compare, the best of three, and how long the event loop waits meanwhile."""
    spent, stalls = [], []
    for _ in range(3):
        stall = asyncio.create_task(_longest_stall())
        began = time.perf_counter()
        diff = await ledger.diff(LONG, OTHER)
        spent.append(time.perf_counter() - began)
        stall.cancel()
        stalls.append(await stall)
        assert len(diff.changed) == len(range(1, steps * 10, 1_000)), len(diff.changed)
    return [
        at_most(f"diff of two runs of {steps:,} steps", min(spent), "s", 3),
        at_most("event loop held up by that diff", min(stalls) * 1_000, "ms", 50),
    ]


async def _longest_stall() -> float:
    """Return, when cancelled, the longest time in seconds for which the loop did not turn.

    A turn counts for no more than the processor time that the process used meanwhile, so that a machine which others
    keep busy does not count.
    """
    worst, last, used = 0.0, time.perf_counter(), time.process_time()
    with suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0.001)
            now, spent = time.perf_counter(), time.process_time()
            worst = max(worst, min(now - last - 0.001, spent - used))
            last, used = now, spent
    return worst


async def _verification(place: Path, count: int, rounds: int) -> list[Row]:
    """Return how fast layers verify on one core, by CPU, in turn with plain sha256 over the same bytes."""
    path = place / "verified.db"
    await _write(path, count, 256)
    rows = []
    async with ReplayLedger(path) as ledger:
        for what, layers, least in (
            ("chains", ["chain"], 0.4),
            ("chains, log and commitments", ["chain", "merkle_log", "commitments"], 0.2),
            ("columns too", ["chain", "columns", "merkle_log", "commitments"], None),
        ):
            data = _hashed(path, payloads="commitments" in layers)
            speeds, floors = [], []
            for _ in range(rounds):
                began = time.process_time()
                for item in data:
                    sha256(item).digest()
                floors.append((count + 1) / (time.process_time() - began))
                began = time.process_time()
                result = await ledger.verify_ledger(layers=layers, processes=1)
                speeds.append(result["entries"] / (time.process_time() - began))
                assert result["valid"], result["errors"]
            speed, floor, same = statistics.median(speeds), statistics.median(floors), "sha256 over the same bytes"
            rows.append(
                beside(f"verify {what}", speed, "entries/s", floor, same)
                if least is None
                else _at_least(f"verify {what}", speed, "entries/s", least, floor, same)
            )
    return rows


def _hashed(path: Path, *, payloads: bool) -> list[bytes]:
    """Return the bytes that verification hashes."""
    db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    data = [row[0] for row in db.execute("SELECT body FROM entries")]
    if payloads:
        data += [row[0] for row in db.execute("SELECT data FROM payloads")]
    db.close()
    return data


async def _both_cores(ledger: ReplayLedger, count: int) -> Row:
    """Return what a second process saves by the wall."""
    spent = []
    for processes in (1, 2):
        began = time.perf_counter()
        assert (await ledger.verify_ledger(processes=processes))["valid"]
        spent.append(time.perf_counter() - began)
    return beside(
        f"verify everything in {count:,} entries, two processes: wall time", spent[1], "s", spent[0], "one process"
    )


def _memory_mib(path: Path) -> float:
    """Return the peak of a process of its own that verifies all by itself."""
    script = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom meshflow.ledger import ReplayLedger\n"
        "async def main():\n    async with ReplayLedger(sys.argv[1]) as ledger:\n"
        "        assert (await ledger.verify_ledger(processes=1))['valid']\nasyncio.run(main())\n"
        "peak = [line for line in Path('/proc/self/status').read_text().splitlines() if line.startswith('VmHWM')]\n"
        "print(peak[0].split()[1])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=True, capture_output=True, text=True)
    return int(done.stdout) / 1024


async def _median_ms(look: Callable[[], Awaitable[object]]) -> float:
    spent = []
    for _ in range(30):
        began = time.perf_counter()
        await look()
        spent.append((time.perf_counter() - began) * 1_000)
    return statistics.median(spent)


def _at_least(what: str, measured: float, unit: str, least: float, baseline: float, baseline_is: str) -> Row:
    ratio = measured / baseline
    return Row(what, measured, unit, baseline, baseline_is, ratio, f">= {least:g}", ratio >= least)
