"""Ledgers of an older schema, and runs that inherit from others."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshflow.errors import LedgerConflictError, LedgerError
from meshflow.ledger import Intent, ReplayLedger
from meshflow.ledger.sql.log import load_log, recall_from
from meshflow.ledger.sqlite.tables import SCHEMA_VERSION
from meshflow.record import StepRecord, Verdict

MakeRecord = Callable[..., StepRecord]

VERSION_1 = """
CREATE TABLE entries (
  id INTEGER PRIMARY KEY,  -- place in the ledger, from 1 without gaps
  run_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  kind TEXT NOT NULL,
  step_id TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  tenant_id TEXT NOT NULL,
  node_id TEXT,
  verdict TEXT,
  code TEXT,
  cost_micro_usd INTEGER NOT NULL,
  tokens INTEGER NOT NULL,
  started_us INTEGER NOT NULL,
  duration_ns INTEGER NOT NULL,
  approval_id TEXT,
  prev_hash BLOB NOT NULL,
  entry_hash BLOB NOT NULL,
  body BLOB NOT NULL
);
CREATE UNIQUE INDEX entries_place ON entries (run_id, seq);
CREATE UNIQUE INDEX entries_key ON entries (run_id, step_id, attempt, kind);
CREATE INDEX entries_approval ON entries (approval_id) WHERE approval_id IS NOT NULL;
CREATE INDEX entries_close ON entries (run_id) WHERE kind = 'close';
CREATE INDEX entries_erasure ON entries (run_id) WHERE kind = 'erasure';
CREATE TABLE payloads (
  id INTEGER PRIMARY KEY,  -- the entry's id times 16, plus the field's number
  salt BLOB NOT NULL,
  data BLOB NOT NULL
);
CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  first_seq INTEGER NOT NULL  -- the tenant's first entry in the run; 0 for whoever began it
);
CREATE UNIQUE INDEX runs_key ON runs (run_id, tenant_id);
CREATE INDEX runs_tenant ON runs (tenant_id, id);
CREATE TRIGGER entries_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER entries_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER runs_update BEFORE UPDATE ON runs BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER runs_delete BEFORE DELETE ON runs BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER payloads_update BEFORE UPDATE ON payloads BEGIN SELECT RAISE(ABORT, 'payloads never change'); END;
CREATE TRIGGER payloads_delete BEFORE DELETE ON payloads
WHEN NOT EXISTS (
  SELECT 1 FROM entries mine JOIN entries other ON other.run_id = mine.run_id
  WHERE mine.id = OLD.id / 16 AND other.kind = 'erasure'
)
BEGIN SELECT RAISE(ABORT, 'a payload goes only with an erasure entry'); END;
"""
KEPT = "run_id, seq, kind, step_id, attempt, tenant_id, node_id, verdict, code, cost_micro_usd, tokens, started_us, "
KEPT += "duration_ns, approval_id, prev_hash, entry_hash, body"


def as_version_1(path: Path, old: Path) -> None:
    """Copy a ledger into the tables that version 1 had."""
    db = sqlite3.connect(old)
    db.executescript(VERSION_1)
    db.execute("ATTACH ? AS new", (str(path),))
    db.execute(f"INSERT INTO entries SELECT id, {KEPT} FROM new.entries")
    db.execute("INSERT INTO payloads SELECT id, salt, data FROM new.payloads")
    db.execute("INSERT INTO runs SELECT id, run_id, tenant_id, first_seq FROM new.runs")
    db.execute("PRAGMA application_id = 1296452679")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.execute("DETACH new")
    db.execute("PRAGMA journal_mode = WAL")
    db.close()


def dump(path: Path) -> dict[str, list[Any]]:
    db = sqlite3.connect(path)
    tables = ("entries", "payloads", "runs", "run_nodes", "run_tools", "tiles")
    found = {table: db.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall() for table in tables}
    found["log"] = db.execute("SELECT size, frontier FROM log").fetchall()
    found["objects"] = db.execute(
        "SELECT type, name, tbl_name FROM sqlite_schema WHERE name NOT LIKE 'sqlite%' ORDER BY 1, 2"
    ).fetchall()
    found["version"] = db.execute("PRAGMA user_version").fetchall()
    db.close()
    return found


async def fill(ledger: ReplayLedger, record: MakeRecord) -> None:
    for number in range(600):
        await asyncio.gather(
            ledger.write_intent(Intent(run_id="run-1", step_id=f"step-{number}", node_id="n", tenant_id="acme")),
            ledger.write(record(number, verdict=Verdict.REJECT if number % 5 == 0 else Verdict.COMMIT, tool="mail")),
            ledger.write(record(number, run_id=f"many-{number % 50}", tenant_id=("bolt", "acme")[number % 2])),
        )
    await ledger.erase_payloads("run-1", fields=["input"], reason="request", authority="dpo")
    await ledger.close_run("run-1")


async def test_a_ledger_of_version_1_is_brought_up_to_date(
    ledger: ReplayLedger, record: MakeRecord, path: Path
) -> None:
    await fill(ledger, record)
    await ledger.aclose()
    old = path.with_name("old.db")
    as_version_1(path, old)
    async with ReplayLedger(old) as migrated:
        steps = await migrated.get_run("run-1")  # a read alone migrates
        assert [step["step_index"] for step in steps] == list(range(600))
        assert dump(old) == dump(path)
        await migrated.write(record(1_000, run_id="run-9"))
        for run in ("run-1", "many-3", "run-9"):
            result = await migrated.verify_chain(run)
            assert (result["valid"], result["errors"]) == (True, [])


async def test_a_ledger_of_version_2_is_given_its_index_of_tools(
    ledger: ReplayLedger, record: MakeRecord, path: Path
) -> None:
    await fill(ledger, record)
    await ledger.aclose()
    wanted = dump(path)
    db = sqlite3.connect(path)
    for table in ("run_tools", "receipts", "anchor_failures"):
        db.execute(f"DROP TABLE {table}")
    db.execute("PRAGMA user_version = 2")
    db.close()
    async with ReplayLedger(path) as migrated:
        assert await migrated.list_runs(tool="mail") == ["run-1"]  # a read alone migrates
        assert await migrated.list_runs(tool="fax") == []
    assert dump(path) == wanted


async def test_a_ledger_of_version_3_is_given_a_place_for_what_anchors_give_back(
    ledger: ReplayLedger, record: MakeRecord, path: Path
) -> None:
    await fill(ledger, record)
    await ledger.aclose()
    wanted = dump(path)
    db = sqlite3.connect(path)
    for table in ("receipts", "anchor_failures"):
        db.execute(f"DROP TABLE {table}")
    db.execute("PRAGMA user_version = 3")
    db.close()
    async with ReplayLedger(path) as migrated:
        assert await migrated.receipts() == []  # a read alone migrates
    assert dump(path) == wanted


async def test_a_migration_that_fails_changes_nothing(ledger: ReplayLedger, record: MakeRecord, path: Path) -> None:
    await ledger.write(record(0))
    await ledger.aclose()
    old = path.with_name("old.db")
    as_version_1(path, old)
    db = sqlite3.connect(old)
    db.execute("CREATE TABLE tiles (in_the_way)")
    db.commit()
    db.close()
    async with ReplayLedger(old) as migrated:
        with pytest.raises(LedgerError):
            await migrated.write(record(1))
    db = sqlite3.connect(old)
    assert db.execute("PRAGMA user_version").fetchone() == (1,)
    assert db.execute("SELECT count(*) FROM entries").fetchone() == (1,)
    assert db.execute("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'").fetchone() == (6,)
    db.close()


async def test_a_newer_schema_is_refused_by_readers_and_writers(ledger: ReplayLedger, path: Path) -> None:
    await ledger.open()
    await ledger.aclose()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    async with ReplayLedger(path) as again:
        for call in (again.open(), again.list_runs(), again.verify_chain("r")):
            with pytest.raises(LedgerError, match="upgrade meshflow"):
                await call


async def test_step_indexes_count_steps_alone(ledger: ReplayLedger, record: MakeRecord) -> None:
    for number in range(3):
        await ledger.write_intent(Intent(run_id="run-1", step_id=f"step-{number}", node_id="n"))
        written = await ledger.write(record(number))
        assert (written.seq, written.step_index, written.position) == (2 * number + 1, number, 2 * number + 1)
        assert (await ledger.write(record(number))).step_index == number
    assert (await ledger.load_state("run-1", 2))["step_index"] == 2
    assert (await ledger.load_state("run-1", -3))["step_index"] == 0


async def fork(ledger: ReplayLedger, run_id: str, parent: str, steps: int, tenant: str | None = None) -> Any:
    return await ledger._store.fork_run(run_id, parent, steps, tenant, 5, {"note": "what if"})


async def ids(ledger: ReplayLedger, run_id: str, **more: Any) -> list[str]:
    return [step["step_id"] for step in await ledger.get_run(run_id, **more)]


async def test_a_fork_inherits_steps_by_reference(ledger: ReplayLedger, record: MakeRecord) -> None:
    for number in range(5):
        await ledger.write(record(number, cost_micro_usd=10))
    await fork(ledger, "child", "run-1", 3)
    await ledger.write(record(10, run_id="child", cost_micro_usd=7))
    await ledger.write(record(5))
    await fork(ledger, "grandchild", "child", 4)
    await ledger.write(record(20, run_id="grandchild"))
    await fork(ledger, "shallow", "grandchild", 2)
    inherited = ["step-0", "step-1", "step-2"]
    assert await ids(ledger, "child") == [*inherited, "step-10"]
    assert await ids(ledger, "grandchild") == [*inherited, "step-10", "step-20"]
    assert await ids(ledger, "shallow") == ["step-0", "step-1"]
    for run in ("run-1", "child", "grandchild", "shallow"):
        steps = await ledger.get_run(run)
        for place, step in enumerate(steps):
            assert step["step_index"] == place
            state = await ledger.load_state(run, place)
            assert state.items() >= step.items()
            assert await ledger.load_state(run, place - len(steps)) == state
        result = await ledger.verify_chain(run)
        assert (result["valid"], result["errors"]) == (True, [])
        with pytest.raises(LedgerError, match="no step"):
            await ledger.load_state(run, len(steps))
        with pytest.raises(LedgerError, match="no step"):
            await ledger.load_state(run, -len(steps) - 1)
    summary = await ledger.run_summary("child")
    assert (summary["steps"], summary["total_cost_micro_usd"], summary["nodes"]) == (1, 7, ["node-1"])


async def test_a_fork_needs_a_parent_with_those_steps_and_a_name_of_its_own(
    ledger: ReplayLedger, record: MakeRecord
) -> None:
    await ledger.write(record(0))
    await ledger.write(record(0, run_id="taken"))
    for parent, steps in (("run-1", 2), ("run-1", -1), ("nobody", 0)):
        with pytest.raises(LedgerError):
            await fork(ledger, "child", parent, steps)
    with pytest.raises(LedgerConflictError, match="begun already"):
        await fork(ledger, "taken", "run-1", 1)
    with pytest.raises(LedgerError, match="no run"):
        await fork(ledger, "child", "run-1", 1, tenant="bolt")
    assert await ledger.list_runs() == ["taken", "run-1"]


async def test_a_fork_made_twice_is_one_and_its_parents_may_be_closed(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record(0))
    await ledger.close_run("run-1")
    first = await fork(ledger, "child", "run-1", 1)
    assert (await fork(ledger, "child", "run-1", 1)).entry_hash == first.entry_hash
    with pytest.raises(LedgerConflictError):
        await fork(ledger, "child", "run-1", 0)
    assert (await ledger.verify_chain("child"))["valid"]


async def test_a_fork_of_no_steps_begins_empty(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record(0))
    await fork(ledger, "child", "run-1", 0)
    assert await ids(ledger, "child") == []
    assert (await ledger.write(record(9, run_id="child"))).step_index == 0
    assert (await ledger.verify_chain("child"))["errors"] == []


async def test_tampering_with_what_a_fork_inherits_is_found_in_the_fork(
    ledger: ReplayLedger, record: MakeRecord, path: Path
) -> None:
    for number in range(3):
        await ledger.write(record(number))
    await fork(ledger, "child", "run-1", 2)
    db = sqlite3.connect(path)
    db.execute("DROP TRIGGER entries_update")
    db.execute("UPDATE entries SET tokens = 0 WHERE run_id = 'run-1' AND step_index = 1")
    db.commit()
    db.close()
    result = await ledger.verify_chain("child")
    assert result["errors"] == [
        "run 'run-1', which it inherits from: entry 1 (step 'step-1'): column tokens does not say what the body says"
    ]


async def test_totals_are_the_same_whoever_wrote(ledger: ReplayLedger, record: MakeRecord, path: Path) -> None:
    async with ReplayLedger(path) as other:
        for number in range(40):
            verdict = list(Verdict)[number % 2]
            await (ledger, other)[number % 2].write(record(number, verdict=verdict, started_us=100_000 - number))
    summary = await ledger.run_summary("run-1")
    assert (summary["steps"], summary["total_tokens"], summary["blocked_steps"]) == (40, 480, 20)
    assert summary["nodes"] == ["node-0", "node-1", "node-2"]
    assert summary["timestamps"]["start"] == "1970-01-01T00:00:00.099961Z"
    assert (await ledger.verify_chain("run-1"))["errors"] == []


async def test_the_log_holds_every_entry(ledger: ReplayLedger, record: MakeRecord, path: Path) -> None:
    await asyncio.gather(*(ledger.write(record(number)) for number in range(600)))
    db = sqlite3.connect(path)
    _, log = load_log(db)
    hashes = [row[0] for row in db.execute("SELECT entry_hash FROM entries ORDER BY id")]
    assert log.size == len(hashes) == 600
    assert [row[:2] for row in db.execute("SELECT level, position FROM tiles")] == [(0, 0), (0, 1)]
    assert len(recall_from(db)(0, 512, 768)) == 88
    db.close()
