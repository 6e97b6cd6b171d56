"""One thread that owns a SQLite connection: what callers hand in while a commit is under way shares the next one."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from meshflow.checkpoint.store import CheckpointError

PATIENCE_S = 5.0
"""How long forgetting waits for those who read the file."""

Work = Callable[[sqlite3.Connection], Any]
MAX_BATCH = 256


class _Job(NamedTuple):
    work: Work
    writes: bool
    forgets: bool
    future: Future[Any]


class SqliteWorker:
    """Runs jobs in the order in which they came, each in a savepoint of its own, many in one transaction.

    A future is done when its job is on disk. A job that raises undoes itself and nothing else.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pid = os.getpid()

    def submit(self, work: Work, *, writes: bool, forgets: bool = False) -> Future[Any]:
        """Hand in a job; behind one that forgets the write-ahead log is emptied, which carried what is gone.

        CheckpointError for such a job if the log could not be emptied; the job itself is done.
        """
        if os.getpid() != self._pid:
            raise CheckpointError("this checkpoint store was opened before a fork; make a new one in the child process")
        job = _Job(work, writes, forgets, Future())
        with self._lock:
            if self._closed:
                raise CheckpointError("the checkpoint store is closed")
            if self._thread is None:
                # A daemon: what was acknowledged is on disk, and a forgotten close must not hang the process.
                self._thread = threading.Thread(target=self._run, name="meshflow-checkpoints", daemon=True)
                self._thread.start()
            self._queue.put(job)
        return job.future

    def close(self) -> None:
        """Finish what was handed in, and close the connection."""
        with self._lock:
            self._closed = True
            thread = self._thread
            if thread is not None:
                self._queue.put(None)
        if thread is not None and os.getpid() == self._pid:
            thread.join()

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        while (job := self._queue.get()) is not None:
            batch, ends = self._batch(job)
            try:
                if connection is None:
                    connection = self._connect()
                outcomes = _transaction(connection, batch)
            except Exception as error:  # whoever waits must hear of it, whatever it was
                outcomes = [error] * len(batch)
            forgetting = []
            for one, outcome in zip(batch, outcomes, strict=True):
                if one.forgets and isinstance(outcome, _Value):
                    forgetting.append((one.future, outcome))
                else:
                    _settle(one.future, outcome)
            problem = _empty_log(connection) if forgetting and connection is not None else None
            for future, value in forgetting:
                _settle(future, problem or value)
            if ends:
                break
        if connection is not None:
            connection.close()

    def _batch(self, first: _Job) -> tuple[list[_Job], bool]:
        batch = [first]
        while len(batch) < MAX_BATCH:
            try:
                following = self._queue.get_nowait()
            except Empty:
                break
            if following is None:
                return batch, True
            batch.append(following)
        return batch, False


class _Value(NamedTuple):
    value: Any


def _transaction(connection: sqlite3.Connection, batch: list[_Job]) -> list[_Value | Exception]:
    outcomes: list[_Value | Exception] = []
    connection.execute("BEGIN IMMEDIATE" if any(job.writes for job in batch) else "BEGIN")
    try:
        for job in batch:
            connection.execute("SAVEPOINT job")
            try:
                outcomes.append(_Value(job.work(connection)))
            except Exception as error:  # the job's own; its caller raises it
                connection.execute("ROLLBACK TO job")
                outcomes.append(error)
            connection.execute("RELEASE job")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return outcomes


def _empty_log(connection: sqlite3.Connection) -> Exception | None:
    """Move the write-ahead log into the file and cut it off; return what is wrong if a reader holds it for too long."""
    deadline = time.monotonic() + PATIENCE_S
    try:
        (usual,) = connection.execute("PRAGMA busy_timeout").fetchone()
        connection.execute("PRAGMA busy_timeout = 0")  # or SQLite itself would wait, for much longer
        try:
            while connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                if time.monotonic() >= deadline:
                    return CheckpointError(
                        "what was forgotten is gone from the tables, but its bytes are still in the write-ahead log, "
                        "which somebody who reads the file holds; forget it again once they have ended"
                    )
                time.sleep(0.01)
        finally:
            connection.execute(f"PRAGMA busy_timeout = {usual}")
    except sqlite3.Error as error:
        return error
    return None


def _settle(future: Future[Any], outcome: _Value | Exception) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(outcome, _Value):
        future.set_result(outcome.value)
    elif isinstance(outcome, sqlite3.Error):
        problem = CheckpointError(f"the checkpoint store failed: {outcome}")
        problem.__cause__ = outcome
        future.set_exception(problem)
    else:
        future.set_exception(outcome)
