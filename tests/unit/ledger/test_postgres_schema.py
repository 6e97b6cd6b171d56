"""The schema in PostgreSQL: made once, brought up to date, never newer, append-only; its hot queries use indexes."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest
from forgery import look

from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.ledger.postgres import schema as schemas
from meshflow.ledger.postgres.connection import PostgresCursor
from meshflow.ledger.postgres.tables import INDEXES, MIGRATIONS, TRIGGERS, TYPES
from meshflow.ledger.postgres.translate import translate
from meshflow.ledger.sql.database import WRITTEN
from meshflow.ledger.sqlite.tables import TABLES
from meshflow.record import StepRecord
from tests.servers import PostgresServer

KINDS = ("postgres",)
MakeRecord = Callable[..., StepRecord]
ONLY_HERE = {"meshflow_schema": {"version"}, "tenant_roles": {"role_name", "tenant_id"}, "payloads": {"entry_id"}}


async def test_both_stores_have_the_same_tables_and_columns(ledger: ReplayLedger, place: str) -> None:
    await ledger.open()
    here: dict[str, set[str]] = {}
    for table, column in look(
        place,
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()",
    ):
        here.setdefault(table, set()).add(column)
    db = sqlite3.connect(":memory:")
    db.executescript(TABLES)
    there = {
        table: {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
        for (table,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    }
    db.close()
    alone = {table: columns - ONLY_HERE.get(table, set()) for table, columns in here.items()}
    assert {table: columns for table, columns in alone.items() if columns} == there
    assert {table: len(columns) for table, columns in WRITTEN.items()} == {t: len(c) for t, c in TYPES.items()}


async def test_a_schema_is_made_once_by_many_at_once(place: str, record: MakeRecord) -> None:
    async def one(number: int) -> None:
        async with ReplayLedger(place) as ledger:
            await ledger.write(record(number))

    await asyncio.gather(*(one(number) for number in range(6)))
    async with ReplayLedger(place) as ledger:
        assert len(await ledger.get_run("run-1")) == 6
        assert (await ledger.verify_ledger())["errors"] == []


async def test_reading_makes_no_schema(ledger: ReplayLedger, place: str, postgres: PostgresServer) -> None:
    assert await ledger.list_runs() == []
    assert await ledger.get_run("run-1") == []
    assert await ledger.holds() == []
    assert (await ledger.verify_chain("run-1"))["state"] == "unknown"
    with pytest.raises(LedgerError, match="empty"):
        await ledger.checkpoint()
    name = place.partition("schema=")[2]
    assert postgres.sql(f"SELECT to_regnamespace('{name}') IS NULL", database="ledgers") == [(True,)]


async def test_a_newer_schema_is_refused_by_readers_and_writers(ledger: ReplayLedger, place: str) -> None:
    await ledger.open()
    look(place, f"UPDATE meshflow_schema SET version = {len(MIGRATIONS) + 1}")
    async with ReplayLedger(place) as again:
        for call in (again.open(), again.list_runs(), again.verify_chain("r")):
            with pytest.raises(LedgerError, match="upgrade meshflow"):
                await call


async def test_an_older_schema_is_brought_up_to_date_by_a_read_alone(
    ledger: ReplayLedger, place: str, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.write(record(0))
    monkeypatch.setattr(schemas, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE later (id BIGINT)"))
    async with ReplayLedger(place) as newer:
        assert len(await newer.get_run("run-1")) == 1
    assert look(place, "SELECT count(*) FROM later") == [(0,)]
    assert look(place, "SELECT version FROM meshflow_schema") == [(len(MIGRATIONS) + 1,)]


async def test_a_migration_that_fails_changes_nothing(
    ledger: ReplayLedger, place: str, record: MakeRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.write(record(0))
    broken = "CREATE TABLE later (id BIGINT); CREATE TABLE entries (in_the_way BIGINT)"
    monkeypatch.setattr(schemas, "MIGRATIONS", (*MIGRATIONS, broken))
    async with ReplayLedger(place) as newer:
        with pytest.raises(LedgerError, match="entries"):
            await newer.write(record(1))
    assert look(place, "SELECT version, to_regclass('later') IS NULL FROM meshflow_schema") == [(len(MIGRATIONS), True)]
    assert (await ledger.write(record(1))).seq == 1


async def test_a_schema_of_somebody_elses_is_left_alone(place: str, postgres: PostgresServer) -> None:
    name = place.partition("schema=")[2]
    postgres.sql(
        f"CREATE SCHEMA {name} AUTHORIZATION owner", f"CREATE TABLE {name}.entries (x int)", "SELECT 1",
        database="ledgers",
    )  # fmt: skip
    async with ReplayLedger(place) as ledger:
        with pytest.raises(LedgerError, match="not a meshflow ledger"):
            await ledger.open()
    assert postgres.sql(f"SELECT count(*) FROM {name}.entries", database="ledgers") == [(0,)]


@pytest.mark.parametrize(
    "statement",
    [
        *(f"DELETE FROM {table}" for table in ("entries", "runs", "run_nodes", "run_tools", "log", "checkpoints",
                                               "signers", "holds", "payloads")),
        *(f"TRUNCATE {table} CASCADE" for table in ("entries", "payloads", "checkpoints")),
        "UPDATE entries SET tokens = 0", "UPDATE runs SET run_id = 'x'", "UPDATE run_nodes SET node_id = 'x'",
        "UPDATE run_tools SET tool = 'x'", "UPDATE log SET size = 0", "UPDATE log SET origin = 'x'",
        "UPDATE checkpoints SET at_us = 0", "UPDATE signers SET since_size = 9", "UPDATE holds SET reason = 'x'",
        "UPDATE payloads SET salt = salt",
    ],
)  # fmt: skip
async def test_the_tables_are_append_only_for_their_owner(
    ledger: ReplayLedger, place: str, record: MakeRecord, postgres: PostgresServer, statement: str
) -> None:
    import asyncpg

    await ledger.write(record(0, tool="mail"))
    await ledger.hold("run-1", reason="r", authority="a")
    name = place.partition("schema=")[2]
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        postgres.sql(f"SET search_path = {name}", statement, "SELECT 1", database="ledgers", user="owner")
    assert (await ledger.verify_ledger())["errors"] == []


async def test_health_finds_what_no_longer_protects_the_tables(
    ledger: ReplayLedger, place: str, record: MakeRecord
) -> None:
    await ledger.write(record(0))
    found = {one.check: one for one in await ledger.health()}
    assert {found[name].level for name in ("schema", "append_only", "row_security")} == {"ok"}
    assert (found["durability"].level, "fsync=off" in found["durability"].found) == ("error", True)
    look(place, "ALTER TABLE entries DISABLE TRIGGER entries_update")
    look(place, "DROP TRIGGER payloads_delete ON payloads")
    look(place, "ALTER TABLE runs NO FORCE ROW LEVEL SECURITY")
    found = {one.check: one for one in await ledger.health()}
    assert "entries_update, payloads_delete" in found["append_only"].found
    assert "runs" in found["row_security"].found
    assert {found[name].level for name in ("append_only", "row_security")} == {"error"}


async def test_verification_finds_indexes_that_are_not_those_of_the_schema(
    ledger: ReplayLedger, place: str, record: MakeRecord
) -> None:
    await ledger.write(record(0))
    look(place, "DROP INDEX entries_key")
    look(place, "CREATE INDEX entries_key ON entries (run_id)")
    look(place, "DROP INDEX payloads_entry")
    look(place, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'entries_place'::regclass")
    result = await ledger.verify_ledger()
    assert [finding["layer"] for finding in result["findings"]] == ["storage"] * 3
    assert all(name in str(result["errors"]) for name in ("entries_key", "payloads_entry", "entries_place"))


def test_every_index_and_trigger_of_the_schema_is_known_by_name() -> None:
    made = set(re.findall(r"CREATE (?:UNIQUE )?INDEX (\w+)", MIGRATIONS[0]))
    assert made == {name for name in INDEXES if not name.endswith("_pkey")}
    assert len(TRIGGERS) == MIGRATIONS[0].count("CREATE TRIGGER")


def test_statements_are_translated() -> None:
    for sql, text, names in (
        ("SELECT ? , '?' , ':a'", "SELECT $1 , '?' , ':a'", ()),
        ("a = :run AND (:tenant IS NULL OR b = :tenant)", "a = $1 AND ($2::text IS NULL OR b = $2)", ("run", "tenant")),
        ("FROM entries e INDEXED BY entries_key JOIN", "FROM entries e JOIN", ()),
        ("?::bigint[]", "$1::bigint[]", ()),
        ("p.id BETWEEN e.id * 16 AND e.id * 16 + 15", "p.entry_id = e.id", ()),
        ("p.id = e.id * 16 + 1", "p.entry_id = e.id AND p.id % 16 = 1", ()),
    ):
        assert translate(sql)[:2] == (text, names)


async def test_what_is_rolled_back_hides_no_error_behind_its_own(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record(0))
    store = ledger._store
    first = "INSERT INTO checkpoints VALUES (1, ?, 0, '')"

    def work(connection: Any) -> None:
        connection.execute(first, (b"a second one of that size",))  # which is only held back, and would be refused
        raise LedgerError("the reason")

    with pytest.raises(LedgerError, match="the reason"):
        await store._run(lambda: store._appender.transact(work))  # type: ignore[attr-defined]
    assert (await ledger.write(record(1))).seq == 1
    assert (await ledger.verify_ledger())["errors"] == []


@pytest.mark.slow
@pytest.mark.parametrize("analyzed", [False, True], ids=["a young table", "an analysed table"])
@pytest.mark.parametrize("tenant", [None, "acme"])
async def test_hot_queries_read_no_table_from_end_to_end(
    place: str, record: MakeRecord, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, tenant: str | None,
    analyzed: bool,
) -> None:  # fmt: skip
    async with ReplayLedger(place, key=None) as ledger:
        for start in range(0, 12_000, 1_000):
            await asyncio.gather(*(
                ledger.write(record(n, f"run-{n % 40}" if n % 2 else "long", tool="mail"))
                for n in range(start, start + 1_000)
            ))  # fmt: skip
        name = place.partition("schema=")[2]
        if analyzed:
            postgres.sql(f"SET search_path = {name}", "ANALYZE", "SELECT 1", database="ledgers", user="owner")
    scans: list[str] = []
    fetch_all, fetch_many = PostgresCursor._all, PostgresCursor.fetchmany

    def explained(cursor: PostgresCursor) -> None:
        if cursor._rows is None and cursor._portal is None and cursor._statement.text.startswith(("SELECT", "WITH")):
            raw = cursor._raw
            rows = cursor._connection.run(raw.fetch(f"EXPLAIN {cursor._statement.text}", *cursor._values))
            plan = "\n".join(row[0] for row in rows)
            if "count(*)" not in plan + cursor._statement.text and re.search(
                r"Seq Scan on (entries|payloads|runs|run_nodes|run_tools|tiles|checkpoints)\b", plan
            ):
                scans.append(f"{cursor._statement.text}\n{plan}")

    def _all(cursor: PostgresCursor) -> Any:
        explained(cursor)
        return fetch_all(cursor)

    def fetchmany(cursor: PostgresCursor, size: int) -> Any:
        explained(cursor)
        return fetch_many(cursor, size)

    monkeypatch.setattr(PostgresCursor, "_all", _all)
    monkeypatch.setattr(PostgresCursor, "fetchmany", fetchmany)
    async with ReplayLedger(place, key=None, tenant=tenant) as ledger:
        assert len(await ledger.list_runs(limit=10)) == 10
        assert len(await ledger.list_runs(limit=10, tool="mail", node="node-1", verdict="commit")) == 10
        assert (await ledger.run_summary("long"))["steps"] == 6_000
        assert (await ledger.load_state("long", 3_000))["step_index"] == 3_000
        assert (await ledger.load_state("long", -1))["step_index"] == 5_999
        assert len(await ledger.get_run("long")) == 6_000
        assert await ledger.pending_approvals() == []
        assert await ledger.unfinished("long") == []
        assert await ledger.prove("long", 10) if False else True
        await ledger.diff("long", "run-1")
        await ledger.export_run("run-1")
        await ledger.write(record(99_999, "long"))
        if tenant is None:
            assert (await ledger.verify_ledger(layers=["chain", "commitments"], processes=1))["valid"]
    assert scans == []
