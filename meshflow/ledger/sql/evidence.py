"""The part of a store in a database that proves and verifies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

from meshflow.errors import LedgerError
from meshflow.ledger.format.keys import KeySource
from meshflow.ledger.format.notes import Verifier
from meshflow.ledger.format.signers import SignerRow
from meshflow.ledger.sql.append import SqlAppender
from meshflow.ledger.sql.database import Connection, Database, forgiving
from meshflow.ledger.sql.proofs import UncoveredError, prove, prove_consistency, signer_rows
from meshflow.ledger.verify.run import unknown_run, verify_run

T = TypeVar("T")


class SqlEvidence:
    """Checkpoints, proofs and verification of a SqlStore."""

    _appender: SqlAppender
    _database: Database

    async def _run(self, job: Callable[[], T]) -> T:
        raise NotImplementedError

    async def _call(self, job: Callable[[Connection], T]) -> T | None:
        raise NotImplementedError

    async def _apart(self, job: Callable[[Connection], T], *, scoped: bool = True) -> T | None:
        raise NotImplementedError

    async def checkpoint(self) -> str | None:
        """Return a checkpoint of the log as it is, signed now if there is none; None for an empty ledger."""
        found = await self._call(_newest)
        if found is None:
            return None
        return found[0] if found else await self._run(self._appender.checkpoint)

    async def rotate_key(self, new: KeySource | None) -> str:
        """Hand over to a new key."""
        return await self._run(partial(self._appender.rotate_key, new))

    async def signers(self) -> list[SignerRow]:
        """Return the keys that the log was signed with."""
        return await self._call(signer_rows) or []

    async def prove(self, run_id: str, seq: int | None, step_index: int | None, tenant: str | None) -> dict[str, Any]:
        """Return an inclusion proof."""
        job = partial(prove, run_id=run_id, seq=seq, step_index=step_index, tenant=tenant)
        try:
            proof = await self._call(job)
        except UncoveredError:
            await self._run(self._appender.checkpoint)
            proof = await self._call(job)
        if proof is None:
            raise LedgerError(f"the ledger has no run {run_id!r}")
        return proof

    async def prove_consistency(self, old_size: int) -> dict[str, Any]:
        """Return a consistency proof."""
        proof = await self._call(partial(prove_consistency, old_size=old_size))
        if proof is None:
            raise LedgerError("the ledger is empty and has no checkpoint")
        return proof

    async def verify(
        self, run_id: str, tenant: str | None, held: Sequence[str] = (), keys: Sequence[Verifier] | None = None
    ) -> dict[str, Any]:
        """Check a run over a connection of its own, in a thread, at one snapshot."""

        def check(connection: Connection) -> dict[str, Any]:
            return verify_run(connection, self._appender.vault.opener(), run_id, tenant, held, keys)

        def job(connection: Connection) -> dict[str, Any]:
            self._database.verifiable(connection)
            return forgiving(self._database, connection, check)

        return await self._apart(job, scoped=False) or unknown_run(run_id)

    async def verify_ledger(
        self, held: Sequence[str], keys: Sequence[Verifier] | None, layers: Collection[str], processes: int | None,
        progress: Callable[[int, int], None] | None,
    ) -> dict[str, Any]:  # fmt: skip
        """Check all of it, in a thread and, when there is much of it, in processes."""
        from meshflow.ledger.verify.whole import verify_whole

        def job(connection: Connection) -> dict[str, Any]:
            self._database.verifiable(connection)
            return verify_whole(
                connection, self._database, self._appender.vault, held=held, keys=keys, layers=layers,
                processes=processes, progress=progress,
            )  # fmt: skip

        result = await self._apart(job, scoped=False)
        if result is None:
            raise LedgerError(f"{self._database.name} holds no ledger to verify")
        return result


def _newest(connection: Connection) -> list[str]:
    """Return the checkpoint of the log as it is, if there is one."""
    rows = connection.execute("SELECT note FROM checkpoints JOIN log ON log.size = checkpoints.size")
    return [row[0] for row in rows]
