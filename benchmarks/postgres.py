"""A ledger in PostgreSQL: 256 waiters beside one, beside bare batches of the same rows, and its reads and checks.

The server comes from the development lock, on this machine, with everything on that keeps what it acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import contextmanager
from itertools import count as counter
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.harness import Row, at_least, at_most, beside, folder, in_turn
from benchmarks.records import record
from meshflow import ReplayLedger
from meshflow.ledger.sql.database import WRITTEN
from tests.servers import PostgresServer, owned_database, postgres_server

AT_ONCE = 256
BATCHES = 8


TABLES = ("entries", "payloads")


class Bare:
    """The floor: the same rows into tables of the same columns and indexes, a batch a transaction, and nothing else."""

    def __init__(self, connection: Any, batches: list[dict[str, list[Any]]], columns: dict[str, list[str]]) -> None:
        self._connection = connection
        self._batches = iter(batches)
        self._columns = columns

    async def executemany(self) -> None:
        """Insert batches by one ``executemany`` a table."""
        for batch in islice(self._batches, BATCHES):
            async with self._connection.transaction():
                for table, rows in batch.items():
                    marks = ", ".join(f"${number + 1}" for number in range(len(self._columns[table])))
                    names = ", ".join(self._columns[table])
                    await self._connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def copy(self) -> None:
        """Copy batches in."""
        for batch in islice(self._batches, BATCHES):
            async with self._connection.transaction():
                for table, rows in batch.items():
                    await self._connection.copy_records_to_table(table, columns=self._columns[table], records=rows)


async def _bare(server: PostgresServer, count: int) -> Bare:
    """Return batches of what the ledger holds, and tables for them."""
    connection = await asyncpg.connect(server.url("ledgers", "owner"))
    columns = {table: list(WRITTEN[table]) for table in TABLES}
    batches = []
    for batch in range(count):
        first = batch * AT_ONCE
        batches.append({
            table: [
                tuple(row)
                for row in await connection.fetch(
                    f"SELECT {', '.join(columns[table])} FROM bench.{table} WHERE id BETWEEN $1 AND $2 ORDER BY id",
                    (first + 1) * scale, (first + AT_ONCE) * scale + scale - 1,
                )
            ]
            for table, scale in (("entries", 1), ("payloads", 16))
        })  # fmt: skip
    await connection.execute("CREATE SCHEMA bare; SET search_path = bare")
    for table in TABLES:
        await connection.execute(f"CREATE TABLE {table} (LIKE bench.{table} INCLUDING ALL)")
    return Bare(connection, batches, columns)


async def rows(quick: bool) -> list[Row]:
    """Measure writing, then reading from what was written."""
    rounds, single = (1, 8) if quick else (9, 64)
    with folder() as path, away(path), postgres_server(fsync="on", full_page_writes="on") as server:
        owned_database(server)
        async with ReplayLedger(server.url("ledgers", "owner", schema="bench")) as ledger:
            numbers = counter()

            async def group() -> None:
                mine = iter([next(numbers) for _ in range(AT_ONCE * BATCHES)])

                async def waiter() -> None:
                    for number in mine:
                        await ledger.write(record(number, f"run-{number % 32}"))

                await asyncio.gather(*(waiter() for _ in range(AT_ONCE)))

            async def one_by_one() -> None:
                for _ in range(single):
                    await ledger.write(record(next(numbers), "single"))

            for _ in range(2 * rounds + 2):
                await group()
            bare = await _bare(server, (2 * rounds + 2) * BATCHES)
            contestants = {"group": group, "executemany": bare.executemany, "copy": bare.copy}
            spent = await in_turn(rounds, contestants, AT_ONCE * BATCHES)
            alone = (await in_turn(rounds, {"single": one_by_one}, single))["single"]
            await bare.close()
            rate = {name: 1 / one.wall for name, one in spent.items()}
            reads = await _reads(ledger, 20 if quick else 300)
            verified = await _verified(ledger)
    floor = "executemany of the same rows"
    return [
        at_least(f"PostgreSQL, {AT_ONCE} waiters: records", rate["group"], "/s", 8, 1 / alone.wall, "one waiter"),
        at_least(f"PostgreSQL, {AT_ONCE} waiters: records", rate["group"], "/s", 0.5, rate["executemany"], floor),
        beside(f"PostgreSQL, {AT_ONCE} waiters: records", rate["group"], "/s", rate["copy"], "COPY of the same rows"),
        beside(
            "PostgreSQL: CPU of this process a record", spent["group"].cpu * 1e6, "us",
            spent["executemany"].cpu * 1e6, floor,
        ),
        *(at_most(f"PostgreSQL: {name}, p50", value, "ms", 2.0) for name, value in reads.items()),
        beside("PostgreSQL: verified", verified, "records/s", rate["group"], "written"),
    ]  # fmt: skip


async def _reads(ledger: ReplayLedger, tries: int) -> dict[str, float]:
    """Return the median of some reads, in milliseconds."""
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "run_summary": lambda: ledger.run_summary("run-1"),
        "list_runs first page": lambda: ledger.list_runs(limit=20),
        "load_state": lambda: ledger.load_state("run-1", 3),
    }
    found = {}
    for name, call in calls.items():
        took = []
        for _ in range(tries):
            began = time.perf_counter()
            await call()
            took.append((time.perf_counter() - began) * 1_000)
        found[name] = statistics.median(took)
    return found


async def _verified(ledger: ReplayLedger) -> float:
    began = time.perf_counter()
    result = await ledger.verify_ledger(processes=1)
    assert result["valid"], result["errors"]
    return float(result["entries"] / (time.perf_counter() - began))


@contextmanager
def away(path: Path) -> Any:
    """Work in a folder, where the signing key comes to lie."""
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)
