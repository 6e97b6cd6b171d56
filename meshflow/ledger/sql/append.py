"""Appending to a ledger's tables: one transaction a batch, chained under the lock that the transaction holds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from meshflow.errors import LedgerError
from meshflow.ledger.format.entry import Draft
from meshflow.ledger.format.keys import KeySource
from meshflow.ledger.format.log import Log
from meshflow.ledger.sql.batch import Batch, Head, find_rivals, known, new_head, place, read_heads, run_ids_of
from meshflow.ledger.sql.database import Connection, Database, LostConnectionError
from meshflow.ledger.sql.log import load_log, save_log
from meshflow.ledger.sql.sign import LogSigner
from meshflow.ledger.sql.vault import Vault
from meshflow.ledger.writer import Outcome

T = TypeVar("T")
Work = Callable[[Connection], T]
_HEADS_KEPT = 10_000
_NODES_KEPT = 100_000


@dataclass(slots=True)
class _Attempt(Generic[T]):
    """One try at a transaction: what the work returned, its last entry's place and hash, and whether it is decided."""

    results: list[T] = field(default_factory=list)
    last: tuple[int, bytes] | None = None
    committing: bool = False

    def went_through(self, connection: Connection) -> bool:
        """Say, under the lock, whether the entries are there; a hash is of one entry in one place of one run."""
        row = connection.execute("SELECT 1 FROM entries WHERE id = ? AND entry_hash = ?", self.last).fetchone()
        return row is not None


