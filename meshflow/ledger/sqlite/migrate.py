"""From older schema versions of a SQLite ledger to the newest, inside the caller's transaction."""

from __future__ import annotations

import sqlite3

from meshflow.ledger.format.entry import COLUMNS
from meshflow.ledger.sql.log import build_log, create_log, new_origin
from meshflow.ledger.sqlite.tables import (
    ANCHORS,
    ENTRIES,
    ERASURE,
    LOG,
    RUNS,
    SUBJECTS,
    TOOL_TRIGGERS,
    TOOLS,
    TRIGGERS,
    run_script,
)


def from_version_1(connection: sqlite3.Connection) -> None:
    """Give steps their index, runs their totals, and the ledger its log. Entries, their hashes and payloads stay."""
    for kind, name in connection.execute(
        "SELECT type, name FROM sqlite_schema WHERE type = 'trigger' OR (type = 'index' AND sql IS NOT NULL)"
    ).fetchall():
        connection.execute(f"DROP {kind} {name}")
    connection.execute("ALTER TABLE entries RENAME TO entries_1")
    connection.execute("ALTER TABLE runs RENAME TO runs_1")
    connection.execute("ALTER TABLE payloads ADD COLUMN key_id INTEGER")
    run_script(connection, ENTRIES + RUNS + TOOLS + LOG + ANCHORS + ERASURE + SUBJECTS)
    _copy_entries(connection)
    sum_runs(connection)
    create_log(connection, new_origin())
    build_log(connection)
    connection.execute("DROP TABLE entries_1")
    connection.execute("DROP TABLE runs_1")
    run_script(connection, TRIGGERS)


def from_version_2(connection: sqlite3.Connection) -> None:
    """Give the ledger its index of tools."""
    run_script(connection, TOOLS)
    list_tools(connection)
    run_script(connection, TOOL_TRIGGERS)
    from_version_3(connection)


def from_version_3(connection: sqlite3.Connection) -> None:
    """Give the ledger a place for what anchors give back, and an early one an index of subjects."""
    run_script(connection, ANCHORS + SUBJECTS)


def _copy_entries(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TEMP TABLE step_places AS SELECT id AS entry, "
        "row_number() OVER (PARTITION BY run_id ORDER BY seq) - 1 AS place FROM entries_1 WHERE kind = 'step'"
    )
    connection.execute("CREATE UNIQUE INDEX temp.step_places_entry ON step_places (entry)")
    columns = ", ".join(COLUMNS)
    connection.execute(
        f"INSERT INTO entries (id, run_id, seq, step_index, {columns}, prev_hash, entry_hash, body) "  # noqa: S608
        f"SELECT e.id, run_id, seq, place, {columns}, prev_hash, entry_hash, body "
        "FROM entries_1 e LEFT JOIN step_places ON entry = e.id ORDER BY e.id"
    )
    connection.execute("DROP TABLE step_places")


def sum_runs(connection: sqlite3.Connection) -> None:
    """Sum up the entries in the tables of runs and nodes, which are empty; ``runs_1`` says which runs there are."""
    verdicts = ", ".join(
        f"count(*) FILTER (WHERE kind = 'step' AND verdict = '{verdict}')"
        for verdict in ("commit", "reject", "escalate", "error")
    )
    connection.execute(
        "INSERT INTO runs SELECT r.id, r.run_id, r.tenant_id, r.first_seq, NULL, 0, count(*), "  # noqa: S608
        f"count(step_index), {verdicts}, coalesce(sum(cost_micro_usd) FILTER (WHERE kind = 'step'), 0), "
        "coalesce(sum(tokens) FILTER (WHERE kind = 'step'), 0), min(started_us) FILTER (WHERE kind = 'step'), "
        "max(started_us + duration_ns / 1000) FILTER (WHERE kind = 'step') "
        "FROM runs_1 r JOIN entries e ON e.run_id = r.run_id AND e.tenant_id = r.tenant_id GROUP BY r.id ORDER BY r.id"
    )
    connection.execute(
        "INSERT INTO run_nodes SELECT run_id, tenant_id, node_id, min(seq) FROM entries "
        "WHERE kind = 'step' AND node_id IS NOT NULL GROUP BY run_id, tenant_id, node_id"
    )
    list_tools(connection)


def list_tools(connection: sqlite3.Connection) -> None:
    """Fill the index of tools, which is empty."""
    connection.execute(
        "INSERT INTO run_tools SELECT run_id, tenant_id, tool, min(seq) FROM ("
        "SELECT run_id, tenant_id, seq, "
        "CASE json_valid(CAST(body AS TEXT)) WHEN 1 THEN json_extract(CAST(body AS TEXT), '$.tool') END AS tool "
        "FROM entries WHERE kind = 'step') WHERE typeof(tool) = 'text' GROUP BY run_id, tenant_id, tool"
    )
