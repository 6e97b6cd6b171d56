"""Making a ledger's schema in PostgreSQL, bringing an old one up to date, and refusing a newer one."""

from __future__ import annotations

from meshflow.errors import LedgerError
from meshflow.ledger.format.findings import Finding
from meshflow.ledger.postgres.connection import PostgresConnection
from meshflow.ledger.postgres.tables import INDEXES, MIGRATIONS
from meshflow.ledger.sql.database import Connection, EmptyLedgerError, OldSchemaError
from meshflow.ledger.sql.log import create_log, new_origin

_DURABLE = ("on", "remote_apply")
_VERSION_TABLE = "meshflow_schema"
# Read from the catalogue itself: names that a session did not find before, it may still not find.
_RELATIONS = "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ?"
_LOCK = 0x4D46_4C47  # "MFLG"


def check_server(connection: PostgresConnection, name: str) -> None:
    """Refuse a server that takes no writes, or that would acknowledge what it may lose."""
    read_only = connection.execute("SELECT current_setting('transaction_read_only') = 'on'").fetchone()[0]
    if read_only:
        raise LedgerError(
            f"ledger {name}: the server takes no writes, as a standby does not; name the primary, or all hosts and "
            "target_session_attrs=read-write"
        )
    synchronous = connection.execute("SELECT current_setting('synchronous_commit')").fetchone()[0]
    if synchronous not in _DURABLE:
        raise LedgerError(
            f"ledger {name}: synchronous_commit is {synchronous}, so the server would acknowledge what it can still "
            f"lose; set it to on for this database or user, or take it out of the URL"
        )


def prepare(connection: PostgresConnection, schema: str, name: str, origin: str | None = None) -> None:
    """Make the tables, or bring those of an older version up to date, in one transaction.

    ``origin`` names the log of a ledger that is being copied here, which must not exist yet.
    """
    if origin is None and version_in(connection, schema, name) == len(MIGRATIONS):
        return
    connection.script("BEGIN")
    try:
        connection.execute("SELECT pg_advisory_xact_lock(?, hashtext(?))", (_LOCK, schema)).fetchall()
        version = version_in(connection, schema, name)
        if version == 0:
            _make_schema(connection, schema, name)
        elif origin is not None:
            raise LedgerError(f"{name} holds a ledger already; copy into a place that holds nothing")
        for step in MIGRATIONS[version:]:
            connection.script(step)
        if version == 0:
            create_log(connection, origin or new_origin())
            connection.script(f"CREATE TABLE {_VERSION_TABLE} (version BIGINT NOT NULL)")
            connection.execute(f"INSERT INTO {_VERSION_TABLE} VALUES (?)", (len(MIGRATIONS),))  # noqa: S608
        else:
            connection.execute(f"UPDATE {_VERSION_TABLE} SET version = ?", (len(MIGRATIONS),))  # noqa: S608
        connection.script("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.script("ROLLBACK")
        raise


def _make_schema(connection: PostgresConnection, schema: str, name: str) -> None:
    if connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", (schema,)).fetchone() is None:
        connection.script(f'CREATE SCHEMA "{schema}"')
    elif connection.execute(f"SELECT 1 FROM {_RELATIONS} LIMIT 1", (schema,)).fetchone() is not None:  # noqa: S608
        raise LedgerError(
            f"{name}: schema {schema} holds tables that are not a meshflow ledger; name another one with ?schema="
        )


def version_in(connection: Connection, schema: str, name: str) -> int:
    """Return the version of the schema, 0 for no ledger yet; LedgerError for a newer one."""
    there = f"SELECT 1 FROM {_RELATIONS} AND c.relname = ?"  # noqa: S608 - a constant
    if connection.execute(there, (schema, _VERSION_TABLE)).fetchone() is None:
        return 0
    version: int = connection.execute(f"SELECT max(version) FROM {_VERSION_TABLE}").fetchone()[0]  # noqa: S608
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"{name} has ledger schema {version}, this meshflow knows up to {len(MIGRATIONS)}; upgrade meshflow"
        )
    return version


def check_readable(connection: Connection, schema: str, name: str) -> None:
    """Raise EmptyLedgerError or OldSchemaError when there is nothing to read, or not yet."""
    version = version_in(connection, schema, name)
    if version == 0:
        raise EmptyLedgerError(f"{name} holds nothing yet")
    if version < len(MIGRATIONS):
        raise OldSchemaError(f"{name} has ledger schema {version}; open it once for writing")


def index_findings(connection: Connection, schema: str) -> list[Finding]:
    """Return which indexes of the schema are missing, invalid or others than they should be."""
    rows = connection.execute(
        "SELECT c.relname, pg_get_indexdef(i.indexrelid), i.indisvalid AND i.indisready AND i.indislive "
        "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
        "WHERE c.relnamespace = to_regnamespace(quote_ident(?))",
        (schema,),
    )
    prefixes = (f" ON {schema}.", f' ON "{schema}".')
    have = {}
    for name, text, sound in rows:
        for prefix in prefixes:
            text = text.replace(prefix, " ON ")
        have[name] = text if sound else ""
    return [
        Finding("storage", f"index {name} is not the one of the schema")
        for name, wanted in INDEXES.items()
        if have.get(name) != wanted
    ]
