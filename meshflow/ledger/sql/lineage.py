"""Which run holds which steps of a forked run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from meshflow.ledger.sql.database import Connection

LINEAGE = (
    "WITH RECURSIVE line (run_id, parent_run_id, parent_steps, depth) AS ("
    "SELECT r.run_id, r.parent_run_id, r.parent_steps, 0 FROM runs r WHERE r.run_id = :run AND r.first_seq = 0 "
    "UNION ALL SELECT r.run_id, r.parent_run_id, r.parent_steps, l.depth + 1 FROM line l "
    "JOIN runs r ON r.run_id = l.parent_run_id AND r.first_seq = 0 WHERE l.depth < 1000) "
    "SELECT run_id, parent_steps FROM line ORDER BY depth"
)
"""Rows of a run and those it comes from, itself first; ``segments`` reads them."""

ENDLESS = 2**62


class Segment(NamedTuple):
    """Steps start to stop-1 of a run's history, and the run whose entries they are."""

    run_id: str
    start: int
    stop: int


def segments(rows: Iterable[Any]) -> list[Segment]:
    """Return where the steps of a run lie, in order; the last segment is the run itself and has no end."""
    found, stop = [], ENDLESS
    for run_id, inherited in rows:
        if inherited < stop:
            found.append(Segment(run_id, inherited, stop))
            stop = inherited
    return found[::-1]


def step_hash(connection: Connection, run_id: str, index: int) -> bytes | None:
    """Return the entry hash of a step in a run's history, inherited or not."""
    for segment in segments(connection.execute(LINEAGE, {"run": run_id}).fetchall()):
        if segment.start <= index < segment.stop:
            row = connection.execute(
                "SELECT entry_hash FROM entries WHERE run_id = ? AND step_index = ?", (segment.run_id, index)
            ).fetchone()
            return row[0] if row is not None else None
    return None
