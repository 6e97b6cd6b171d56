"""Tombstones, looked up while a ledger is checked: what each run has had erased."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from meshflow.ledger.format.entry import FIELD_NUMBER
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.verify.found import FORM

_RUNS_KEPT = 8


class Tombstones:
    """What the erasure entries of a run name, kept for the runs asked for last."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._runs: dict[str, set[tuple[int, str]]] = {}

    def names(self, run_id: str, seq: int, field: str) -> bool:
        """Say whether an erasure entry that comes later names the payload."""
        if run_id not in self._runs:
            if len(self._runs) >= _RUNS_KEPT:
                del self._runs[next(iter(self._runs))]
            self._runs[run_id] = set(self._read(run_id))
        return (seq, field) in self._runs[run_id]

    def _read(self, run_id: str) -> Iterator[tuple[int, str]]:
        rows = self._connection.execute(
            "SELECT seq, body FROM entries INDEXED BY entries_erasure WHERE run_id = ? AND kind = 'erasure'", (run_id,)
        )
        for seq, body in rows:
            try:  # one without its form names nothing, and is found where it stands
                erased = _erased(orjson.loads(body))
                named = [(place, name) for place, names in erased if place < seq for name in names]
            except FORM:
                continue
            yield from named

    def survivors(self, run_id: str, document: Mapping[str, Any]) -> list[str]:
        """Return which payloads a tombstone names that are still there."""
        found = []
        for seq, names in _erased(document):
            row = self._connection.execute(
                "SELECT id FROM entries WHERE run_id = ? AND seq = ?", (run_id, seq)
            ).fetchone()
            base = row[0] * 16 if row is not None else 0
            left = {
                payload_id - base
                for (payload_id,) in self._connection.execute(
                    "SELECT id FROM payloads WHERE id BETWEEN ? AND ?", (base, base + 15)
                )
            }
            found += [
                f"payload {name} of entry {seq} was erased, and is there"
                for name in names
                if FIELD_NUMBER.get(name) in left
            ]
        return found


def _erased(document: Mapping[str, Any]) -> list[tuple[int, list[str]]]:
    return [(int(seq), names) for seq, names in document.get("erased", {}).items()]
