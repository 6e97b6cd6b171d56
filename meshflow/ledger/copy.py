"""Copying a whole ledger to another place, SQLite or PostgreSQL: bytes, places, log and checkpoints stay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from meshflow.errors import LedgerError
from meshflow.ledger.format.notes import Verifier
from meshflow.ledger.locate import locate
from meshflow.ledger.outside import Held
from meshflow.ledger.sql.database import WRITTEN, Connection, Database, EmptyLedgerError, stream
from meshflow.ledger.sql.proofs import newest_checkpoint, origin_and_size, signer_rows
from meshflow.ledger.sql.vault import vault_of
from meshflow.ledger.verify.whole import verify_whole

Progress = Callable[[int, int], None]
_CHUNK = 1_000
_WHOLE = {
    "tiles": ("level", "position", "root", "hashes"),
    "checkpoints": ("size", "root", "at_us", "note"),
    "signers": ("id", "verifier", "since_size", "note"),
    "receipts": ("anchor", "size", "at_us", "place", "note", "token"),
    "anchor_failures": ("anchor", "since_us", "at_us", "failures", "problem"),
    "keys": ("id", "scope", "name", "wrapped", "made_us"),
    "holds": ("id", "tenant_id", "run_id", "subject", "reason", "authority", "at_us", "released_at_us"),
    "subject_index": ("id", "key", "upto"),
    "subjects": ("digest", "entry_id"),
}
"""Tables that are copied with all their columns, beside those of ``WRITTEN``; the log's row is brought up to date."""


async def copy_ledger(
    source: str | Path, target: str | Path, *, key_encryption_key: str | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Copy the ledger at ``source`` to ``target``, where none may be yet, and verify the copy against the source.

    The copy is of one moment, and there all at once or not at all. The result has ``entries``, ``payloads`` and
    ``runs`` copied; ``behind``, how many entries the source has had since; and ``verification``, the copy's own, for
    which encrypted payloads need ``key_encryption_key``. The signing key is not copied: the copy needs the same one.
    """
    old, new = locate(source).database, locate(target).database
    if old.name == new.name:
        raise LedgerError(f"{old.name} cannot be copied onto itself")
    loop = asyncio.get_running_loop()

    def report(done: int, total: int) -> None:
        if progress is not None:
            loop.call_soon_threadsafe(progress, done, total)

    vault = vault_of("none", key_encryption_key)
    try:
        connection = await _reading(old)
        try:
            copied, held, keys = await asyncio.to_thread(_copy, old, connection, new, report)
        finally:
            connection.close()
        copy = await new.connect(scoped=False)
        try:
            verification = await asyncio.to_thread(
                lambda: verify_whole(copy, new, vault, held=held, keys=keys, processes=1)
            )
        finally:
            copy.close()
        size = await old.call(lambda current: origin_and_size(current)[1])
        return {
            "source": old.name, "target": new.name, **copied, "behind": size - copied["entries"],
            "verification": verification,
        }  # fmt: skip
    except (*old.failures, *new.failures) as error:
        raise (old if isinstance(error, old.failures) else new).explain(error) from error
    finally:
        await old.aclose()
        await new.aclose()


async def _reading(database: Database) -> Connection:
    try:
        return await database.connect(scoped=False)
    except EmptyLedgerError:
        raise LedgerError(f"{database.name} holds no ledger to copy") from None


def _copy(
    old: Database, source: Connection, new: Database, report: Progress
) -> tuple[dict[str, int], list[Held], list[Verifier]]:
    """Copy in one transaction; return how many rows of which table, and what the copy is to be verified against."""
    old.verifiable(source)
    origin, size = origin_and_size(source)
    target = new.make(origin)
    try:
        target.execute("BEGIN")
        counts = dict.fromkeys((*WRITTEN, *_WHOLE), 0)
        for table, columns in WRITTEN.items():
            for rows in _chunks(source, table, columns):
                new.insert(target, table, [value for row in rows for value in row])
                counts[table] += len(rows)
                if table == "entries":
                    report(counts[table], size)
        for table, columns in _WHOLE.items():
            marks = ", ".join("?" * len(columns))
            for rows in _chunks(source, table, columns):
                target.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)  # noqa: S608
                counts[table] += len(rows)
        (frontier,) = source.execute("SELECT frontier FROM log").fetchone()
        target.execute("UPDATE log SET size = ?, frontier = ?", (size, frontier))
        new.numbered(target)
        target.execute("COMMIT")
    finally:
        target.close()
    newest = newest_checkpoint(source)
    keys = [Verifier.parse(verifier) for verifier, _, _ in signer_rows(source)]
    copied = {"entries": counts["entries"], "payloads": counts["payloads"], "runs": counts["runs"]}
    return copied, [Held(newest[1])] if newest is not None and keys else [], keys


def _chunks(source: Connection, table: str, columns: tuple[str, ...]) -> Iterator[list[Any]]:
    order = "id" if table in ("entries", "payloads", "runs", "signers", "keys", "holds") else "1, 2"
    rows: list[Any] = []
    for row in stream(source, f"SELECT {', '.join(columns)} FROM {table} ORDER BY {order}", (), _CHUNK):  # noqa: S608
        rows.append(row)
        if len(rows) == _CHUNK:
            yield rows
            rows = []
    if rows:
        yield rows
