"""Checking what is derived of runs against the entries, for a whole SQLite ledger at once."""

from __future__ import annotations

import sqlite3

from meshflow.ledger.format.findings import Finding

_COUNTED = ", ".join(
    f"count(*) FILTER (WHERE kind = 'step' AND verdict = '{verdict}')"
    for verdict in ("commit", "reject", "escalate", "error")
)
_FROM_ENTRIES = (
    f"SELECT run_id, tenant_id, min(seq), count(*), count(step_index), {_COUNTED}, "  # noqa: S608 - constants
    "coalesce(sum(cost_micro_usd) FILTER (WHERE kind = 'step'), 0), "
    "coalesce(sum(tokens) FILTER (WHERE kind = 'step'), 0), min(started_us) FILTER (WHERE kind = 'step'), "
    "max(started_us + duration_ns / 1000) FILTER (WHERE kind = 'step') FROM entries GROUP BY run_id, tenant_id"
)
_FROM_RUNS = (
    "SELECT run_id, tenant_id, first_seq, entries, steps, commits, rejects, escalates, errors, cost_micro_usd, tokens, "
    "first_us, last_us FROM runs"
)
_NODES_OF_ENTRIES = (
    "SELECT run_id, tenant_id, node_id, min(seq) FROM entries "
    "WHERE kind = 'step' AND node_id IS NOT NULL GROUP BY run_id, tenant_id, node_id"
)
_NODES = "SELECT run_id, tenant_id, node_id, first_seq FROM run_nodes"
_PARENTS_OF_ENTRIES = (
    "SELECT run_id, json_extract(text, '$.parent_run_id'), json_extract(text, '$.parent_steps') FROM ("
    "SELECT run_id, CASE json_valid(CAST(body AS TEXT)) WHEN 1 THEN CAST(body AS TEXT) ELSE '{}' END AS text "
    "FROM entries WHERE kind = 'fork')"
)
_PARENTS = "SELECT run_id, parent_run_id, parent_steps FROM runs WHERE parent_run_id IS NOT NULL OR parent_steps <> 0"
_LIMIT = 50


def index_findings(connection: sqlite3.Connection) -> list[Finding]:
    """Return the runs of which the index says something else than the entries."""
    found: dict[Finding, None] = {}
    for ours, theirs, what in (
        (_FROM_ENTRIES, _FROM_RUNS, "the index of runs"),
        (_NODES_OF_ENTRIES, _NODES, "the index of nodes"),
        (_PARENTS_OF_ENTRIES, _PARENTS, "the index of runs, of what it forks,"),
    ):
        # Once into a table of its own: summing up sorts all entries.
        connection.execute(f"CREATE TEMP TABLE summed AS {ours}")
        for one, other in (("SELECT * FROM temp.summed", theirs), (theirs, "SELECT * FROM temp.summed")):
            sql = f"SELECT * FROM ({one}) EXCEPT SELECT * FROM ({other}) LIMIT {_LIMIT}"  # noqa: S608 - constants
            for row in connection.execute(sql):
                found[Finding("run_index", f"{what} does not say what the entries say", str(row[0]))] = None
        connection.execute("DROP TABLE temp.summed")
    return list(found)
