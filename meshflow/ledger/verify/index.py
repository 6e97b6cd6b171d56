"""Checking what is derived of runs against the entries, for a whole ledger at once."""

from __future__ import annotations

from typing import Any

from meshflow.ledger.format.entry import document_of
from meshflow.ledger.format.findings import Finding
from meshflow.ledger.sql.database import Connection, stream
from meshflow.ledger.sql.totals import cut_off

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
_FORKS = "SELECT run_id, body FROM entries WHERE kind = 'fork'"
_PARENTS = "SELECT run_id, parent_run_id, parent_steps FROM runs WHERE parent_run_id IS NOT NULL OR parent_steps <> 0"
_TOOLS = (
    "SELECT t.run_id, t.tenant_id, t.tool, e.kind, e.tenant_id, e.body FROM run_tools t "
    "LEFT JOIN entries e ON e.run_id = t.run_id AND e.seq = t.first_seq"
)
_COUNTS = (
    "SELECT (SELECT coalesce(max(seq), -1) + 1 FROM entries WHERE run_id = ?), "
    "(SELECT sum(entries) FROM runs WHERE run_id = ?)"
)
_LIMIT = 50


def index_findings(connection: Connection) -> list[Finding]:
    """Return the runs of which the index says something else than the entries.

    That no tool is missing from the index is for those to see who read every entry.
    """
    wrong = [(run_id, "runs") for run_id in _differing(connection, _FROM_ENTRIES, _FROM_RUNS)]
    wrong += [(run_id, "nodes") for run_id in _differing(connection, _NODES_OF_ENTRIES, _NODES)]
    wrong += [(run_id, "runs, of what it forks,") for run_id in _wrong_parents(connection)]
    wrong += [(run_id, "tools") for run_id in _wrong_tools(connection)]
    found = [Finding("run_index", f"the index of {what} does not say what the entries say", run) for run, what in wrong]
    for run_id in dict.fromkeys(run for run, what in wrong if what == "runs"):
        found += cut_off(run_id, *connection.execute(_COUNTS, (run_id, run_id)).fetchone())
    return list(dict.fromkeys(found))


def _differing(connection: Connection, ours: str, theirs: str) -> list[str]:
    rows = connection.execute(
        f"WITH ours AS ({ours}), theirs AS ({theirs}), "  # noqa: S608 - constants
        "more AS (SELECT * FROM ours EXCEPT SELECT * FROM theirs), "
        "less AS (SELECT * FROM theirs EXCEPT SELECT * FROM ours) "
        f"SELECT run_id FROM more UNION SELECT run_id FROM less LIMIT {_LIMIT}"
    )
    return [str(row[0]) for row in rows]


def _wrong_parents(connection: Connection) -> list[str]:
    said = {(run_id, *_parent(body)) for run_id, body in stream(connection, _FORKS)}
    stored = {tuple(row) for row in stream(connection, _PARENTS)}
    return sorted({str(row[0]) for row in said ^ stored})[:_LIMIT]


def _parent(body: Any) -> tuple[Any, Any]:
    document = document_of(body) or {}
    return document.get("parent_run_id"), document.get("parent_steps")


def _wrong_tools(connection: Connection) -> list[str]:
    found: dict[str, None] = {}
    for run_id, tenant, tool, kind, whose, body in stream(connection, _TOOLS):
        if (kind, whose) != ("step", tenant) or (document_of(body) or {}).get("tool") != tool:
            found[str(run_id)] = None
            if len(found) == _LIMIT:
                break
    return list(found)
