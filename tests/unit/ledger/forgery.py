"""What somebody who owns the database can do, with and without the signing key."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from meshflow.clock import ManualClock
from meshflow.ledger import Intent, ReplayLedger
from meshflow.ledger.format.chain import entry_hash, genesis_hash
from meshflow.ledger.format.checkpoints import Checkpoint
from meshflow.ledger.format.entry import COLUMNS, columns_of
from meshflow.ledger.format.notes import Signer
from meshflow.ledger.postgres.address import Address
from meshflow.ledger.sql.log import build_log, load_log
from meshflow.ledger.sqlite.migrate import sum_runs
from tests.servers import in_thread

Attack = Callable[["Forger"], object]


class Entry(NamedTuple):
    """An entry of a run; one that is missing has no step."""

    run_id: str
    seq: int
    step_id: str | None


class Run(NamedTuple):
    """A run of which no single entry can be named."""

    run_id: str


class Place(NamedTuple):
    """A place in the ledger whose entry is gone, or a range of places that has it."""

    number: int


Where = Entry | Run | Place | str
"""What a verifier must name; a text, where it is neither: a checkpoint, a tile, an index."""
_PLACES = re.compile(r"places? (\d+)(?: to (\d+))?")


def assert_found(result: dict[str, Any], layer: str, where: Where) -> None:
    """A tampering is found, at its layer, and named."""
    assert not result["valid"]
    assert len(result["errors"]) == len(result["findings"])
    found = [finding for finding in result["findings"] if finding["layer"] == layer]
    if isinstance(where, Entry):
        named = {(one["run_id"], one["seq"], one["step_id"]) for one in found}
        assert where in named, result["findings"]
    elif isinstance(where, Run):
        assert where.run_id in {one["run_id"] for one in found}, result["findings"]
    elif isinstance(where, Place):
        spans = [match.groups() for one in found for match in _PLACES.finditer(one["problem"])]
        assert any(int(first) <= where.number <= int(last or first) for first, last in spans), result["findings"]
    else:
        assert any(where in one["problem"] for one in found), result["findings"]


def look(place: str | Path, *statements: str) -> list[Any]:
    """Run statements past the ledger, as somebody whom no trigger stops; return the rows of the last one."""
    if "://" not in str(place):
        db = sqlite3.connect(place, isolation_level=None)
        try:
            return [db.execute(statement).fetchall() for statement in statements][-1]
        finally:
            db.close()
    import asyncpg

    async def work() -> list[Any]:
        address = Address(str(place).replace("owner@", "postgres@"))
        settings = {"search_path": address.schema, "session_replication_role": "replica"}
        connection = await asyncpg.connect(address.dsn, server_settings=settings)
        try:
            return [[tuple(row) for row in await connection.fetch(statement)] for statement in statements][-1]
        finally:
            await connection.close()

    return in_thread(work)


class Forger:
    """A copy of a ledger without its triggers, and the tools of its attacker."""

    def __init__(self, path: Path, key: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.key = key
        for (name,) in self.db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            self.db.execute(f"DROP TRIGGER {name}")

    def run(self, *statements: str) -> None:
        for statement in statements:
            assert self.db.execute(statement).rowcount != 0, statement

    def one(self, query: str, *values: Any) -> Any:
        return self.db.execute(query, values).fetchone()[0]

    def rewrite(self, run_id: str, seq: int, **changes: Any) -> None:
        """Edit the body of an entry and whatever of the run hangs on it: columns, hashes, links."""
        body = orjson.loads(self.one("SELECT body FROM entries WHERE run_id = ? AND seq = ?", run_id, seq)) | changes
        self.put(run_id, seq, orjson.dumps(body, option=orjson.OPT_SORT_KEYS))
        self.relink(run_id)

    def put(self, run_id: str, seq: int, body: bytes) -> None:
        names = ", ".join(f"{name} = ?" for name in COLUMNS)
        self.db.execute(
            f"UPDATE entries SET {names}, body = ? WHERE run_id = ? AND seq = ?",
            (*columns_of(orjson.loads(body)), body, run_id, seq),
        )

    def relink(self, run_id: str) -> None:
        previous = genesis_hash(run_id)
        rows = self.db.execute("SELECT id, body FROM entries WHERE run_id = ? ORDER BY seq", (run_id,)).fetchall()
        for seq, (entry_id, body) in enumerate(rows):
            digest = entry_hash(run_id, seq, previous, body)
            self.db.execute(
                "UPDATE entries SET prev_hash = ?, entry_hash = ? WHERE id = ?", (previous, digest, entry_id)
            )
            previous = digest

    def reindex(self) -> None:
        """Make the index of runs say what the entries say."""
        parents = self.db.execute(
            "SELECT run_id, parent_run_id, parent_steps FROM runs WHERE parent_steps > 0"
        ).fetchall()
        for table in ("runs", "run_nodes", "run_tools"):
            self.db.execute(f"DELETE FROM {table}")
        self.sum_up()
        for run_id, parent, steps in parents:
            self.db.execute(
                "UPDATE runs SET parent_run_id = ?, parent_steps = ? WHERE run_id = ?", (parent, steps, run_id)
            )

    def sum_up(self) -> None:
        self.db.execute(
            "CREATE VIEW runs_1 AS SELECT min(id) id, run_id, tenant_id, min(seq) first_seq FROM entries GROUP BY 2, 3"
        )
        sum_runs(self.db)
        self.db.execute("DROP VIEW runs_1")

    def close_gaps(self) -> None:
        """Number the entries anew, and their payloads."""
        ids = [row[0] for row in self.db.execute("SELECT id FROM entries ORDER BY id")]
        for new, old in enumerate(ids, 1):
            if new != old:
                self.db.execute("UPDATE entries SET id = ? WHERE id = ?", (new, old))
                self.db.execute("UPDATE payloads SET id = id - ? WHERE id / 16 = ?", ((old - new) * 16, old))

    def rebuild_log(self) -> None:
        """Make the tree anew from the entries; the checkpoints stay as they were."""
        self.db.execute("DELETE FROM tiles")
        self.db.execute("UPDATE log SET size = 0, frontier = x''")
        build_log(self.db)

    def forget_checkpoints(self) -> None:
        """Delete what says otherwise."""
        self.db.execute("DELETE FROM checkpoints")

    def resign(self, signer: Signer) -> None:
        """Sign the log as it is, in place of all that was signed."""
        origin, log = load_log(self.db)
        self.db.execute("DELETE FROM checkpoints")
        checkpoint = Checkpoint(origin, log.size, log.frontier.root())
        self.db.execute(
            "INSERT INTO checkpoints VALUES (?, ?, 0, ?)", (log.size, checkpoint.root, checkpoint.sign(signer))
        )

    def stolen_key(self) -> Signer:
        return Signer.parse(self.key.read_text())

    def everything_again(self, signer: Signer | None = None) -> None:
        """Cover up: indexes, log, and checkpoints under the stolen key or another one."""
        self.reindex()
        self.rebuild_log()
        self.resign(signer or self.stolen_key())

    def drop_entries(self, condition: str) -> None:
        self.run(f"DELETE FROM payloads WHERE id / 16 IN (SELECT id FROM entries WHERE {condition})")
        self.run(f"DELETE FROM entries WHERE {condition}")


async def write_ledger(path: str | Path) -> dict[str, str]:
    """Fill a ledger with what honest ledgers have; return checkpoints that an auditor kept on the way."""
    held = {}
    async with ReplayLedger(path, clock=ManualClock()) as ledger:

        def step(run: str, number: int, **more: Any) -> dict[str, Any]:
            return {
                "run_id": run, "node_id": f"n{number % 3}", "step_id": f"s{number}", "tenant_id": "acme",
                "cost_usd": 0.0015, "tokens": 12, "input_task": f"q{number}", "output_content": "a",
                "tool": "mail" if number % 3 == 0 else None,
            } | more  # fmt: skip

        for number in range(8):
            await ledger.write(step("run-1", number))
        held["early"] = await ledger.checkpoint()
        await asyncio.gather(*(ledger.write(step(f"many-{n % 40}", n)) for n in range(480)))
        await ledger.write_intent(Intent(run_id="run-2", step_id="s9", node_id="n", tenant_id="acme"))
        for number in range(9, 15):
            await ledger.write(step("run-2", number, blocked=number == 10))
        await ledger._store.fork_run("fork", "run-1", 4, None, 7)
        await ledger.write(step("fork", 90))
        await ledger.erase_payloads("many-3", fields=["input"], reason="request", authority="dpo")
        held["old key"] = await ledger.checkpoint()
        await ledger.rotate_key()
        await ledger.close_run("run-1")
        await asyncio.gather(*(ledger.write(step(f"late-{n % 5}", n, tenant_id="bolt")) for n in range(60)))
        await ledger.write(step("run-2", 15))
        held["late"] = await ledger.checkpoint()
        held["keys"] = "\n".join(await ledger.verifiers())
    return held
