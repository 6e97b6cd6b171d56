"""Checkpoints in a SQLite file: for many runs, threads and processes of one machine."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshflow.checkpoint.file_claim import FileClaims
from meshflow.checkpoint.store import (
    Checkpoint,
    CheckpointStore,
    Claim,
    Held,
    Saved,
    ThreadKey,
    Write,
    moved_on,
    not_the_same,
    target_taken,
)
from meshflow.checkpoint.worker import SqliteWorker
from meshflow.errors import ConfigError

_TABLES = """
CREATE TABLE IF NOT EXISTS checkpoints (
    tenant TEXT NOT NULL, thread TEXT NOT NULL, namespace TEXT NOT NULL, id TEXT NOT NULL, parent TEXT, run TEXT NOT
    NULL, body BLOB NOT NULL, metadata BLOB NOT NULL, held TEXT NOT NULL,
    PRIMARY KEY (tenant, thread, namespace, id));
CREATE INDEX IF NOT EXISTS checkpoints_of_run ON checkpoints (run, tenant);
CREATE TABLE IF NOT EXISTS blobs (
    tenant TEXT NOT NULL, thread TEXT NOT NULL, namespace TEXT NOT NULL, key TEXT NOT NULL, version TEXT NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (tenant, thread, namespace, key, version));
CREATE TABLE IF NOT EXISTS writes (
    number INTEGER PRIMARY KEY, tenant TEXT NOT NULL, thread TEXT NOT NULL, namespace TEXT NOT NULL,
    checkpoint TEXT NOT NULL, task TEXT NOT NULL, channel TEXT NOT NULL, place INTEGER NOT NULL, path TEXT NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (tenant, thread, namespace, checkpoint, task, channel, place));
