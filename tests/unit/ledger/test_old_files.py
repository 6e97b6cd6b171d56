"""Files that older versions of this code wrote, as they wrote them, go on as ledgers of today.

Each holds the same history, as far as its version could: ``run-1`` is closed and its inputs are erased, ``run-2`` was
approved, ``run-3`` is another tenant's and under hold, ``run-4`` is a fork. The keys that signed two of them sign
nothing else.
"""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.ledger.bundle import verify_bundle
from meshflow.ledger.sqlite.tables import SCHEMA_VERSION
from meshflow.record import StepRecord

MakeRecord = Callable[..., StepRecord]
FILES = Path(__file__).parent / "old_files"
NAMES = ("schema-1", "schema-2-early", "schema-2", "schema-3")


def unpack(name: str, folder: Path) -> Path:
    path = folder / "runs.db"
    path.write_bytes(gzip.decompress((FILES / f"{name}.db.gz").read_bytes()))
    if (key := FILES / f"{name}.key").exists():
        kept = folder / "runs.db.key"
        kept.write_bytes(key.read_bytes())
        kept.chmod(0o600)
    return path


def schema(path: Path) -> set[tuple[str, ...]]:
    """What a file is made of; a column that was added stands otherwise in the text of its table."""
    with closing(sqlite3.connect(path)) as db:
        found = db.execute("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite%'").fetchall()
        made = {(kind, name, text) for kind, name, text in found if kind != "table"}
        for table in (name for kind, name, _ in found if kind == "table"):
            made |= {(table, *map(str, row)) for row in db.execute(f"PRAGMA table_info({table})")}
        return made | {("version", str(db.execute("PRAGMA user_version").fetchone()[0]))}


@pytest.mark.parametrize("name", NAMES)
async def test_an_old_file_is_read_verified_written_erased_and_handed_on(
    name: str, tmp_path: Path, record: MakeRecord
) -> None:
    path = unpack(name, tmp_path)
    old = {f"run-{number}" for number in range(1, 5 if (FILES / f"{name}.key").exists() else 4)}
    async with ReplayLedger(path) as ledger:
        assert set(await ledger.list_runs()) == old
        for run in old:  # a read alone upgrades
            assert (await ledger.verify_chain(run))["errors"] == []
        steps = await ledger.get_run("run-1")
        assert [step["step_index"] for step in steps] == [0, 1, 2, 3]
        assert [step["input_task"] for step in steps] == [None] * 4
        assert steps[0]["output_content"] == {"answer": 19.99}
        assert (await ledger.run_summary("run-1"))["total_cost_micro_usd"] == 6_000
        assert await ledger.list_runs(tool="mail", verdict="escalate") == ["run-2"]
        hashes = {run: [step["entry_hash"] for step in await ledger.get_run(run)] for run in old}
        await ledger.write(record(1, run_id="run-2"))
        await ledger.write(record(0, run_id="new"))
        await ledger.fork("run-2", 1, new_run_id="fork-of-old")
        assert len(await ledger.get_run("fork-of-old")) == 1
        assert (await ledger.erase_subject("agent-7", tenant="acme"))["runs"].keys() == {"run-1", "run-2", "new"} | (
            old & {"run-4"}
        )
        for run in (*old, "new", "fork-of-old"):
            assert (await ledger.verify_chain(run))["errors"] == []
        for run, before in hashes.items():
            assert [step["entry_hash"] for step in await ledger.get_run(run)][: len(before)] == before
        whole = await ledger.verify_ledger()
        assert (whole["valid"], whole["errors"]) == (True, [])
        await ledger.export_bundle(tmp_path / "all.jsonl", None)
        assert verify_bundle(tmp_path / "all.jsonl", await ledger.verifiers())["valid"]
    fresh = tmp_path / "fresh.db"
    async with ReplayLedger(fresh) as ledger:
        await ledger.open()
    assert schema(path) == schema(fresh)


@pytest.mark.parametrize("name", NAMES)
async def test_an_old_file_of_a_tampered_run_is_not_made_good_by_an_upgrade(name: str, tmp_path: Path) -> None:
    path = unpack(name, tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TRIGGER entries_update")
        db.execute("UPDATE entries SET body = replace(CAST(body AS TEXT), '1500', '9999') WHERE run_id = 'run-2'")
        db.commit()
    async with ReplayLedger(path) as ledger:
        assert not (await ledger.verify_chain("run-2"))["valid"]
        assert (await ledger.verify_chain("run-1"))["errors"] == []


@pytest.mark.parametrize("name", NAMES)
async def test_a_file_of_a_future_schema_is_refused_and_left_as_it_is(
    name: str, tmp_path: Path, record: MakeRecord
) -> None:
    path = unpack(name, tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 7}")
    before = path.read_bytes()
    async with ReplayLedger(path) as ledger:
        with pytest.raises(LedgerError, match=f"schema {SCHEMA_VERSION + 7}.*upgrade meshflow"):
            await ledger.get_run("run-1")
        with pytest.raises(LedgerError, match="upgrade meshflow"):
            await ledger.write(record())
    assert path.read_bytes() == before
