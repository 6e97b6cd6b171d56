"""Checking that entries have their own hashes, and that each follows the one before it in its run."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from meshflow.ledger.format.chain import SEQ_AND_PREV, entry_hashes, genesis_hash
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.verify.found import FORM, Found, Row

_RUNS_KEPT = 20_000


class Links:
    """The chains of all runs, followed side by side through neighbouring entries of the log."""

    def __init__(self, connection: Connection, found: Found) -> None:
        self._connection = connection
        self._found = found
        self._runs: dict[Any, list[Any]] = {}

    def check(self, rows: Sequence[Row], *, wide: bool) -> None:
        """Check entries in the order of the log; ``wide`` rows have more than an entry's own columns."""
        runs = self._runs
        for row in rows:
            try:
                _, run_id, seq, prev, digest, body = row[:6] if wide else row
                state = runs.get(run_id)
                if state is None:
                    state = self._take_up(row)
                if seq != state[0]:
                    self._out_of_order(row, state[0])
                if prev != state[1]:
                    self._found.at("chain", row, "prev_hash is not the hash of the entry before")
                hashed = state[2]()
                hashed.update(SEQ_AND_PREV(seq, 32, prev, len(body)))
                hashed.update(body)
                if hashed.digest() != digest:
                    self._found.at("chain", row, "entry_hash is not the hash of the entry")
                state[0] = seq + 1
                state[1] = digest
            except (*FORM, struct.error) as error:
                self._found.at("chain", row, f"it does not have the form of an entry ({type(error).__name__})")

    def _out_of_order(self, row: Row, due: int) -> None:
        if row[2] > due:
            self._found.missing(row[1], due, row[2])
        else:
            self._found.at("chain", row, f"its place is taken twice, or entry {due} is missing")

    def _take_up(self, row: Row) -> list[Any]:
        """Return where a run stands before an entry: next seq, hash to follow, and what begins an entry's hash."""
        if len(self._runs) >= _RUNS_KEPT:
            del self._runs[next(iter(self._runs))]
        entry_id, run_id, seq = row[:3]
        state = [0, genesis_hash(run_id), entry_hashes(run_id)]
        if seq != 0:
            before = self._connection.execute(
                "SELECT id, entry_hash FROM entries WHERE run_id = ? AND seq = ?", (run_id, seq - 1)
            ).fetchone()
            if before is None:
                self._found.missing(run_id, seq - 1, seq)
            else:
                state[:2] = [seq, before[1]]
                if before[0] >= entry_id:
                    self._found.at("places", row, "its place in the ledger is before that of the entry it follows")
        self._runs[run_id] = state
        return state