CREATE INDEX IF NOT EXISTS writes_of_run ON writes (channel) WHERE channel GLOB 'run:*';
"""
_INSERT_ONLY = (
    "CREATE TRIGGER IF NOT EXISTS {0}_stand BEFORE UPDATE ON {0} "
    "BEGIN SELECT RAISE(ABORT, 'checkpoints are not changed once they are written'); END;"
)
_NAMES = ("checkpoints", "blobs", "writes")
_HERE = "tenant = ? AND thread = ? AND namespace = ?"
_PAGE = 64


class SqliteCheckpoints:
    """A checkpoint store in one file, in WAL with ``synchronous=FULL``: what was acknowledged survives a power cut.

    What is forgotten is overwritten, and gone from the write-ahead log. Runs that save at the same time share a commit.
    Close it with ``aclose`` or ``close``.
    """

    immediate = False

    def __init__(self, path: str | Path = "meshflow_checkpoints.db") -> None:
        if str(path) == ":memory:":
            raise ConfigError("a file is needed; for a store that ends with its process there is MemoryCheckpoints")
        self.path = Path(path)
        place = os.path.realpath(path)  # under whatever name, one file has one set of claims
        self._worker = SqliteWorker(partial(_connect, Path(place)))
        self._claims = FileClaims(Path(f"{place}-claims"))

    async def _do(self, work: Any, *arguments: Any, writes: bool = True, forgets: bool = False) -> Any:
        return await asyncio.wrap_future(self._submit(work, *arguments, writes=writes, forgets=forgets))

    def _submit(self, work: Any, *arguments: Any, writes: bool, forgets: bool) -> Future[Any]:
        return self._worker.submit(lambda connection: work(connection, *arguments), writes=writes, forgets=forgets)

    def blocking(self) -> CheckpointStore:
        """Return the same store for a caller without an event loop: it waits where it is called."""
        return _Blocking(self)

    async def put(
        self,
        key: ThreadKey,
        checkpoint: Checkpoint,
        blobs: Mapping[tuple[str, str], bytes],
        *,
        after: str | None = None,
    ) -> None:
        """Write a checkpoint and its new blobs."""
        await self._do(_put, key, checkpoint, blobs, after)

    async def put_writes(self, key: ThreadKey, checkpoint_id: str, writes: Sequence[Write]) -> None:
        """Add what a task did."""
        await self._do(_put_writes, key, checkpoint_id, writes)

    async def claim(self, tenant: str, thread_id: str) -> Claim:
        """Take a thread for one run, by a lock on a file beside the store's own."""
        return self._claims.take(tenant, thread_id)

    async def get(self, key: ThreadKey, checkpoint_id: str | None = None) -> Saved | None:
        """Return a checkpoint, or the newest."""
        saved: Saved | None = await self._do(_get, key, checkpoint_id, writes=False)
        return saved

    async def list(
        self, tenant: str, thread_id: str | None = None, namespace: str | None = None, *, before: str | None = None
    ) -> AsyncIterator[Saved]:
        """Yield checkpoints, the newest first."""
        place: tuple[str, str, str] | None = (before, "", "") if before is not None else None
        while True:
            page = await self._do(_page, tenant, thread_id, namespace, place, writes=False)
            for saved in page:
                yield saved
                place = (saved.checkpoint.checkpoint_id, saved.key.thread_id, saved.key.namespace)
            if len(page) < _PAGE:
                return

    async def threads(self, tenant: str) -> Sequence[str]:
        """Return the tenant's threads."""
        names: Sequence[str] = await self._do(_threads, tenant, writes=False)
        return names

    async def delete_thread(self, tenant: str, thread_id: str) -> None:
        """Forget a thread."""
        await self._do(_delete_thread, tenant, thread_id, forgets=True)

    async def delete_runs(self, tenant: str, run_ids: Sequence[str]) -> None:
        """Forget what these runs wrote."""
        await self._do(_delete_runs, tenant, run_ids, forgets=True)

    async def threads_of_runs(self, tenant: str | None, run_ids: Sequence[str]) -> Sequence[tuple[str, str]]:
        """Return the threads in which these runs wrote."""
        found: Sequence[tuple[str, str]] = await self._do(_threads_of_runs, tenant, run_ids, writes=False)
        return found

    async def erase_runs(self, tenant: str | None, run_ids: Sequence[str], held: Held | None = None) -> int:
        """Forget whole threads of these runs."""
        from meshflow.checkpoint.erasing import erase_threads

        try:
            return await erase_threads(self, tenant, run_ids, partial(self._do, _delete_thread), held)
        finally:  # once for all, and also if there was nothing: an erasure before may have left bytes in the log
            await self._do(_nothing, forgets=True)

    async def copy_thread(self, tenant: str, source: str, target: str) -> None:
        """Copy a thread."""
        await self._do(_copy_thread, tenant, source, target)

    async def prune(self, tenant: str, thread_id: str) -> None:
        """Forget all but the newest of each namespace."""
        await self._do(_prune, tenant, thread_id, forgets=True)

    async def aclose(self) -> None:
        """Finish what was handed in, and close the file."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Do the same for a blocking caller."""
        self._worker.close()
        self._claims.close()


class _Blocking(SqliteCheckpoints):
    immediate = True

    def __init__(self, store: SqliteCheckpoints) -> None:
        self.path = store.path
        self._worker = store._worker
        self._claims = store._claims

    async def _do(self, work: Any, *arguments: Any, writes: bool = True, forgets: bool = False) -> Any:
        return self._submit(work, *arguments, writes=writes, forgets=forgets).result()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA secure_delete=ON")
    connection.executescript(_TABLES + "".join(_INSERT_ONLY.format(name) for name in _NAMES))
    return connection


def _here(key: ThreadKey) -> tuple[str, str, str]:
    return key.tenant, key.thread_id, key.namespace


