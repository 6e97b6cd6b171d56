"""The part of the SQLite store that proves and verifies."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from meshflow.errors import LedgerError
from meshflow.ledger.format.keys import KeySource
from meshflow.ledger.format.notes import Verifier
from meshflow.ledger.format.signers import SignerRow
from meshflow.ledger.sql import proofs as sqlite_proofs
from meshflow.ledger.sql.append import SqliteAppender
from meshflow.ledger.sqlite.schema import EmptyFileError, OldSchemaError, explain, open_reader
from meshflow.ledger.verify.run import unknown_run, verify_run

if TYPE_CHECKING:
    from meshflow.ledger.sqlite.read import Reader

T = TypeVar("T")


class SqliteEvidence:
    """Checkpoints, proofs and verification of a SqliteStore."""

    _appender: SqliteAppender
    _path: Path
    _busy_timeout_ms: int

    async def open(self) -> None:
        raise NotImplementedError

    async def _run(self, job: Callable[[], T]) -> T:
        raise NotImplementedError

    async def _fetch(self, sql: str, parameters: dict[str, Any]) -> Iterable[Any]:
        raise NotImplementedError

    async def _reading(self) -> Reader | None:
        raise NotImplementedError

    async def checkpoint(self) -> str | None:
        """Return a checkpoint of the log as it is, signed now if there is none; None for an empty ledger."""
        rows = await self._fetch("SELECT note FROM checkpoints JOIN log ON log.size = checkpoints.size", {})
        for row in rows:
            return str(row[0])
        return await self._run(self._appender.checkpoint) if self._path.exists() else None

    async def rotate_key(self, new: KeySource | None) -> str:
        """Hand over to a new key."""
        return await self._run(partial(self._appender.rotate_key, new))

    async def signers(self) -> list[SignerRow]:
        """Return the keys that the log was signed with."""
        return await self._call(sqlite_proofs.signer_rows) or []

    async def prove(self, run_id: str, seq: int | None, step_index: int | None, tenant: str | None) -> dict[str, Any]:
        """Return an inclusion proof."""
        job = partial(sqlite_proofs.prove, run_id=run_id, seq=seq, step_index=step_index, tenant=tenant)
        try:
            proof = await self._call(job)
        except sqlite_proofs.UncoveredError:
            await self._run(self._appender.checkpoint)
            proof = await self._call(job)
        if proof is None:
            raise LedgerError(f"the ledger has no run {run_id!r}")
        return proof

    async def prove_consistency(self, old_size: int) -> dict[str, Any]:
        """Return a consistency proof."""
        proof = await self._call(partial(sqlite_proofs.prove_consistency, old_size=old_size))
        if proof is None:
            raise LedgerError("the ledger is empty and has no checkpoint")
        return proof

    async def _call(self, job: Callable[[sqlite3.Connection], T]) -> T | None:
        """Run a function on the reading connection; None when there is no ledger yet."""
        try:
            reader = await self._reading()
            return await reader.call(job) if reader is not None else None
        except EmptyFileError:
            return None
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    async def verify(
        self, run_id: str, tenant: str | None, held: Sequence[str] = (), keys: Sequence[Verifier] | None = None
    ) -> dict[str, Any]:
        """Check a run over a connection of its own, in a thread, at one snapshot."""

        def job() -> dict[str, Any]:
            connection = self._appender.vault.verifying(open_reader(self._path, self._busy_timeout_ms))
            try:
                return verify_run(connection, run_id, tenant, held, keys)
            finally:
                connection.close()

        return await self._verifying(job) or unknown_run(run_id)

    async def verify_ledger(
        self, held: Sequence[str], keys: Sequence[Verifier] | None, layers: Collection[str], processes: int | None,
        progress: Callable[[int, int], None] | None,
    ) -> dict[str, Any]:  # fmt: skip
        """Check the whole file, in a thread and, when there is much of it, in processes."""
        from meshflow.ledger.verify.whole import verify_whole

        job = partial(
            verify_whole, self._path, self._busy_timeout_ms, held=held, keys=keys, layers=layers, processes=processes,
            progress=progress,
        )  # fmt: skip
        result = await self._verifying(job)
        if result is None:
            raise LedgerError(f"{self._path} holds no ledger to verify")
        return result

    async def _verifying(self, job: Callable[[], T]) -> T | None:
        """Run a check in a thread; None when there is no ledger."""
        if not self._path.exists():
            return None
        try:
            try:
                return await asyncio.to_thread(job)
            except OldSchemaError:
                await self.open()
                return await asyncio.to_thread(job)
        except EmptyFileError:
            return None
        except sqlite3.Error as error:
            raise explain(error, self._path) from error
