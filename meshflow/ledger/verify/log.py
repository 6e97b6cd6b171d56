"""Checking the log of a ledger: its checkpoints, those held from outside, and a run's entries as its leaves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from meshflow.errors import LedgerError
from meshflow.ledger.format.checkpoints import Checkpoint, read_checkpoint
from meshflow.ledger.format.findings import Finding
from meshflow.ledger.format.log import TILE, Nodes
from meshflow.ledger.format.merkle import EMPTY_ROOT, inclusion_proof, leaf_hash, range_root, verify_inclusion
from meshflow.ledger.format.notes import NoteError, Verifier
from meshflow.ledger.format.signers import Trust
from meshflow.ledger.outside import Held
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.sql.log import recall_from
from meshflow.ledger.sql.proofs import origin_and_size, signer_rows

_AT = "SELECT run_id, seq, step_id FROM entries WHERE id = ?"
_BEYOND = "SELECT run_id, seq, step_id FROM entries WHERE id > ? ORDER BY id LIMIT 1"
_FROM = "SELECT size, root FROM checkpoints WHERE size >= ? AND size < ? ORDER BY size LIMIT 1"
_BELOW = "SELECT size, root FROM checkpoints WHERE size > ? AND size < ? ORDER BY size DESC LIMIT 1"
_OTHER_ROOT = "its root is not that of the entries"


class LogCheck:
    """The log as stored, at the newest checkpoint, and whether entries are its leaves.

    What is found is in ``findings``; ``checked`` and ``not_checked`` name the layers.
    """

    def __init__(
        self, connection: Connection, held: Sequence[Held] = (), keys: Iterable[Verifier] | None = None
    ) -> None:
        self.findings: list[Finding] = []
        self.checked: list[str] = []
        self.not_checked: list[str] = []
        self.held: Checkpoint | None = None
        self.newest: Checkpoint | None = None
        self.newest_note: str | None = None
        self.uncovered = 0
        (self.last_id,) = connection.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()
        self._nodes = Nodes(recall_from(connection))
        self._tile, self._leaves = -1, [b""]
        self._root = EMPTY_ROOT
        self._covered = 0
        try:
            self.origin, self.size = origin_and_size(connection)
            self.trust = Trust(self.origin, signer_rows(connection), keys)
            self._root, self._covered = self.root_at(self.size), self.size
            self._check_row(connection)
        except LedgerError as error:
            self.origin, self.size = getattr(self, "origin", ""), getattr(self, "size", 0)
            self.trust = Trust(self.origin, ())
            self._say("merkle_log", str(error))
        for problem in self.trust.errors:
            self._say("checkpoint", problem)
        self.checked.append("merkle_log")
        self._check_newest(connection)
        self._check_held(held)

    def _say(self, layer: str, problem: str) -> None:
        self.findings.append(Finding(layer, problem))

    def root_at(self, size: int) -> bytes:
        """Return the root of the log's first leaves, from what is stored of it."""
        return range_root(self._nodes, 0, size)

    def _check_row(self, connection: Connection) -> None:
        if self.last_id != self.size:
            self._say("merkle_log", f"the log holds {self.size} entries, the ledger {self.last_id}")
        if self.last_id > self.size:
            beyond = connection.execute(_BEYOND, (self.size,)).fetchone()
            self.findings.append(Finding("merkle_log", "the log does not hold it", *beyond))
        (frontier,) = connection.execute("SELECT frontier FROM log").fetchone()
        peaks, start = b"", 0
        for level in reversed(range(self.size.bit_length())):
            if self.size >> level & 1:
                peaks += self._nodes(level, start >> level)
                start += 1 << level
        if frontier != peaks:
            self._say("merkle_log", "the frontier of the log is not that of its entries")

    def _check_newest(self, connection: Connection) -> None:
        row = connection.execute("SELECT size, root, note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
        if row is None:
            if self.trust.terms and self.size:
                self._say("checkpoint", "the ledger has a signing key and not one checkpoint")
            self.not_checked.append("checkpoint")
            return
        self.checked.append("checkpoint")
        problem = self.check_stored(*row)
        if problem:
            self._say("checkpoint", f"the checkpoint at size {row[0]}: {problem}")
            if problem in (_OTHER_ROOT, self._too_few()):  # else the note is nothing to go by
                self._find_the_first(connection)
        else:
            self.newest, self.newest_note = read_checkpoint(row[2]), row[2]
            self._root, self._covered = self.newest.root, self.newest.size

    def _too_few(self) -> str:
        return f"the log holds {self.size} entries only"

    def check_stored(self, size: Any, root: Any, note: Any) -> str:
        """Return what is wrong with a stored checkpoint, or nothing."""
        try:
            checkpoint = self.trust.open(note) if self.trust.covers(size) else read_checkpoint(note)
            if checkpoint != (self.origin, size, root):
                return "its note does not say what its columns say"
            if size > self.size:
                return self._too_few()
            return "" if self.root_at(size) == root else _OTHER_ROOT
        except (LedgerError, TypeError, AttributeError) as error:
            return str(error)

    def _find_the_first(self, connection: Connection) -> None:
        """Say which entries the first checkpoint covers that does not hold: all after it hold no more than it does."""
        holds, fails = 0, self.size + 1
        while True:
            middle = (holds + fails + 1) // 2  # above what holds
            row = (
                connection.execute(_FROM, (middle, fails)).fetchone()
                or connection.execute(_BELOW, (holds, middle)).fetchone()
            )
            if row is None:
                break
            if self._begins_with(*row):
                holds = row[0]
            else:
                fails = row[0]
        if fails - holds == 1:
            entry = connection.execute(_AT, (fails,)).fetchone()
            if entry is not None:
                self.findings.append(Finding("checkpoint", "it is not the entry that was signed for", *entry))
            else:
                self._say("checkpoint", f"place {fails} of the ledger has no entry, and one was signed for")
        elif fails <= self.size:
            problem = f"of places {holds + 1} to {fails}, one has another entry than was signed for, or none"
            self._say("checkpoint", problem)

    def _check_held(self, held: Sequence[Held]) -> None:
        """Compare with checkpoints from outside: the log must begin with each of them."""
        for note, layer, source in held:
            try:
                checkpoint = self.trust.open(note)
            except NoteError as error:
                self._say(layer, f"{source}: {error}")
                continue
            if self.held is None or checkpoint.size > self.held.size:
                self.held = checkpoint
            if checkpoint.size > self.size:
                self._say(
                    layer,
                    f"the ledger holds {self.size} entries and {source} {checkpoint.size}: entries have been cut off, "
                    "or an older copy was put in its place",
                )
            elif not self._begins_with(checkpoint.size, checkpoint.root):
                self._say(
                    layer,
                    f"the first {checkpoint.size} entries are not those that {source} was signed for: this is another "
                    "history",
                )
        (self.checked if held else self.not_checked).append("held_checkpoint")

    def _begins_with(self, size: int, root: Any) -> bool:
        try:
            return bool(self.root_at(size) == root)
        except LedgerError:
            return False

    def entry(self, position: int, digest: bytes) -> str:
        """Return why an entry is not the leaf at its position, or nothing; positions come in rising order."""
        if position >= self._covered:
            self.uncovered += 1
            return ""
        try:
            if position // TILE != self._tile:
                self._load(position)
            hashes, place = self._leaves, position % TILE
            if place < len(hashes) and leaf_hash(digest) == hashes[place]:
                return ""
        except (LedgerError, TypeError) as error:
            return str(error)
        return "the log has another entry in its place"

    def _load(self, position: int) -> None:
        """Take up the tile of a position once its first leaf leads to the root."""
        tile = position // TILE
        leaves = self._nodes.leaves(tile)[: self._covered - tile * TILE]
        # Both the proof and these leaves come from the tile's hashes, so one leaf's path vouches for all.
        path = inclusion_proof(self._nodes, position, self._covered)
        self._tile, self._leaves = tile, leaves
        if not verify_inclusion(leaves[position % TILE], position, self._covered, path, self._root):
            self._leaves = []
            raise LedgerError("the log does not lead from its place to the root of the checkpoint")
