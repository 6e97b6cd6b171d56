"""Checking entries as the leaves of the log: against the stored tiles, and their roots with the checkpoints."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

from meshflow.errors import LedgerError
from meshflow.ledger.format.findings import Finding
from meshflow.ledger.format.log import TILE, Nodes
from meshflow.ledger.format.merkle import Frontier, complete_rows, frontier_at
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.sql.log import recall_from
from meshflow.ledger.verify.found import Found, Row, step_of

_ROOT_LEVEL = TILE.bit_length() - 1


class Leaves:
    """Builds the log anew from entries that come in its order, a tile at a time, from the start of one."""

    def __init__(self, connection: Connection, origin: str, start: int, found: Found) -> None:
        self._connection = connection
        self._origin = origin
        self._found = found
        self._frontier: Frontier | None = None
        with suppress(LedgerError):  # of wrong tiles before this range, which the ranges before it name
            self._frontier = frontier_at(Nodes(recall_from(connection)), start)

    def check(self, rows: Sequence[Row]) -> None:
        """Check neighbouring entries that begin at a tile."""
        first, last = rows[0][0], rows[-1][0]
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
        for at in range(0, len(rows), TILE):
            self._tile(rows[at : at + TILE], tiles, notes)

    def _tile(self, rows: Sequence[Row], tiles: dict[int, Any], notes: list[Any]) -> None:
        position, aligned = divmod(rows[0][0] - 1, TILE)
        try:
            leaves = [sha256(b"\x00" + row[4]).digest() for row in rows]
        except TypeError:
            leaves = []
        if aligned or len(leaves) != rows[-1][0] - rows[0][0] + 1:
            self._frontier = None
            self._found.say("merkle_log", f"the entries from place {rows[0][0]} on are not those of the log")
            return
        nodes, stored = complete_rows(leaves), tiles.get(position)
        root = nodes[-1][0] if len(leaves) == TILE else b""
        if root and (stored is None or stored[1] != b"".join(leaves)):
            self._differing(rows, leaves, stored)
        if root and stored is not None and stored[0] != root:
            self._found.say("merkle_log", f"the root of tile 0/{position} is not that of its entries")
        if self._frontier is not None:
            self._checkpoints(rows[0][0] - 1, nodes, self._frontier, notes)
            if root:
                self._frontier.append_complete(_ROOT_LEVEL, root)

    def _differing(self, rows: Sequence[Row], leaves: list[bytes], stored: Any) -> None:
        position = (rows[0][0] - 1) // TILE
        if stored is None or not isinstance(stored[1], bytes) or len(stored[1]) != TILE * 32:
            self._found.say("merkle_log", f"tile 0/{position} is missing or damaged")
            return
        self._found.findings += [
            Finding("merkle_log", "the log has another entry in its place", str(row[1]), row[2], step_of(row))
            for place, (row, leaf) in enumerate(zip(rows, leaves, strict=True))
            if stored[1][place * 32 : place * 32 + 32] != leaf
        ]

    def _checkpoints(self, start: int, nodes: list[list[bytes]], before: Frontier, notes: list[Any]) -> None:
        """Check the checkpoints at sizes within a tile; ``nodes`` are its complete nodes, row by row."""
        for size, stored, note in notes:
            count = size - start
            if 0 < count <= len(nodes[0]):
                inside = [
                    nodes[level][(count >> level) - 1] for level in range(_ROOT_LEVEL, -1, -1) if count >> level & 1
                ]
                peaks = [*before.peaks, *inside] if count < TILE else _grown(before, nodes[-1][0])
                if problem := self._note(size, stored, note, Frontier(size, peaks).root()):
                    self._found.say("checkpoint", f"the checkpoint at size {size}: {problem}")

    def _note(self, size: int, stored: Any, note: Any, root: bytes) -> str:
        if stored != root:
            return "its root is not that of the entries"
        text = f"{self._origin}\n{size}\n{base64.b64encode(root).decode()}\n\n"
        if not isinstance(note, str) or not note.startswith(text) or "\n\n" in note[len(text) :]:
            return "its note does not say what its columns say"
        return ""


def _grown(before: Frontier, root: bytes) -> list[bytes]:
    grown = Frontier(before.size, before.peaks)
    grown.append_complete(_ROOT_LEVEL, root)
    return grown.peaks
