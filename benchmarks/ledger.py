"""The ledger beside its floors: group commit, one record's CPU, verification, proofs and look-ups in a large ledger."""

from __future__ import annotations

import gc
import sqlite3
import statistics
import time
from pathlib import Path

from benchmarks.harness import Row, Spent, at_least, at_most, beside, folder
from benchmarks.large import large_rows
from benchmarks.records import record, write
from meshflow.ledger.format.canonical import canonical_bytes
from meshflow.ledger.format.chain import entry_hash, genesis_hash
from meshflow.ledger.format.entry import step_fields
from meshflow.ledger.format.log import Log
from meshflow.ledger.format.merkle import Frontier
from meshflow.ledger.sqlite.tables import ENTRIES, PAYLOADS, run_script

_SAME = ("page_size = 8192", "journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 2000",
         "cache_size = -16000", "secure_delete = ON")  # fmt: skip
"""How the ledger opens its file, which a bare connection then does too."""


async def rows(quick: bool) -> list[Row]:
    """Measure the part."""
    with folder() as place:
        return [
            *await _commits(place, 400 if quick else 6_000, 1 if quick else 9),
            _one_record(2_000 if quick else 50_000),
            *await large_rows(place / "large.db", place, 20_000 if quick else 1_000_000),
        ]


async def _commits(place: Path, count: int, rounds: int) -> list[Row]:
    """Return how 256 waiters do beside one, and beside a bare ``executemany`` of the same rows; all three in turn."""
    single, group, bare = list[Spent](), list[Spent](), list[Spent]()
    for turn in range(rounds + 1):
        for waiters, number, spent in ((1, count // 16, single), (256, count, group)):
            spent.append(await write(place / f"{waiters}-{turn}.db", number, waiters))
        bare.append(_bare(place / f"256-{turn}.db", place / f"bare-{turn}.db"))
    # The first turn warms up and is not counted.
    one, many, floor = (
        Spent(statistics.median(each.wall for each in some[1:]), statistics.median(each.cpu for each in some[1:]))
        for some in (single, group, bare)
    )
    same = "executemany of the same rows, 256 each"
    return [
        at_least("group commit, 256 waiters", 1 / many.wall, "records/s", 8, 1 / one.wall, "one waiter"),
        at_least("group commit, 256 waiters", 1 / many.wall, "records/s", 0.5, 1 / floor.wall, same),
        beside("CPU of a record, 256 waiters, all threads", many.cpu * 1e6, "us", floor.cpu * 1e6, same),
        beside("CPU of a record, one waiter", one.cpu * 1e6, "us", floor.cpu * 1e6, same),
    ]


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
