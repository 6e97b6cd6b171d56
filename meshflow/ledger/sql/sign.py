"""Signing the log of a ledger inside the transaction that extends it."""

from __future__ import annotations

import time
from collections.abc import Callable

from meshflow.errors import LedgerError
from meshflow.ledger.format.checkpoints import Checkpoint, rotation_text
from meshflow.ledger.format.companions import CompanionSource
from meshflow.ledger.format.cosignatures import CosigningKey
from meshflow.ledger.format.keys import KeySource
from meshflow.ledger.format.log import Log, Nodes
from meshflow.ledger.format.merkle import range_root
from meshflow.ledger.format.notes import Signer, sign_note
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.sql.log import recall_from

_ADD_SIGNER = "INSERT INTO signers (verifier, since_size, note) VALUES (?, ?, ?)"


class LogSigner:
    """Holds the key while a ledger is open for writing; without a source it signs nothing.

    Signs once ``every`` entries have no checkpoint over them, or one of them has had none for ``within_s``; the first
    checkpoint with the first entries, since a ledger with a key and without one has lost it.
    The newest stored checkpoint is compared with the log whenever another process may have written, so that no
    checkpoint is signed that contradicts it. ``companion`` holds a second key that signs each note too.
    """

    def __init__(
        self, source: KeySource | None, every: int, within_s: float, now_us: Callable[[], int], name: str,
        companion: CompanionSource | None = None,
    ) -> None:  # fmt: skip
        self._source = source
        self._every = every
        self._within_s = within_s
        self._now_us = now_us
        self._name = name
        self._key: Signer | None = None
        self._companion = companion
        self._second: CosigningKey | None = None
        self._signed = 0
        self._due: float | None = None

    def take_up(self, connection: Connection, origin: str, log: Log) -> None:
        """Check the key and the newest checkpoint against what the ledger holds."""
        row = connection.execute("SELECT size, root FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
        self._signed = row[0] if row is not None else 0
        if row is not None and _root_at(connection, log, row[0]) != row[1]:
            raise LedgerError(
                f"ledger {self._name}: its log contradicts the checkpoint signed at size {row[0]}; nothing more is "
                "signed. Keep it as it is, and verify it"
            )
        if self._source is not None:
            unsigned = connection.execute("SELECT 1 FROM signers LIMIT 1").fetchone() is None
            self._key = self._current(connection, origin, log)
            if self._companion is not None and self._second is None:
                self._second = self._companion.load(origin, True)
            if unsigned and log.size:
                self.sign(connection, origin, log)

    def _current(self, connection: Connection, origin: str, log: Log) -> Signer:
        assert self._source is not None  # noqa: S101 - asked for with a source alone
        row = connection.execute("SELECT verifier FROM signers ORDER BY id DESC LIMIT 1").fetchone()
        if row is not None and self._key is not None and str(self._key.verifier) == row[0]:
            return self._key
        key = self._source.load(origin, row is None)
        if row is None:
            connection.execute(_ADD_SIGNER, (str(key.verifier), log.size, ""))
        elif str(key.verifier) != row[0]:
            key = self._after_rotation(row[0])
        return key

    def _after_rotation(self, wanted: str) -> Signer:
        """Return the next key when a rotation was cut off between its record and its file."""
        assert self._source is not None  # noqa: S101 - asked for with a source alone
        pending = self._source.pending()
        if pending is None or str(pending.verifier) != wanted:
            raise LedgerError(
                f"ledger {self._name} is signed with key {wanted.split('+')[1]}, and the key given is another one; "
                "give that key, or hand over from it with rotate_key"
            )
        self._source.promote()
        return pending

    def settle(self, connection: Connection, origin: str, log: Log) -> None:
        """Sign what the transaction has appended, when it is time."""
        if self._key is None:
            return
        due = not self._signed or log.size - self._signed >= self._every
        if due or (self._due is not None and time.monotonic() >= self._due):
            self.sign(connection, origin, log)

    def committed(self, log: Log) -> None:
        """Take note, once a transaction is durable, of whether it left entries without a checkpoint."""
        if self._key is None or log.size == self._signed:
            self._due = None
        elif self._due is None:
            self._due = time.monotonic() + self._within_s

    def due_in(self) -> float | None:
        """Return in how many seconds to sign although nothing is appended; None when all has its checkpoint."""
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def put_off(self) -> None:
        """Have the next try, should this one fail, come no sooner than the first one came."""
        self._due = time.monotonic() + self._within_s

    def sign(self, connection: Connection, origin: str, log: Log) -> None:
        """Sign the log as it is, unless that is done."""
        if self._key is None:
            raise LedgerError("this ledger is open without a signing key; give one to sign checkpoints")
        if log.size == self._signed and log.size:
            return
        checkpoint = Checkpoint(origin, log.size, log.frontier.root())
        note = checkpoint.sign(self._key)
        if self._second is not None:
            note += self._second.line(checkpoint.text(), 0)
        connection.execute(
            "INSERT INTO checkpoints VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (log.size, checkpoint.root, self._now_us(), note),
        )
        self._signed = log.size

    def rotate(self, connection: Connection, origin: str, log: Log, new: KeySource | None) -> str:
        """Sign the log with the old key, have it vouch for a new one, and return the new verifier."""
        if self._key is None or self._source is None:
            raise LedgerError("this ledger is open without a signing key, so there is nothing to hand over from")
        self.sign(connection, origin, log)
        key = self._source.prepare(origin) if new is None else new.load(origin, True)
        checkpoint = Checkpoint(origin, log.size, log.frontier.root())
        note = sign_note(rotation_text(checkpoint, self._key.verifier, key.verifier), self._key)
        connection.execute(_ADD_SIGNER, (str(key.verifier), log.size, note))
        return str(key.verifier)

    def rotated(self, new: KeySource | None) -> None:
        """Take up the new key, once its record is durable."""
        if new is not None:
            self._source = new
        elif self._source is not None:
            self._source.promote()
        self._key = None


def _root_at(connection: Connection, log: Log, size: int) -> bytes | None:
    if size == log.size:
        return log.frontier.root()
    return range_root(Nodes(recall_from(connection)), 0, size) if size < log.size else None