class SqlAppender:
    """The writing side of a ledger in a database; used by one thread, which connects on first use.

    ``patience_ms`` is for how long a lost connection is sought again before what waits is refused.
    """

    def __init__(self, database: Database, signer: LogSigner, vault: Vault, patience_ms: int) -> None:
        self.database = database
        self.vault = vault
        self.opener = vault.opener()
        self._signer = signer
        self._patience_ms = patience_ms
        self._connection: Connection | None = None
        self._version: object = None
        self._last_id = 0
        self._heads: dict[str, Head] = {}
        self._nodes: set[tuple[str, str, str]] = set()
        self._tools: set[tuple[str, str, str]] = set()
        self._log: Log | None = None
        self._origin = ""
        self._hashes: list[bytes] = []

    def open(self) -> Connection:
        """Return the connection, opened and with the schema in place."""
        if self._connection is None:
            self._connection = self.database.open_writer()
        return self._connection

    def start(self) -> None:
        """Connect, and check log and signing key before anything is written."""
        self.transact(lambda _: None)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def due_in(self) -> float | None:
        """Return in how many seconds to call ``catch_up`` if nothing else is to be done; None for not at all."""
        return self._signer.due_in()

    def catch_up(self) -> None:
        """Sign what has no checkpoint over it yet."""
        self._signer.put_off()
        self.checkpoint()

    def append(self, batch: Sequence[Draft]) -> Sequence[Outcome]:
        """Write a batch in one transaction; entries that contradict the ledger fail alone."""
        try:
            return self.transact(lambda connection: self.append_all(connection, batch))
        except self.database.conflicts:
            # Some entry is there already. The careful way looks before each one.
            try:
                return self.transact(lambda connection: self.append_each(connection, batch))
            except self.database.conflicts as error:
                raise self.database.explain(error) from error

    def transact(self, work: Work[T]) -> T:
        """Run ``work`` under the write lock and commit; on any error nothing of it stays.

        When the connection is lost the work is done again over another, if it is certain that nothing was kept.
        """
        deadline, lost = None, None
        while True:
            attempt: _Attempt[T] = _Attempt()
            try:
                return self._attempt(work, attempt, lost)
            except LostConnectionError as error:
                if deadline is None and self._connection is None:
                    raise  # it could not be opened in the first place
                self.close()
                lost = attempt if attempt.committing and not error.undone else lost
                deadline = deadline or time.monotonic() + self._patience_ms / 1_000
                if lost is not None and (lost.last is None or time.monotonic() >= deadline):
                    raise LedgerError(
                        f"ledger {self.database.name}: the connection was lost while committing, so whether it was "
                        f"kept is not known; look, and do it again if it was not ({error})"
                    ) from error
                if time.monotonic() >= deadline:
                    raise
                time.sleep(random.uniform(0.02, 0.1))

    def _attempt(self, work: Work[T], attempt: _Attempt[T], lost: _Attempt[T] | None) -> T:
        connection = self.open()
        try:
            # The lock is free once whatever the server still had of a lost transaction has ended.
            self._refresh(self.database.begin(connection), connection)
            if lost is not None and lost.went_through(connection):
                connection.execute("ROLLBACK")
                return lost.results[0]
            attempt.results = [work(connection)]
            if self._hashes:
                attempt.last = (self._last_id, self._hashes[-1])
            self._extend_log(connection)
            attempt.committing = True
            self.database.commit(connection)
            if self._log is not None:
                self._version = self.database.next_version(self._version, self._log.size)
                self._signer.committed(self._log)
            return attempt.results[0]
        except BaseException as error:
            self._forget()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, self.database.failures) and not isinstance(error, self.database.conflicts):
                raise self.database.explain(error) from error
            raise

    def _forget(self) -> None:
        self._heads.clear()
        self._nodes.clear()
        self._tools.clear()
        self._hashes.clear()
        self._log = None
        self._version = None

    def _refresh(self, version: object, connection: Connection) -> None:
        """Forget what another process may have changed."""
        too_many = len(self._heads) > _HEADS_KEPT or len(self._nodes) + len(self._tools) > _NODES_KEPT
        if version != self._version or too_many:
            self._forget()
            self._last_id = connection.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()[0]
            self._origin, self._log = load_log(connection)
            if self._log.size != self._last_id:
                raise LedgerError(
                    f"ledger {self.database.name}: its log holds {self._log.size} entries, the ledger {self._last_id}; "
                    "keep it as it is, and verify it"
                )
            self._signer.take_up(connection, self._origin, self._log)
            self._version = version

    def _extend_log(self, connection: Connection) -> None:
        if self._hashes and self._log is not None:
            save_log(connection, self._log, self._log.extend(self._hashes))
            self._hashes.clear()
            self._signer.settle(connection, self._origin, self._log)

    def checkpoint(self) -> str | None:
        """Return the newest signed note, of the log as it is; None for a ledger that holds nothing."""

        def work(connection: Connection) -> str | None:
            assert self._log is not None  # noqa: S101 - read at the begin of every transaction
            if self._log.size:
                self._signer.sign(connection, self._origin, self._log)
            row = connection.execute("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
            return row[0] if row is not None else None

        return self.transact(work)

    def rotate_key(self, new: KeySource | None) -> str:
        """Hand over to a new key; return its verifier."""

        def work(connection: Connection) -> str:
            assert self._log is not None  # noqa: S101 - read at the begin of every transaction
            return self._signer.rotate(connection, self._origin, self._log, new)

        verifier = self.transact(work)
        self._signer.rotated(new)
        self._forget()
        return verifier

    def append_all(self, connection: Connection, drafts: Sequence[Draft]) -> list[Outcome]:
        """Append drafts inside a transaction, for which no key is there yet; a conflict for one that is."""
        batch = self.started(connection, run_ids_of(drafts))
        find_rivals(connection, batch, drafts)
        outcomes = [place(connection, batch, draft) for draft in drafts]
        if batch.entries:
            self.vault.seal(connection, drafts, outcomes, batch.payloads)
            batch.insert(self.database, connection)
        # A failing commit forgets all of it again.
        self._heads.update(batch.heads)
        self._nodes.update(batch.nodes)
        self._tools.update(batch.tools)
        self._hashes += batch.hashes
        self._last_id = batch.last_id
        return outcomes

    def append_each(self, connection: Connection, drafts: Sequence[Draft]) -> list[Outcome]:
        """Append drafts inside a transaction, looking for each key first."""
        outcomes: list[Outcome] = []
        for draft in drafts:
            found = known(connection, self.opener, draft)
            outcomes.extend([found] if found is not None else self.append_all(connection, [draft]))
        return outcomes

    def started(self, connection: Connection, run_ids: Collection[str]) -> Batch:
        """Return an empty batch that knows where the runs stand."""
        self._heads.update(read_heads(connection, [run_id for run_id in run_ids if run_id not in self._heads]))
        heads = {run_id: self._heads.get(run_id) or new_head(run_id) for run_id in run_ids}
        return Batch(self._last_id, heads, self._nodes, self._tools, self.opener)

    def known_head(self, connection: Connection, run_id: str, tenant: str | None) -> Head:
        """Return the head of a run that exists, and that the tenant has part in; LedgerError otherwise."""
        head = self.started(connection, [run_id]).heads[run_id]
        if head.seq == 0 or (tenant is not None and tenant not in head.tenants):
            raise LedgerError(f"the ledger has no run {run_id!r}")
        return head