def _put(
    db: sqlite3.Connection, key: ThreadKey, one: Checkpoint, blobs: Mapping[tuple[str, str], bytes], after: str | None
) -> None:
    here = _here(key)
    stored = db.execute(
        f"SELECT parent, run, body, metadata, held FROM checkpoints WHERE {_HERE} AND id = ?",  # noqa: S608 - constants
        (*here, one.checkpoint_id),
    ).fetchone()
    row = (one.parent_id, one.run_id, one.body, one.metadata, json.dumps(dict(one.values), sort_keys=True))
    if stored is not None:
        if stored != row:
            raise not_the_same(key, one.checkpoint_id)
        return
    if after is not None:
        newest = db.execute(f"SELECT max(id) FROM checkpoints WHERE {_HERE}", here).fetchone()[0] or ""  # noqa: S608
        if newest != after:
            raise moved_on(key, after, newest)
    db.execute("INSERT INTO checkpoints VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", (*here, one.checkpoint_id, *row))
    db.executemany(
        "INSERT OR IGNORE INTO blobs VALUES (?, ?, ?, ?, ?, ?)",
        [(*here, name, version, payload) for (name, version), payload in blobs.items()],
    )


def _put_writes(db: sqlite3.Connection, key: ThreadKey, checkpoint_id: str, writes: Sequence[Write]) -> None:
    here = _here(key)
    db.executemany(
        "INSERT OR IGNORE INTO writes (tenant, thread, namespace, checkpoint, task, channel, place, path, payload) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [(*here, checkpoint_id, one.task_id, one.channel, one.index, one.path, one.payload) for one in writes],
    )


_COLUMNS = "tenant, thread, namespace, id, parent, run, body, metadata, held"


def _get(db: sqlite3.Connection, key: ThreadKey, checkpoint_id: str | None) -> Saved | None:
    where, more = ("AND id = ?", (checkpoint_id,)) if checkpoint_id is not None else ("ORDER BY id DESC LIMIT 1", ())
    row = db.execute(
        f"SELECT {_COLUMNS} FROM checkpoints WHERE {_HERE} {where}",  # noqa: S608 - constants
        (*_here(key), *more),
    ).fetchone()
    return None if row is None else _saved(db, row)


def _saved(db: sqlite3.Connection, row: Any) -> Saved:
    *here, checkpoint_id, parent, run, body, metadata, held = row
    versions = json.loads(held)
    blobs: dict[str, bytes] = {}
    for name, version in versions.items():
        found = db.execute(
            f"SELECT payload FROM blobs WHERE {_HERE} AND key = ? AND version = ?",  # noqa: S608 - constants
            (*here, name, version),
        ).fetchone()
        if found is not None:
            blobs[name] = found[0]
    writes = db.execute(
        f"SELECT task, channel, place, payload, path FROM writes WHERE {_HERE} AND checkpoint = ? "  # noqa: S608
        "ORDER BY number",
        (*here, checkpoint_id),
    ).fetchall()
    checkpoint = Checkpoint(
        checkpoint_id=checkpoint_id, parent_id=parent, run_id=run, body=body, metadata=metadata, values=versions
    )
    return Saved(ThreadKey(*here), checkpoint, blobs, tuple(Write(*one) for one in writes))


_PLACE = ("id", "last_thread", "last_namespace")


def _page(
    db: sqlite3.Connection, tenant: str, thread: str | None, namespace: str | None, place: tuple[str, str, str] | None
) -> list[Saved]:
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM checkpoints WHERE tenant = :tenant AND (:thread IS NULL OR thread = :thread) "  # noqa: S608
        "AND (:namespace IS NULL OR namespace = :namespace) AND (:id IS NULL OR id < :id OR (id = :id "
        "AND (thread, namespace) < (:last_thread, :last_namespace))) "
        f"ORDER BY id DESC, thread DESC, namespace DESC LIMIT {_PAGE}",
        {
            "tenant": tenant,
            "thread": thread,
            "namespace": namespace,
            **dict(zip(_PLACE, place or (None, None, None), strict=True)),
        },
    ).fetchall()
    return [_saved(db, row) for row in rows]


def _threads(db: sqlite3.Connection, tenant: str) -> list[str]:
    rows = db.execute("SELECT DISTINCT thread FROM checkpoints WHERE tenant = ? ORDER BY thread", (tenant,))
    return [name for (name,) in rows.fetchall()]


