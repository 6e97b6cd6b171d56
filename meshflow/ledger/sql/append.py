"""Appending to SQLite: one transaction a batch, chained under the lock that the transaction holds."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeVar

from meshflow.errors import LedgerError
from meshflow.ledger.format.entry import Draft
from meshflow.ledger.format.keys import KeySource
from meshflow.ledger.format.log import Log
from meshflow.ledger.sql.batch import Batch, Head, known, new_head, place, read_heads, run_ids_of
from meshflow.ledger.sql.log import load_log, save_log
from meshflow.ledger.sql.sign import LogSigner
from meshflow.ledger.sql.vault import Vault
from meshflow.ledger.sqlite.schema import explain, open_writer
from meshflow.ledger.writer import Outcome

T = TypeVar("T")
_HEADS_KEPT = 10_000
_NODES_KEPT = 100_000


class SqliteAppender:
    """The writing side of a SQLite ledger; used by one thread, which opens the file on first use."""

    def __init__(self, path: Path, busy_timeout_ms: int, signer: LogSigner, vault: Vault) -> None:
        self._path = path
        self.vault = vault
        self._busy_timeout_ms = busy_timeout_ms
        self._signer = signer
        self._connection: sqlite3.Connection | None = None
        self._place = ""
        self._file: tuple[int, int] | None = None
        self._version = -1
        self._last_id = 0
        self._heads: dict[str, Head] = {}
        self._nodes: set[tuple[str, str, str]] = set()
        self._log: Log | None = None
        self._origin = ""
        self._hashes: list[bytes] = []

    def open(self) -> sqlite3.Connection:
        """Return the connection, opened and with its schema in place."""
        if self._connection is None:
            self._place = os.path.abspath(self._path)  # a later change of folder must not lead elsewhere
            self._connection = self.vault.writing(open_writer(self._path, self._busy_timeout_ms))
            self._file = _identity(self._place)
        return self._connection

    def start(self) -> None:
        """Open the file, and check log and signing key before anything is written."""
        self.transact(self.open(), lambda: None)

    def close(self) -> None:
        """Close the file, if it was opened."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def append(self, batch: Sequence[Draft]) -> Sequence[Outcome]:
        """Write a batch in one transaction; entries that contradict the ledger fail alone."""
        connection = self.open()
        try:
            return self.transact(connection, lambda: self.append_all(connection, batch))
        except sqlite3.IntegrityError:
            # Some entry is there already. The careful way looks before each one.
            try:
                return self.transact(connection, lambda: self.append_each(connection, batch))
            except sqlite3.IntegrityError as error:
                raise explain(error, self._path) from error

    def transact(self, connection: sqlite3.Connection, work: Callable[[], T]) -> T:
        """Run ``work`` under the write lock and commit; on any error nothing of it stays."""
        try:
            self._begin(connection)
            self._refresh(connection)
            result = work()
            self._extend_log(connection)
            self._check_place()
            connection.execute("COMMIT")
            return result
        except BaseException as error:
            self._forget()
            self._roll_back(connection)
            if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
                raise explain(error, self._path) from error
            raise

    def _begin(self, connection: sqlite3.Connection) -> None:
        """Take the write lock, with short and uneven pauses: SQLite's own back off to 100 ms, and starve."""
        deadline = None
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY"):
                    raise
                now = time.monotonic()
                deadline = deadline or now + self._busy_timeout_ms / 1_000
                if now >= deadline:
                    raise
                time.sleep(random.uniform(0.0002, 0.004))

    def _check_place(self) -> None:
        """Refuse to commit into a file that no path leads to any more: the system would let us, and drop it later."""
        if _identity(self._place) != self._file:
            raise LedgerError(
                f"ledger {self._path}: the file has been deleted, moved or replaced since it was opened; "
                "put it back and open the ledger again"
            )

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def _forget(self) -> None:
        self._heads.clear()
        self._nodes.clear()
        self._hashes.clear()
        self._log = None
        self._version = -1

    def _refresh(self, connection: sqlite3.Connection) -> None:
        """Forget what another process may have changed; ``data_version`` says whether one has."""
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version or len(self._heads) > _HEADS_KEPT or len(self._nodes) > _NODES_KEPT:
            self._forget()
            self._last_id = connection.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()[0]
            self._origin, self._log = load_log(connection)
            if self._log.size != self._last_id:
                raise LedgerError(
                    f"ledger {self._path}: its log holds {self._log.size} entries, the ledger {self._last_id}; "
                    "keep the file as it is, and verify it"
                )
            self._signer.take_up(connection, self._origin, self._log)
            self._version = version

    def _extend_log(self, connection: sqlite3.Connection) -> None:
        if self._hashes and self._log is not None:
            save_log(connection, self._log, self._log.extend(self._hashes))
            self._hashes.clear()
            self._signer.settle(connection, self._origin, self._log)

    def checkpoint(self) -> str | None:
        """Return the newest signed note, of the log as it is; None for a ledger that holds nothing."""
        connection = self.open()

        def work() -> str | None:
            assert self._log is not None  # noqa: S101 - read at the begin of every transaction
            if self._log.size:
                self._signer.sign(connection, self._origin, self._log)
            row = connection.execute("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
            return row[0] if row is not None else None

        return self.transact(connection, work)

    def rotate_key(self, new: KeySource | None) -> str:
        """Hand over to a new key; return its verifier."""
        connection = self.open()

        def work() -> str:
            assert self._log is not None  # noqa: S101 - read at the begin of every transaction
            return self._signer.rotate(connection, self._origin, self._log, new)

        verifier = self.transact(connection, work)
        self._signer.rotated(new)
        self._forget()
        return verifier

    def append_all(self, connection: sqlite3.Connection, drafts: Sequence[Draft]) -> list[Outcome]:
        """Append drafts inside a transaction, for which no key is there yet; IntegrityError for one that is."""
        batch = self.started(connection, run_ids_of(drafts))
        outcomes = [place(connection, batch, draft) for draft in drafts]
        if batch.entries:
            self.vault.seal(connection, drafts, outcomes, batch.payloads)
            batch.insert(connection)
        # A failing commit forgets all of it again.
        self._heads.update(batch.heads)
        self._nodes.update(batch.nodes)
        self._hashes += batch.hashes
        self._last_id = batch.last_id
        return outcomes

    def append_each(self, connection: sqlite3.Connection, drafts: Sequence[Draft]) -> list[Outcome]:
        """Append drafts inside a transaction, looking for each key first."""
        outcomes: list[Outcome] = []
        for draft in drafts:
            found = known(connection, draft)
            outcomes.extend([found] if found is not None else self.append_all(connection, [draft]))
        return outcomes

    def started(self, connection: sqlite3.Connection, run_ids: Collection[str]) -> Batch:
        """Return an empty batch that knows where the runs stand."""
        missing = [run_id for run_id in run_ids if run_id not in self._heads]
        for at in range(0, len(missing), 500):
            self._heads.update(read_heads(connection, missing[at : at + 500]))
        heads = {run_id: self._heads.get(run_id) or new_head(run_id) for run_id in run_ids}
        return Batch(self._last_id, heads, self._nodes)

    def known_head(self, connection: sqlite3.Connection, run_id: str, tenant: str | None) -> Head:
        """Return the head of a run that exists, and that the tenant has part in; LedgerError otherwise."""
        head = self.started(connection, [run_id]).heads[run_id]
        if head.seq == 0 or (tenant is not None and tenant not in head.tenants):
            raise LedgerError(f"the ledger has no run {run_id!r}")
        return head


def _identity(place: str) -> tuple[int, int] | None:
    """Return what tells a file from any other, or None where there is none."""
    try:
        found = os.stat(place)
    except OSError:
        return None
    return found.st_dev, found.st_ino
