"""Finding what is past its time; nothing is changed here."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import orjson

from meshflow.ledger.sql.database import Connection

if TYPE_CHECKING:
    from meshflow.ledger.retention import RetentionRule

# An approval has no tool of its own; it goes with the step that it decides on.
_OLD = (
    "SELECT e.id, e.run_id, e.tenant_id, e.node_id, e.started_us, CASE e.kind WHEN 'approval' THEN s.body ELSE e.body "
    "END FROM entries e LEFT JOIN entries s ON e.kind = 'approval' AND s.run_id = e.run_id AND s.step_id = e.step_id "
    "AND s.attempt = e.attempt AND s.kind = 'step' "
    "WHERE e.id > :after AND e.id <= :stop AND e.started_us < :oldest AND (:tenant IS NULL OR e.tenant_id = :tenant) "
    "AND EXISTS (SELECT 1 FROM payloads p WHERE p.id BETWEEN e.id * 16 AND e.id * 16 + 15)"
)


def expired(
    connection: Connection, rules: Collection[RetentionRule], now_us: int, after: int, limit: int, tenant: str | None
) -> tuple[dict[str, dict[int, frozenset[str]]], int | None]:
    """Look at entries from a position on; return what is past its time, by run, and the last position seen."""
    oldest = max(now_us - rule.keep_us for rule in rules)
    last: int = connection.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()[0]
    stop = min(last, after + 1 + limit)
    rows = connection.execute(_OLD, {"after": after + 1, "stop": stop, "oldest": oldest, "tenant": tenant}).fetchall()
    found: dict[str, dict[int, frozenset[str]]] = {}
    for entry_id, run_id, whose, node, started_us, body in rows:
        tool: Any = orjson.loads(body).get("tool") if body is not None else None
        rule = next((rule for rule in rules if rule.matches(whose, tool, node)), None)
        if rule is not None and started_us < now_us - rule.keep_us:
            found.setdefault(run_id, {})[entry_id - 1] = rule.fields
    return found, None if stop == last else stop - 1
