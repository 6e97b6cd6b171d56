"""Appending to SQLite: one transaction a batch, chained under the lock that the transaction holds."""

from __future__ import annotations

import random
import sqlite3
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from meshflow.errors import LedgerConflictError, LedgerError
from meshflow.ledger.chain import entry_hash, genesis_hash
from meshflow.ledger.entry import FIELD_NUMBER, VERSION, Draft, Written, body_of, seal
from meshflow.ledger.schema import explain, open_writer
from meshflow.ledger.writer import Outcome

T = TypeVar("T")
_ENTRY_COLUMNS = 18
_HEADS_KEPT = 10_000
# Rows go in by one statement for many, since each statement gives up the GIL and may wait 5 ms to get it back.
_CHUNKS = (512, 128, 32, 8, 2, 1)


@dataclass(slots=True)
class Head:
    """Where a run stands: the next seq, the hash to follow, whether it is closed, and whose entries it holds."""

    seq: int
    prev: bytes
    closed: bool
    tenants: frozenset[str]


@dataclass(slots=True)
class _Batch:
    """What a transaction will have changed; kept apart from what is known until the commit has succeeded."""

    last_id: int
    heads: dict[str, Head]
    entries: list[Any]
    payloads: list[Any]
    runs: list[Any]


class SqliteAppender:
    """The writing side of a SQLite ledger; used by one thread, which opens the file on first use."""

    def __init__(self, path: Path, busy_timeout_ms: int) -> None:
        self._path = path
        self._busy_timeout_ms = busy_timeout_ms
        self._connection: sqlite3.Connection | None = None
        self._version = -1
        self._last_id = 0
        self._heads: dict[str, Head] = {}

    def open(self) -> sqlite3.Connection:
        """Return the connection, opened and with its schema in place."""
        if self._connection is None:
            self._connection = open_writer(self._path, self._busy_timeout_ms)
        return self._connection

    def close(self) -> None:
        """Close the file, if it was opened."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def append(self, batch: Sequence[Draft]) -> Sequence[Outcome]:
        """Write a batch in one transaction; entries that contradict the ledger fail alone."""
        connection = self.open()
        try:
            return self._transact(connection, lambda: self._append_all(connection, batch))
        except sqlite3.IntegrityError:
            # Some entry is there already. The careful way looks before each one.
            try:
                return self._transact(connection, lambda: self._append_each(connection, batch))
            except sqlite3.IntegrityError as error:
                raise explain(error, self._path) from error

    def _transact(self, connection: sqlite3.Connection, work: Callable[[], T]) -> T:
        """Run ``work`` under the write lock and commit; on any error nothing of it stays."""
        try:
            self._begin(connection)
            self._refresh(connection)
            result = work()
            connection.execute("COMMIT")
            return result
        except BaseException as error:
            self._heads.clear()
            self._version = -1
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

    def _roll_back(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def _refresh(self, connection: sqlite3.Connection) -> None:
        """Forget what another process may have changed; ``data_version`` says whether one has."""
        version = connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version or len(self._heads) > _HEADS_KEPT:
            self._heads.clear()
            self._last_id = connection.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()[0]
            self._version = version

    def _append_all(self, connection: sqlite3.Connection, drafts: Sequence[Draft]) -> list[Outcome]:
        batch = self._started(connection, {draft.run_id for draft in drafts})
        outcomes = [_chained(connection, batch, draft) for draft in drafts]
        self._insert(connection, batch)
        return outcomes

    def _append_each(self, connection: sqlite3.Connection, drafts: Sequence[Draft]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        for draft in drafts:
            known = _known(connection, draft)
            outcomes.extend([known] if known is not None else self._append_all(connection, [draft]))
        return outcomes

    def _started(self, connection: sqlite3.Connection, run_ids: Collection[str]) -> _Batch:
        missing = [run_id for run_id in run_ids if run_id not in self._heads]
        for at in range(0, len(missing), 500):
            self._heads.update(_read_heads(connection, missing[at : at + 500]))
        heads = {run_id: self._heads.get(run_id) or _new_head(run_id) for run_id in run_ids}
        return _Batch(self._last_id, heads, [], [], [])

    def _insert(self, connection: sqlite3.Connection, batch: _Batch) -> None:
        _insert_rows(connection, "entries", _ENTRY_COLUMNS, batch.entries)
        _insert_rows(connection, "payloads", 3, batch.payloads)
        _insert_rows(connection, "runs", 4, batch.runs)
        # A failing commit clears both again.
        self._heads.update(batch.heads)
        self._last_id = batch.last_id

    def close_run(self, run_id: str, tenant: str | None, at_us: int) -> Written:
        """Append the closing entry with the count of entries before it."""
        connection = self.open()

        def work() -> Written:
            head = self._known_head(connection, run_id, tenant)
            if tenant is not None and head.tenants != {tenant}:
                raise LedgerError(f"run {run_id!r} is not this tenant's alone; close it without a tenant scope")
            if head.closed:
                row = connection.execute(
                    "SELECT seq, entry_hash FROM entries WHERE run_id = ? AND kind = 'close'", (run_id,)
                ).fetchone()
                return Written(run_id, row[0], "", row[1].hex())
            open_intents = connection.execute(
                "SELECT count(*) FROM entries i WHERE i.run_id = ? AND i.kind = 'intent' AND NOT EXISTS (SELECT 1 FROM "
                "entries s WHERE s.run_id = i.run_id AND s.step_id = i.step_id AND s.attempt = i.attempt "
                "AND s.kind = 'step')",
                (run_id,),
            ).fetchone()[0]
            owner = connection.execute("SELECT tenant_id FROM runs WHERE run_id = ? AND first_seq = 0", (run_id,))
            fields = _lifecycle_fields("close", run_id, "", tenant or owner.fetchone()[0], at_us)
            draft = seal({**fields, "count": head.seq, "unfinished": open_intents}, {})
            return _expected(self._append_all(connection, [draft])[0])

        return self._transact(connection, work)

    def erase(
        self, run_id: str, fields: Collection[str], reason: str, authority: str, tenant: str | None, at_us: int
    ) -> int:
        """Append a tombstone, delete the payloads that it names, and leave no copy in the WAL."""
        connection = self.open()
        gone = self._transact(
            connection, lambda: self._erase(connection, run_id, fields, (reason, authority), tenant, at_us)
        )
        # secure_delete has overwritten the pages; the log that carried them must go too, when no reader needs it.
        connection.execute("PRAGMA busy_timeout = 1000")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute("PRAGMA busy_timeout = 0")
        return gone

    def _erase(
        self, connection: sqlite3.Connection, run_id: str, fields: Collection[str], why: tuple[str, str],
        tenant: str | None, at_us: int,
    ) -> int:  # fmt: skip
        self._known_head(connection, run_id, tenant)
        numbers = {FIELD_NUMBER[name]: name for name in fields}
        rows = connection.execute(
            "SELECT p.id, e.seq FROM entries e JOIN payloads p ON p.id BETWEEN e.id * 16 AND e.id * 16 + 15 "
            "WHERE e.run_id = ? AND (? IS NULL OR e.tenant_id = ?) ORDER BY p.id",
            (run_id, tenant, tenant),
        ).fetchall()
        chosen = [(payload_id, seq, numbers[payload_id % 16]) for payload_id, seq in rows if payload_id % 16 in numbers]
        if not chosen:
            return 0
        owner = connection.execute("SELECT tenant_id FROM runs WHERE run_id = ? AND first_seq = 0", (run_id,))
        base = _lifecycle_fields("erasure", run_id, uuid.uuid4().hex, tenant or owner.fetchone()[0], at_us)
        erased: dict[str, list[str]] = {}
        for _, seq, name in chosen:
            erased.setdefault(str(seq), []).append(name)
        draft = seal({**base, "erased": erased, "reason": why[0], "authority": why[1]}, {})
        _expected(self._append_all(connection, [draft])[0])
        connection.executemany("DELETE FROM payloads WHERE id = ?", [(payload_id,) for payload_id, _, _ in chosen])
        return len(chosen)

    def _known_head(self, connection: sqlite3.Connection, run_id: str, tenant: str | None) -> Head:
        """Return the head of a run that exists, and that the tenant has part in; LedgerError otherwise."""
        head = self._started(connection, [run_id]).heads[run_id]
        if head.seq == 0 or (tenant is not None and tenant not in head.tenants):
            raise LedgerError(f"the ledger has no run {run_id!r}")
        return head


def _lifecycle_fields(kind: str, run_id: str, step_id: str, tenant: str, at_us: int) -> dict[str, Any]:
    return {
        "v": VERSION, "kind": kind, "run_id": run_id, "step_id": step_id, "attempt": 0, "tenant_id": tenant,
        "started_us": at_us,
    }  # fmt: skip


def _new_head(run_id: str) -> Head:
    return Head(0, genesis_hash(run_id), False, frozenset())


def _read_heads(connection: sqlite3.Connection, run_ids: Sequence[str]) -> dict[str, Head]:
    wanted = ", ".join(["(?)"] * len(run_ids))
    rows = connection.execute(
        f"WITH wanted (run_id) AS (VALUES {wanted}) "  # noqa: S608 - only question marks are put in
        "SELECT e.run_id, e.seq, e.entry_hash, "
        "EXISTS (SELECT 1 FROM entries c WHERE c.run_id = e.run_id AND c.kind = 'close'), "
        "(SELECT json_group_array(r.tenant_id) FROM runs r WHERE r.run_id = e.run_id) "
        "FROM wanted w JOIN entries e ON e.run_id = w.run_id "
        "AND e.seq = (SELECT max(m.seq) FROM entries m WHERE m.run_id = w.run_id)",
        run_ids,
    ).fetchall()
    return {row[0]: Head(row[1] + 1, row[2], bool(row[3]), frozenset(orjson.loads(row[4]))) for row in rows}


def _chained(connection: sqlite3.Connection, batch: _Batch, draft: Draft) -> Outcome:
    """Give the draft its place and queue its rows, or say why it has none."""
    head = batch.heads[draft.run_id]
    kind, tenant = draft.columns[0], draft.columns[3]
    digest = entry_hash(draft.run_id, head.seq, head.prev, draft.body)
    if problem := _refusal(head, draft, digest):
        # What is in the ledger already stays answered, even when nothing new could follow.
        return _known(connection, draft) or LedgerConflictError(problem)
    batch.last_id = entry_id = batch.last_id + 1
    batch.entries += (entry_id, draft.run_id, head.seq, *draft.columns, head.prev, digest, draft.body)
    for name, salt, data in draft.payloads:
        batch.payloads += (entry_id * 16 + FIELD_NUMBER[name], salt, data)
    if tenant not in head.tenants:
        batch.runs += (None, draft.run_id, tenant, head.seq)
    batch.heads[draft.run_id] = Head(head.seq + 1, digest, head.closed or kind == "close", head.tenants | {tenant})
    return Written(draft.run_id, head.seq, draft.columns[1], digest.hex())


def _refusal(head: Head, draft: Draft, digest: bytes) -> str:
    if head.closed and draft.columns[0] != "erasure":
        return f"run {draft.run_id!r} is closed; nothing but an erasure may follow"
    if draft.expect_prev is not None and draft.expect_prev != head.prev:
        return f"run {draft.run_id!r} stands at {head.prev.hex()}, not at the prev_hash given"
    if draft.expect_hash is not None and draft.expect_hash != digest:
        return "the entry_hash given is not the hash of this entry; leave it out of a new one"
    return ""


def _known(connection: sqlite3.Connection, draft: Draft) -> Outcome | None:
    """Return the entry that is there under the draft's key, a conflict when it says something else, or None."""
    row = connection.execute(
        "SELECT id, seq, prev_hash, entry_hash, body FROM entries "
        "WHERE run_id = ? AND step_id = ? AND attempt = ? AND kind = ?",
        (draft.run_id, *draft.key),
    ).fetchone()
    if row is None:
        return None
    entry_id, seq, prev, digest, body = row
    salts = dict(
        connection.execute(
            "SELECT id % 16, salt FROM payloads WHERE id BETWEEN ? AND ?", (entry_id * 16, entry_id * 16 + 15)
        )
    )
    same = len(salts) == len(draft.payloads) and all(FIELD_NUMBER[name] in salts for name, _, _ in draft.payloads)
    if same:
        salted = tuple((name, salts[FIELD_NUMBER[name]], data) for name, _, data in draft.payloads)
        same = body_of(draft.fields, salted) == body
    if not same or draft.expect_prev not in (None, prev) or draft.expect_hash not in (None, digest):
        step_id, attempt, kind = draft.key
        return LedgerConflictError(
            f"run {draft.run_id!r} holds another {kind} entry of step {step_id!r}, attempt {attempt}; "
            "a new try of the step needs a new attempt number"
        )
    return Written(draft.run_id, seq, draft.key[0], digest.hex())


def _expected(outcome: Outcome) -> Written:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _insert_rows(connection: sqlite3.Connection, table: str, width: int, flat: list[Any]) -> None:
    """Insert rows laid end to end, in as few statements of a few sizes as they take."""
    row = f"({', '.join('?' * width)})"
    at, left = 0, len(flat) // width
    for size in _CHUNKS:
        while left >= size:
            sql = f"INSERT INTO {table} VALUES {', '.join([row] * size)}"  # noqa: S608 - names of our own tables
            connection.execute(sql, flat[at : at + size * width])
            at += size * width
            left -= size
