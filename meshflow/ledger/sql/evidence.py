"""The part of a store in a database that proves and verifies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeVar

from meshflow.errors import LedgerError
from meshflow.ledger.format.findings import Health
from meshflow.ledger.format.keys import KeySource
from meshflow.ledger.format.notes import Verifier
from meshflow.ledger.format.signers import SignerRow
from meshflow.ledger.outside import Held
from meshflow.ledger.sql import receipts
from meshflow.ledger.sql.append import SqlAppender
from meshflow.ledger.sql.database import Connection, Database, forgiving
from meshflow.ledger.sql.proofs import (
    UncoveredError,
    consistency,
    newest_checkpoint,
    origin_and_size,
    prove,
    prove_consistency,
    signer_rows,
)
from meshflow.ledger.verify.run import unknown_run, verify_run

T = TypeVar("T")
_AHEAD_US = 5_000_000


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

    async def origin(self) -> str | None:
        """Return the name of the log."""
        found = await self._call(origin_and_size)
        return found[0] if found is not None else None

    async def cosigned(self) -> list[str]:
        """Return cosigned checkpoints."""
        return await self._call(receipts.cosigned) or []

    async def keep_receipt(self, anchor: str, size: int, place: str, note: str, token: str, at_us: int) -> None:
        """Keep what an anchor gave back."""
        await self._run(partial(receipts.keep_receipt, self._appender, anchor, size, place, note, token, at_us))

    async def keep_failure(self, anchor: str, problem: str, at_us: int) -> None:
        """Keep that an anchor failed."""
        await self._run(partial(receipts.keep_failure, self._appender, anchor, problem, at_us))

    async def receipts(self) -> list[dict[str, Any]]:
        """Return the newest receipt of each anchor."""
        return await self._call(receipts.receipts) or []

    async def anchor_failures(self) -> list[dict[str, Any]]:
        """Return which anchors fail."""
        return await self._call(receipts.failures) or []

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

    async def stored_checkpoint(self) -> tuple[int, str | None]:
        """Return the size of the log and the newest checkpoint stored."""
        found = await self._call(lambda connection: (origin_and_size(connection)[1], newest_checkpoint(connection)))
        if found is None:
            raise LedgerError(f"there is no ledger at {self._database.name}")
        return found[0], found[1][1] if found[1] is not None else None

    async def health(self, now_us: int) -> list[Health]:
        """Look at the storage, and compare the clock with what is on record."""

        def job(connection: Connection) -> list[Health]:
            return [*self._database.health(connection), clock_health(connection, now_us)]

        return await self._apart(job, scoped=False) or []

    async def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Return a consistency proof between two sizes."""
        proof = await self._call(partial(consistency, old_size=old_size, new_size=new_size))
        if proof is None:
            raise LedgerError("the ledger is empty")
        return proof

    async def verify(
        self, run_id: str, tenant: str | None, held: Sequence[Held] = (), keys: Sequence[Verifier] | None = None
    ) -> dict[str, Any]:
        """Check a run over a connection of its own, in a thread, at one snapshot."""

        def check(connection: Connection) -> dict[str, Any]:
            return verify_run(connection, self._appender.vault.opener(), run_id, tenant, held, keys)

        def job(connection: Connection) -> dict[str, Any]:
            self._database.verifiable(connection)
            return forgiving(self._database, connection, check)

        return await self._apart(job, scoped=False) or unknown_run(run_id)

    async def verify_ledger(
        self, held: Sequence[Held], keys: Sequence[Verifier] | None, layers: Collection[str], processes: int | None,
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


def clock_health(connection: Connection, now_us: int) -> Health:
    """Compare a clock with the newest times on record: of an entry, and of a checkpoint."""
    entry = connection.execute("SELECT started_us FROM entries ORDER BY id DESC LIMIT 1").fetchone()
    signed = connection.execute("SELECT at_us FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
    ahead_us = max(entry[0] if entry else 0, signed[0] if signed else 0) - now_us
    if ahead_us <= _AHEAD_US:
        return Health("ok", "clock", "not behind the newest record")
    return Health(
        "warning", "clock",
        f"the newest record is {ahead_us / 1_000_000:.0f} s ahead of this clock: it was set back, or another host's is "
        "ahead. Order and hashes do not depend on it; retention and the expiry of approvals do",
    )  # fmt: skip
