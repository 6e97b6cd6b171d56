"""Checking a range of a whole ledger in the order of the log; ranges are independent of each other.

An entry is checked against the one before it in its run, wherever that lies, so the seams between ranges need no
merging: what a range does not hold is looked up. A range begins at a multiple of 256 entries, so that its tiles are
its own; the roots before it are taken from the tiles, which the ranges before it check.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from meshflow.ledger.format.chain import genesis_hash
from meshflow.ledger.format.entry import COLUMNS, UNBOUND, columns_of
from meshflow.ledger.format.findings import Finding
from meshflow.ledger.format.log import TILE
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.sql.lineage import step_hash
from meshflow.ledger.sql.vault import Vault
from meshflow.ledger.verify.erased import Tombstones
from meshflow.ledger.verify.found import ENTRY, FORM, WITH_COLUMNS, Found, Row
from meshflow.ledger.verify.leaves import Leaves
from meshflow.ledger.verify.links import Links
from meshflow.ledger.verify.payloads import Payloads, commitments_of

ALL_LAYERS = ("chain", "columns", "commitments", "merkle_log")
_CHUNK = TILE  # more rows at a time fall out of the processor's cache before they are hashed
_RUNS_KEPT = 20_000
_MAX_FINDINGS = 200


class RangeCheck:
    """One pass over the entries with ids start+1 to stop."""

    def __init__(
        self, connection: Connection, vault: Vault, origin: str, start: int, stop: int, layers: Sequence[str]
    ) -> None:
        self._connection = connection
        self._vault = vault
        self._origin = origin
        self._start, self._stop = start, stop
        self._with = {layer: layer in layers for layer in ALL_LAYERS}
        self._found = Found()
        self._steps: dict[str, int] = {}
        self._tools: set[tuple[Any, Any, str]] = set()
        self._erased = Tombstones(connection)

    def result(self) -> dict[str, Any]:
        """Return what was found, and how many payloads could not be opened."""
        found, start, stop = self._found, self._start, self._stop
        chained, wide, committed, logged = (self._with[layer] for layer in ALL_LAYERS)
        payloads = (
            Payloads(self._connection, self._vault, (start, stop), found, self._erased, _CHUNK) if committed else None
        )
        leaves = Leaves(self._connection, self._origin, start, found) if logged else None
        links = Links(self._connection, found)
        rows = self._connection.execute(
            f"SELECT {WITH_COLUMNS if wide else ENTRY} FROM entries WHERE id > ? AND id <= ? ORDER BY id",  # noqa: S608
            (start, stop),
        )
        expected = start + 1
        while chunk := rows.fetchmany(_CHUNK):
            expected = self._places(chunk, expected)
            if chained:
                links.check(chunk, wide=wide)
            commitments = self._bodies(chunk) if wide else [self._commitments(row) for row in chunk] if payloads else []
            if payloads is not None:
                payloads.check(chunk, commitments)
            if leaves is not None:
                leaves.check(chunk)
            if len(found.findings) >= _MAX_FINDINGS:
                break
        else:
            if expected != stop + 1:
                found.say("places", f"the ledger lacks places {expected} to {stop}")
            if payloads is not None:
                payloads.finish()
        sealed = payloads.sealed if payloads is not None else 0
        return {"findings": [tuple(finding) for finding in found.findings[:_MAX_FINDINGS]], "sealed": sealed}

    def _places(self, chunk: Sequence[Sequence[Any]], expected: int) -> int:
        """Check that ids have no gaps, and return the one to come."""
        if chunk[0][0] != expected or chunk[-1][0] - expected != len(chunk) - 1:
            for row in chunk:
                if row[0] != expected:
                    self._found.say("places", f"the ledger lacks places {expected} to {row[0] - 1}")
                expected = row[0] + 1
        following: int = chunk[-1][0] + 1
        return following

    def _bodies(self, chunk: Sequence[Row]) -> list[Mapping[str, Any]]:
        """Check columns against the bodies, and return what these commit to."""
        return [self._body(row) for row in chunk]

    def _body(self, row: Row) -> Mapping[str, Any]:
        try:
            document = orjson.loads(row[5])
            self._against_body(row, document)
            return _named(document["commitments"])
        except FORM as error:
            self._misformed(row, error)
            return {}

    def _commitments(self, row: Row) -> Mapping[str, Any]:
        try:
            return _named(commitments_of(row[5]))
        except FORM as error:
            self._misformed(row, error)
            return {}

    def _misformed(self, row: Row, error: Exception) -> None:
        self._found.at("columns", row, f"its body does not have the form of an entry ({type(error).__name__})")

    def _against_body(self, row: Sequence[Any], document: dict[str, Any]) -> None:
        run_id, seq, index, columns = row[1], row[2], row[6], row[7:]
        if document["run_id"] != run_id:
            self._found.at("columns", row, "its body belongs to another run")
        wanted = columns_of(document)
        # Types too, since SQLite would keep 1.0 or "1" where the body says 1.
        if columns != wanted or list(map(type, columns)) != list(map(type, wanted)):
            for name, column, value in zip(COLUMNS, columns, wanted, strict=True):
                if column != value or type(column) is not type(value):
                    self._found.at("columns", row, f"column {name} does not say what the body says")
        kind = wanted[0]
        if kind == "step":
            wanted_index = self._steps.get(run_id)
            if wanted_index is None:
                wanted_index = self._next_step(run_id, seq, index)
            if index != wanted_index or type(index) is not int:
                self._found.at("places", row, f"its step index is {index}, not {wanted_index}")
            self._steps[run_id] = (index if type(index) is int else wanted_index) + 1
            if type(tool := document.get("tool")) is str:
                self._tool(row, wanted[3], tool)
        elif index is not None:
            self._found.at("places", row, f"its step index is {index}, and it is no step")
        elif kind == "close":
            self._close(row, document)
        elif kind == "erasure":
            for problem in self._erased.survivors(run_id, document):
                self._found.at("erasures", row, problem)
        elif kind == "fork":
            self._fork(row, document)

    def _next_step(self, run_id: str, seq: int, index: Any) -> int:
        """Return the step index that an entry must have, given that those before it are as they must be."""
        if len(self._steps) >= _RUNS_KEPT:
            del self._steps[next(iter(self._steps))]
        if type(index) is int:
            before = self._connection.execute(
                "SELECT seq FROM entries WHERE run_id = ? AND step_index = ?", (run_id, index - 1)
            ).fetchone()
            if before is not None:
                return index if before[0] < seq else -1
        row = self._connection.execute(
            "SELECT parent_steps FROM runs WHERE run_id = ? AND first_seq = 0", (run_id,)
        ).fetchone()
        return row[0] if row is not None else 0

    def _tool(self, row: Sequence[Any], tenant: Any, tool: str) -> None:
        """Check that the index has the tool of a step, at the first sight of it in this range."""
        key = (row[1], tenant, tool)
        if key in self._tools:
            return
        if len(self._tools) >= _RUNS_KEPT:
            self._tools.clear()
        self._tools.add(key)
        known = self._connection.execute(
            "SELECT first_seq FROM run_tools WHERE run_id = ? AND tenant_id = ? AND tool = ?", key
        ).fetchone()
        if known is None or known[0] > row[2]:
            self._found.findings.append(
                Finding("run_index", f"the index of tools lacks {tool!r}", str(row[1]), row[2], row[8])
            )

    def _close(self, row: Sequence[Any], document: dict[str, Any]) -> None:
        if document["count"] != row[2]:
            self._found.at("places", row, f"the close counts {document['count']} entries, not {row[2]}")
        later = self._connection.execute(
            f"SELECT seq FROM entries WHERE run_id = ? AND seq > ? AND kind NOT IN ({', '.join('?' * len(UNBOUND))})",  # noqa: S608
            (row[1], row[2], *UNBOUND),
        ).fetchone()
        if later is not None:
            self._found.at("places", row, f"entry {later[0]} follows the close of the run")

    def _fork(self, row: Sequence[Any], document: dict[str, Any]) -> None:
        parent, steps = document["parent_run_id"], document["parent_steps"]
        found = step_hash(self._connection, parent, steps - 1) if steps else genesis_hash(parent)
        if row[2] != 0:
            self._found.at("places", row, "a fork entry that does not begin the run")
        if found is None or found.hex() != document["parent_entry_hash"]:
            self._found.at(
                "chain", row, f"step {steps - 1} of the run it forks, {parent!r}, is not the one that was forked"
            )


def _named(commitments: Any) -> Mapping[str, Any]:
    if type(commitments) is not dict:
        raise TypeError("commitments are an object")
    return commitments
