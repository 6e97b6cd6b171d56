"""Checking a range of a whole ledger in the order of the log; ranges are independent of each other.

An entry is checked against the one before it in its run, wherever that lies, so the seams between ranges need no
merging: what a range does not hold is looked up. A range begins at a multiple of 256 entries, so that its tiles are
its own; the roots before it are taken from the tiles, which the ranges before it check.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

import orjson

from meshflow.errors import LedgerError
from meshflow.ledger.format.chain import ENTRY_TAG, PAYLOAD_TAG, genesis_hash
from meshflow.ledger.format.entry import COLUMNS, FIELDS, UNBOUND, columns_of, document_of
from meshflow.ledger.format.findings import Finding
from meshflow.ledger.format.log import TILE, Nodes
from meshflow.ledger.format.merkle import Frontier, complete_root, frontier_at
from meshflow.ledger.shredding import LockedError
from meshflow.ledger.sql.database import Connection, stream
from meshflow.ledger.sql.lineage import step_hash
from meshflow.ledger.sql.log import recall_from
from meshflow.ledger.sql.payloads import KEY, PAYLOAD, suited
from meshflow.ledger.sql.vault import Vault
from meshflow.ledger.verify.erased import Tombstones

ALL_LAYERS = ("chain", "columns", "commitments", "merkle_log")
_CHUNK = TILE  # more rows at a time fall out of the processor's cache before they are hashed
_PAYLOADS = f"SELECT {PAYLOAD} FROM payloads p {KEY} WHERE p.id >= ? AND p.id < ? ORDER BY p.id"  # noqa: S608
_RUNS_KEPT = 20_000
_MAX_FINDINGS = 200
_SEQ_AND_PREV = struct.Struct(">QQ32sQ").pack
_FORM = (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError)
_COMMITMENTS = b'"commitments":{'


class RangeCheck:
    """One pass over the entries with ids start+1 to stop."""

    def __init__(
        self, connection: Connection, vault: Vault, origin: str, start: int, stop: int, layers: Sequence[str]
    ) -> None:
        self._connection = connection
        self._opener = vault.opener()
        self._origin = origin
        self._start, self._stop = start, stop
        self._with = {layer: layer in layers for layer in ALL_LAYERS}
        self._findings: list[Finding] = []
        self._runs: dict[str, list[Any]] = {}
        self._steps: dict[str, int] = {}
        self._tools: set[tuple[Any, Any, str]] = set()
        self._erased = Tombstones(connection)
        self._payloads: Iterator[Any] = iter(())
        self._ahead: Any = None
        self.sealed = 0

    def result(self) -> dict[str, Any]:
        """Return what was found, and how many payloads could not be opened."""
        if self._with["commitments"]:
            places = ((self._start + 1) * 16, (self._stop + 1) * 16)
            self._payloads = stream(self._connection, suited(self._connection, _PAYLOADS), places, _CHUNK)
            self._ahead = next(self._payloads, None)
        log = _Leaves(self._connection, self._origin, self._start) if self._with["merkle_log"] else None
        columns = f", step_index, {', '.join(COLUMNS)}" if self._with["columns"] else ""
        rows = self._connection.execute(
            f"SELECT id, run_id, seq, prev_hash, entry_hash, body{columns} FROM entries "  # noqa: S608
            "WHERE id > ? AND id <= ? ORDER BY id",
            (self._start, self._stop),
        )
        expected = self._start + 1
        while chunk := rows.fetchmany(_CHUNK):
            expected = self._places(chunk, expected)
            if self._with["chain"]:
                self._chains(chunk)
            if self._with["columns"] or self._with["commitments"]:
                self._contents(chunk)
            if log is not None:
                self._findings += log.check(chunk)
            if len(self._findings) >= _MAX_FINDINGS:
                break
        else:
            if expected != self._stop + 1:
                self._say("places", f"the ledger lacks places {expected} to {self._stop}")
        return {"findings": [tuple(finding) for finding in self._findings[:_MAX_FINDINGS]], "sealed": self.sealed}

    def _places(self, chunk: Sequence[Sequence[Any]], expected: int) -> int:
        """Check that ids have no gaps, and return the one to come."""
        if chunk[0][0] != expected or chunk[-1][0] - expected != len(chunk) - 1:
            for row in chunk:
                if row[0] != expected:
                    self._say("places", f"the ledger lacks places {expected} to {row[0] - 1}")
                expected = row[0] + 1
        following: int = chunk[-1][0] + 1
        return following

    def _say(self, layer: str, problem: str) -> None:
        self._findings.append(Finding(layer, problem))

    def _at(self, layer: str, row: Sequence[Any], problem: str) -> None:
        document = document_of(row[5])
        step = row[8] if len(row) > 8 else (document or {}).get("step_id", "")
        self._findings.append(Finding(layer, problem, str(row[1]), row[2], step))

    def _chains(self, chunk: Sequence[Sequence[Any]]) -> None:
        """Check that each entry has its own hash, and follows the one before it in its run."""
        runs, wide = self._runs, self._with["columns"]
        for row in chunk:
            try:
                _, run_id, seq, prev, digest, body = row[:6] if wide else row
                state = runs.get(run_id)
                if state is None:
                    state = self._take_up(row)
                if seq != state[0]:
                    self._at("chain", row, f"entry {state[0]} is missing, or a place is taken twice")
                if prev != state[1]:
                    self._at("chain", row, "prev_hash is not the hash of the entry before")
                if sha256(state[2] + _SEQ_AND_PREV(seq, 32, prev, len(body)) + body).digest() != digest:
                    self._at("chain", row, "entry_hash is not the hash of the entry")
                state[0] = seq + 1
                state[1] = digest
            except (*_FORM, struct.error) as error:
                self._at("chain", row, f"it does not have the form of an entry ({type(error).__name__})")

    def _contents(self, chunk: Sequence[Sequence[Any]]) -> None:
        """Check columns and payloads against the bodies."""
        columns, payloads = self._with["columns"], self._with["commitments"]
        for row in chunk:
            try:
                if columns:
                    document = orjson.loads(row[5])
                    committed = document["commitments"]
                    self._against_body(row, document)
                else:
                    committed = _committed(row[5])
                if payloads:
                    self._against_payloads(row, committed)
            except _FORM as error:
                self._at("columns", row, f"its body does not have the form of an entry ({type(error).__name__})")

    def _take_up(self, row: Sequence[Any]) -> list[Any]:
        """Return where a run stands before an entry: next seq, hash to follow, how what is hashed begins."""
        if len(self._runs) >= _RUNS_KEPT:
            del self._runs[next(iter(self._runs))]
        entry_id, run_id, seq = row[:3]
        name = run_id.encode()
        state = [0, genesis_hash(run_id), ENTRY_TAG + len(name).to_bytes(8, "big") + name]
        if seq != 0:
            before = self._connection.execute(
                "SELECT id, entry_hash FROM entries WHERE run_id = ? AND seq = ?", (run_id, seq - 1)
            ).fetchone()
            if before is None:
                self._at("chain", row, f"entry {seq - 1} is missing")
            else:
                state[:2] = [seq, before[1]]
                if before[0] >= entry_id:
                    self._at("places", row, "its place in the ledger is before that of the entry it follows")
        self._runs[run_id] = state
        return state

    def _against_body(self, row: Sequence[Any], document: dict[str, Any]) -> None:
        run_id, seq, index, columns = row[1], row[2], row[6], row[7:]
        if document["run_id"] != run_id:
            self._at("columns", row, "its body belongs to another run")
        wanted = columns_of(document)
        # Types too, since SQLite would keep 1.0 or "1" where the body says 1.
        if columns != wanted or list(map(type, columns)) != list(map(type, wanted)):
            for name, column, value in zip(COLUMNS, columns, wanted, strict=True):
                if column != value or type(column) is not type(value):
                    self._at("columns", row, f"column {name} does not say what the body says")
        kind = wanted[0]
        if kind == "step":
            wanted_index = self._steps.get(run_id)
            if wanted_index is None:
                wanted_index = self._next_step(run_id, seq, index)
            if index != wanted_index or type(index) is not int:
                self._at("places", row, f"its step index is {index}, not {wanted_index}")
            self._steps[run_id] = wanted_index + 1
            if type(tool := document.get("tool")) is str:
                self._tool(row, wanted[3], tool)
        elif index is not None:
            self._at("places", row, f"its step index is {index}, and it is no step")
        elif kind == "close":
            self._close(row, document)
        elif kind == "erasure":
            for problem in self._erased.survivors(run_id, document):
                self._at("erasures", row, problem)
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
            self._findings.append(
                Finding("run_index", f"the index of tools lacks {tool!r}", str(row[1]), row[2], row[8])
            )

    def _close(self, row: Sequence[Any], document: dict[str, Any]) -> None:
        if document["count"] != row[2]:
            self._at("places", row, f"the close counts {document['count']} entries, not {row[2]}")
        later = self._connection.execute(
            f"SELECT seq FROM entries WHERE run_id = ? AND seq > ? AND kind NOT IN ({', '.join('?' * len(UNBOUND))})",  # noqa: S608
            (row[1], row[2], *UNBOUND),
        ).fetchone()
        if later is not None:
            self._at("places", row, f"entry {later[0]} follows the close of the run")

    def _fork(self, row: Sequence[Any], document: dict[str, Any]) -> None:
        parent, steps = document["parent_run_id"], document["parent_steps"]
        found = step_hash(self._connection, parent, steps - 1) if steps else genesis_hash(parent)
        if row[2] != 0:
            self._at("places", row, "a fork entry that does not begin the run")
        if found is None or found.hex() != document["parent_entry_hash"]:
            self._at("chain", row, f"step {steps - 1} of the run it forks, {parent!r}, is not the one that was forked")

    def _against_payloads(self, row: Sequence[Any], committed: dict[str, Any]) -> None:
        entry_id, ahead, found = row[0], self._ahead, 0
        names = []
        while ahead is not None and ahead[0] >> 4 <= entry_id:
            number, salt, data = ahead[0] & 15, ahead[1], ahead[2]
            name = FIELDS[number] if number < len(FIELDS) else ""
            if ahead[0] >> 4 < entry_id or name not in committed:
                self._at("commitments", row, f"payload number {number} is there without a commitment")
            elif ahead[3] is not None and (opened := self._open(ahead)) is None:
                if ahead[6] is not None:  # not shredded, but locked
                    found += 1
                    names.append(name)
                    self.sealed += 1
            else:
                if ahead[3] is not None and opened is not None:
                    salt, data = opened
                found += 1
                names.append(name)
                if len(salt) != 16 or sha256(PAYLOAD_TAG + salt + data).hexdigest() != committed[name]:
                    self._at("commitments", row, f"payload {name} is not what was committed to")
            ahead = next(self._payloads, None)
        self._ahead = ahead
        if found != len(committed):
            for name in committed:
                if name not in names and not self._erased.names(row[1], row[2], name):
                    self._at("erasures", row, f"payload {name} is gone without an erasure entry")

    def _open(self, payload: Sequence[Any]) -> tuple[Any, Any] | None:
        try:
            return self._opener.open(*payload)
        except LockedError:
            return None


class _Leaves:
    """Compares entry hashes with the tiles, and the roots on the way with the stored checkpoints."""

    def __init__(self, connection: Connection, origin: str, start: int) -> None:
        self._connection = connection
        self._origin = origin
        self._frontier: Frontier | None = None
        with suppress(LedgerError):  # of wrong tiles before this range, which the ranges before it name
            self._frontier = frontier_at(Nodes(recall_from(connection)), start)

    def check(self, chunk: Sequence[Sequence[Any]]) -> list[Finding]:
        """Check neighbouring entries that begin at a tile."""
        first, last = chunk[0][0], chunk[-1][0]
        tiles = {
            position: (root, hashes)
            for position, root, hashes in self._connection.execute(
                "SELECT position, root, hashes FROM tiles WHERE level = 0 AND position BETWEEN ? AND ?",
                ((first - 1) // TILE, (last - 1) // TILE),
            )
        }
        notes = self._connection.execute(
            "SELECT size, root, note FROM checkpoints WHERE size BETWEEN ? AND ? ORDER BY size", (first, last)
        ).fetchall()
        found: list[Finding] = []
        for at in range(0, len(chunk), TILE):
            found += self._tile(chunk[at : at + TILE], tiles, notes)
        return found

    def _tile(self, rows: Sequence[Sequence[Any]], tiles: dict[int, Any], notes: list[Any]) -> list[Finding]:
        position, aligned = divmod(rows[0][0] - 1, TILE)
        try:
            leaves = [sha256(b"\x00" + row[4]).digest() for row in rows]
        except TypeError:
            leaves = []
        if aligned or len(leaves) != rows[-1][0] - rows[0][0] + 1:
            self._frontier = None
            return [Finding("merkle_log", f"the entries from place {rows[0][0]} on are not those of the log")]
        stored = tiles.get(position)
        found: list[Finding] = []
        if len(leaves) == TILE and (stored is None or stored[1] != b"".join(leaves)):
            found += self._differing(rows, leaves, stored)
        root = complete_root(leaves) if len(leaves) == TILE else b""
        if root and stored is not None and stored[0] != root:
            found.append(Finding("merkle_log", f"the root of tile 0/{position} is not that of its entries"))
        found += self._checkpoints(rows[0][0] - 1, leaves, root, notes)
        return found

    def _differing(self, rows: Sequence[Sequence[Any]], leaves: list[bytes], stored: Any) -> list[Finding]:
        position = (rows[0][0] - 1) // TILE
        if stored is None or not isinstance(stored[1], bytes) or len(stored[1]) != TILE * 32:
            return [Finding("merkle_log", f"tile 0/{position} is missing or damaged")]
        return [
            Finding("merkle_log", "the log has another entry in its place", str(row[1]), row[2], _step_id(row))
            for place, (row, leaf) in enumerate(zip(rows, leaves, strict=True))
            if stored[1][place * 32 : place * 32 + 32] != leaf
        ]

    def _checkpoints(self, start: int, leaves: list[bytes], root: bytes, notes: list[Any]) -> list[Finding]:
        if self._frontier is None:
            return []
        mine = [note for note in notes if start < note[0] <= start + len(leaves)]
        found = []
        if mine or not root:
            walk = Frontier(start, self._frontier.peaks)
            at = 0
            for size, stored, note in mine:
                for leaf in leaves[at : size - start]:
                    walk.append(leaf)
                at = size - start
                if problem := self._note(size, stored, note, walk.root()):
                    found.append(Finding("checkpoint", f"the checkpoint at size {size}: {problem}"))
        if root:
            self._frontier.append_complete(8, root)
        return found

    def _note(self, size: int, stored: Any, note: Any, root: bytes) -> str:
        if stored != root:
            return "its root is not that of the entries"
        text = f"{self._origin}\n{size}\n{base64.b64encode(root).decode()}\n\n"
        if not isinstance(note, str) or not note.startswith(text) or "\n\n" in note[len(text) :]:
            return "its note does not say what its columns say"
        return ""


def _step_id(row: Sequence[Any]) -> Any:
    return (document_of(row[5]) or {}).get("step_id", "")


def _committed(body: bytes) -> dict[str, Any]:
    """Return the commitments of a body without reading all of it, where their place is certain."""
    at = body.find(_COMMITMENTS)
    if at >= 0 and body.find(_COMMITMENTS, at + 1) < 0:
        # Quotes inside a string are escaped, and the object is flat.
        found: dict[str, Any] = orjson.loads(body[at + 14 : body.index(b"}", at) + 1])
        return found
    document: dict[str, Any] = orjson.loads(body)["commitments"]
    return document