# The pattern says what the partial index says, or the planner would not use it.
THREADS_OF_RUN = """
SELECT tenant, thread FROM checkpoints WHERE run = :run AND (:tenant IS NULL OR tenant = :tenant)
UNION SELECT tenant, thread FROM writes WHERE channel = 'run:' || :run AND channel GLOB 'run:*'
AND (:tenant IS NULL OR tenant = :tenant)
"""


def _threads_of_runs(db: sqlite3.Connection, tenant: str | None, run_ids: Sequence[str]) -> list[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for run in run_ids:
        found.update(db.execute(THREADS_OF_RUN, {"tenant": tenant, "run": run}))
    return sorted(found)


def _nothing(db: sqlite3.Connection) -> None:
    """Change nothing."""


def _delete_thread(db: sqlite3.Connection, tenant: str, thread: str) -> None:
    for name in _NAMES:
        db.execute(f"DELETE FROM {name} WHERE tenant = ? AND thread = ?", (tenant, thread))  # noqa: S608 - constants


def _delete_runs(db: sqlite3.Connection, tenant: str, run_ids: Sequence[str]) -> None:
    spaces: set[tuple[str, str]] = set()
    for run in run_ids:
        rows = db.execute("SELECT thread, namespace, id FROM checkpoints WHERE tenant = ? AND run = ?", (tenant, run))
        for thread, namespace, checkpoint_id in rows.fetchall():
            _forget(db, (tenant, thread, namespace), checkpoint_id)
            spaces.add((thread, namespace))
    for thread, namespace in spaces:
        _sweep(db, (tenant, thread, namespace))


def _prune(db: sqlite3.Connection, tenant: str, thread: str) -> None:
    rows = db.execute(
        "SELECT namespace, max(id) FROM checkpoints WHERE tenant = ? AND thread = ? GROUP BY namespace",
        (tenant, thread),
    )
    for namespace, newest in rows.fetchall():
        here = (tenant, thread, namespace)
        for (old,) in db.execute(f"SELECT id FROM checkpoints WHERE {_HERE} AND id < ?", (*here, newest)).fetchall():  # noqa: S608
            _forget(db, here, old)
        _sweep(db, here)


def _forget(db: sqlite3.Connection, here: tuple[str, str, str], checkpoint_id: str) -> None:
    db.execute(f"DELETE FROM checkpoints WHERE {_HERE} AND id = ?", (*here, checkpoint_id))  # noqa: S608 - constants
    db.execute(f"DELETE FROM writes WHERE {_HERE} AND checkpoint = ?", (*here, checkpoint_id))  # noqa: S608 - constants


def _sweep(db: sqlite3.Connection, here: tuple[str, str, str]) -> None:
    """Forget the values that no checkpoint holds any more."""
    held = {
        pair
        for (text,) in db.execute(f"SELECT held FROM checkpoints WHERE {_HERE}", here)  # noqa: S608 - constants
        for pair in json.loads(text).items()
    }
    for pair in db.execute(f"SELECT key, version FROM blobs WHERE {_HERE}", here).fetchall():  # noqa: S608 - constants
        if pair not in held:
            db.execute(f"DELETE FROM blobs WHERE {_HERE} AND key = ? AND version = ?", (*here, *pair))  # noqa: S608


def _copy_thread(db: sqlite3.Connection, tenant: str, source: str, target: str) -> None:
    taken = db.execute("SELECT 1 FROM checkpoints WHERE tenant = ? AND thread = ? LIMIT 1", (tenant, target)).fetchone()
    if taken is not None:
        raise target_taken(target)
    columns = {
        "checkpoints": "namespace, id, parent, run, body, metadata, held",
        "blobs": "namespace, key, version, payload",
        "writes": "namespace, checkpoint, task, channel, place, path, payload",
    }
    for name, those in columns.items():
        order = " ORDER BY number" if name == "writes" else ""
        db.execute(
            f"INSERT INTO {name} (tenant, thread, {those}) "  # noqa: S608 - constants
            f"SELECT tenant, ?, {those} FROM {name} WHERE tenant = ? AND thread = ?{order}",
            (target, tenant, source),
        )


if TYPE_CHECKING:
    _: CheckpointStore = SqliteCheckpoints()
