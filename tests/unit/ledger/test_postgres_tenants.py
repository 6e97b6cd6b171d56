"""Row-level security: what the server itself shows to a ledger of one tenant, and to a database role of one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from forgery import look

from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.record import StepRecord
from tests.servers import PostgresServer, in_thread

KINDS = ("postgres",)
MakeRecord = Callable[..., StepRecord]
READABLE = (
    "entries, payloads, keys, runs, run_nodes, run_tools, holds, log, tiles, checkpoints, signers, meshflow_schema"
)
SCOPED = ("entries", "payloads", "keys", "runs", "run_nodes", "run_tools", "holds", "subjects")


@pytest.fixture
async def filled(ledger: ReplayLedger, record: MakeRecord) -> ReplayLedger:
    """Runs of two tenants, one of both, holds, and an index of subjects."""
    for number in range(4):
        await ledger.write(record(number, "acme-run", tool="mail"))
        await ledger.write(record(number, "bolt-run", tenant_id="bolt", input="bolt's secret", tool="fax"))
        await ledger.write(record(number, "shared", tenant_id=("acme", "bolt")[number % 2]))
    await ledger.hold("acme-run", reason="case", authority="counsel", tenant="acme")
    await ledger.hold("bolt-run", reason="case", authority="counsel", tenant="bolt")
    await ledger.erase_subject("nobody")
    return ledger


@pytest.fixture
def role(postgres: PostgresServer, place: str, filled: ReplayLedger) -> Iterator[str]:
    """A database role that sees tenant acme, made as the documentation says."""
    schema = place.partition("schema=")[2]
    postgres.sql(
        f"CREATE ROLE {schema}_reader LOGIN",
        f"INSERT INTO {schema}.tenant_roles VALUES ('{schema}_reader', 'acme')",
        f"GRANT USAGE ON SCHEMA {schema} TO {schema}_reader",
        f"SET search_path = {schema}",
        f"GRANT SELECT ON {READABLE} TO {schema}_reader",
        "SELECT 1",
        database="ledgers",
    )
    yield f"{schema}_reader"
    postgres.sql(f"DROP OWNED BY {schema}_reader", f"DROP ROLE {schema}_reader", "SELECT 1", database="ledgers")


def as_role(place: str, role: str) -> str:
    return place.replace("owner@", f"{role}@")


async def views(ledger: ReplayLedger, tenant: str | None = None) -> dict[str, Any]:
    """What a ledger answers to every kind of question."""
    return {
        "runs": await ledger.list_runs(tenant=tenant),
        "by tool": await ledger.list_runs(tool="fax", tenant=tenant),
        "by node": await ledger.list_runs(node="node-0", tenant=tenant),
        **{f"steps of {run}": await ledger.get_run(run, tenant=tenant) for run in ("acme-run", "bolt-run", "shared")},
        **{f"sum of {run}": await ledger.run_summary(run, tenant=tenant) for run in ("acme-run", "bolt-run", "shared")},
        **{
            f"{run} at {index}": await ledger.load_state(run, index, tenant=tenant)
            for run, index in (("acme-run", 3), ("shared", 0), ("shared", 1), ("shared", -1))
        },
        "holds": await ledger.holds(tenant=tenant),
        "diff": await ledger.diff("acme-run", "shared", tenant=tenant),
        "export": [part async for part in ledger.iter_export("shared", tenant=tenant)][1:],
        "unfinished": await ledger.unfinished(tenant=tenant),
    }


async def test_a_ledger_of_one_tenant_sees_what_the_queries_alone_would_show(
    filled: ReplayLedger, place: str, tmp_path: Path, record: MakeRecord
) -> None:
    async with ReplayLedger(place, tenant="acme") as scoped:
        assert await views(scoped) == await views(filled, "acme")
        assert [step["step_index"] for step in (await views(scoped))["steps of shared"]] == [0, 2]
        assert (await scoped.verify_chain("acme-run"))["valid"]
        assert (await scoped.prove("acme-run", 0))["run_id"] == "acme-run"


async def test_a_ledger_of_one_tenant_has_the_server_hide_the_others(filled: ReplayLedger, place: str) -> None:
    async with ReplayLedger(place, tenant="acme") as scoped:
        database = scoped._store._database  # type: ignore[attr-defined]
        for table in ("entries", "runs", "run_nodes", "run_tools", "holds"):
            rows = await database.fetch(f"SELECT DISTINCT tenant_id FROM {table}", {})
            assert rows == [("acme",)], table
        texts = await database.fetch("SELECT data FROM payloads", {})
        assert texts
        assert not [row for row in texts if b"bolt's" in row[0]]


async def test_a_role_of_one_tenant_reads_its_runs_as_ever(filled: ReplayLedger, place: str, role: str) -> None:
    async with ReplayLedger(as_role(place, role), tenant="acme") as mine:
        assert await views(mine) == await views(filled, "acme")
    async with ReplayLedger(as_role(place, role)) as unnamed:
        assert await unnamed.list_runs() == ["shared", "acme-run"]
        assert await unnamed.get_run("shared") == await filled.get_run("shared", tenant="acme")
        assert await unnamed.get_run("bolt-run") == []


async def test_a_role_of_one_tenant_sees_nothing_of_others_whatever_it_sets(
    filled: ReplayLedger, place: str, role: str
) -> None:
    import asyncpg

    async with ReplayLedger(as_role(place, role), tenant="bolt") as wrong:
        assert await wrong.list_runs() == []
        assert await wrong.get_run("bolt-run") == []

    schema = place.partition("schema=")[2]
    dsn = as_role(place, role).partition("&schema=")[0]
    tries = (
        "SET meshflow.tenant = 'bolt'", "SET meshflow.tenant = ''", "RESET meshflow.tenant", "SET row_security = off",
        "SET session_replication_role = replica", "SET ROLE owner", "SET SESSION AUTHORIZATION owner",
        f"DELETE FROM {schema}.tenant_roles", f"UPDATE {schema}.tenant_roles SET tenant_id = 'bolt'",
        f"ALTER TABLE {schema}.entries DISABLE ROW LEVEL SECURITY",
        f"CREATE OR REPLACE FUNCTION {schema}.ledger_tenant() RETURNS text LANGUAGE sql AS 'SELECT NULL::text'",
        f"CREATE FUNCTION {schema}.peek() RETURNS text LANGUAGE sql AS 'SELECT 1::text'",
        "CREATE TEMP TABLE tenant_roles AS SELECT session_user::text AS role_name, 'bolt' AS tenant_id; "
        "GRANT ALL ON tenant_roles TO PUBLIC",
        "CREATE TEMP TABLE entries AS SELECT 1 AS id",
    )  # fmt: skip

    async def probe() -> None:
        for attempt in tries:
            connection = await asyncpg.connect(dsn)
            try:
                with suppress(asyncpg.PostgresError):
                    await connection.execute(attempt)
                for table in SCOPED:
                    try:
                        found = await connection.fetch(f"SELECT * FROM {schema}.{table}")
                    except asyncpg.InsufficientPrivilegeError:
                        assert table == "subjects" or "row_security" in attempt
                        continue
                    assert "bolt" not in str([row for row in found if row.get("tenant_id") != "acme"]), (attempt, table)
                    assert "bolt" not in str({row.get("tenant_id") for row in found}), (attempt, table)
            finally:
                await connection.close()

    await asyncio.to_thread(in_thread, probe)


async def test_what_a_function_leaks_is_of_the_tenant_alone(place: str, role: str) -> None:
    """A function in a condition is not called with rows that the policy hides."""
    import asyncpg

    schema = place.partition("schema=")[2]

    async def probe() -> list[str]:
        heard: list[str] = []
        connection = await asyncpg.connect(as_role(place, role).partition("&schema=")[0])
        try:
            connection.add_log_listener(lambda _, message: heard.append(message.message))
            await connection.execute(
                "CREATE FUNCTION pg_temp.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS "
                "$$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$"
            )
            await connection.fetch(f"SELECT 1 FROM {schema}.entries WHERE pg_temp.tell(tenant_id)")
            await asyncio.sleep(0.05)
        finally:
            await connection.close()
        return heard

    assert set(await asyncio.to_thread(in_thread, probe)) == {"acme"}


async def test_a_role_of_one_tenant_writes_nothing(place: str, role: str, record: MakeRecord) -> None:
    async with ReplayLedger(as_role(place, role), key=None) as mine:
        with pytest.raises(LedgerError, match="may not do this"):
            await mine.write(record(9, "acme-run"))


async def test_a_role_of_one_tenant_is_told_that_it_cannot_verify(place: str, role: str) -> None:
    async with ReplayLedger(as_role(place, role)) as mine:
        for call in (mine.verify_chain("acme-run"), mine.verify_ledger()):
            with pytest.raises(LedgerError, match="rows of tenant 'acme' alone"):
                await call


async def test_a_connection_that_served_one_tenant_serves_the_whole_again(filled: ReplayLedger, place: str) -> None:
    async with ReplayLedger(f"{place}&pool_size=1", tenant="acme") as scoped:
        for _ in range(3):
            assert await scoped.list_runs() == ["shared", "acme-run"]
            assert (await scoped.verify_chain("shared"))["errors"] == []


async def test_tenants_are_kept_apart_for_whoever_owns_the_tables_too(filled: ReplayLedger, place: str) -> None:
    rows = look(
        place,
        "SELECT relname FROM pg_class WHERE relforcerowsecurity AND relnamespace = current_schema()::regnamespace",
    )
    assert {row[0] for row in rows} == set(SCOPED)
