"""Proofs from the log of a ledger; every function reads at the caller's snapshot."""

from __future__ import annotations

from typing import Any

from meshflow.errors import LedgerError
from meshflow.ledger.format.checkpoints import read_checkpoint
from meshflow.ledger.format.log import Nodes
from meshflow.ledger.format.merkle import consistency_proof, inclusion_proof, range_root
from meshflow.ledger.format.signers import SignerRow
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.sql.log import load_log, recall_from


class UncoveredError(LedgerError):
    """The entry has come after the newest checkpoint."""


def origin_and_size(connection: Connection) -> tuple[str, int]:
    """Return the log's name and its number of leaves."""
    row = connection.execute("SELECT origin, size FROM log").fetchone()
    if row is None or not isinstance(row[0], str) or not isinstance(row[1], int):
        raise LedgerError("the row that describes the log is missing or damaged")
    return row[0], row[1]


def newest_checkpoint(connection: Connection) -> tuple[int, str] | None:
    """Return size and note of the newest checkpoint."""
    row = connection.execute("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
    return (row[0], row[1]) if row is not None else None


def signer_rows(connection: Connection) -> list[SignerRow]:
    """Return the keys that the log was signed with, the oldest first."""
    return connection.execute("SELECT verifier, since_size, note FROM signers ORDER BY id").fetchall()


def root_at(connection: Connection, size: int) -> bytes:
    """Return the root that the log had at a size."""
    return range_root(Nodes(recall_from(connection)), 0, size)


def _log(connection: Connection) -> tuple[str, Nodes]:
    """Return the log's name and nodes, its right edge as its row has it: whoever checks a proof notices a wrong one."""
    origin, log = load_log(connection)
    return origin, Nodes(recall_from(connection), log.frontier)


def prove(
    connection: Connection, run_id: str, seq: int | None, step_index: int | None, tenant: str | None
) -> dict[str, Any]:
    """Return the entry, its path to the root of the newest checkpoint, and that checkpoint."""
    place, value = ("step_index", step_index) if seq is None else ("seq", seq)
    row = connection.execute(
        "SELECT id, seq, step_index, kind, step_id, prev_hash, entry_hash, body FROM entries "  # noqa: S608
        f"WHERE run_id = :run AND {place} = :value AND (:tenant IS NULL OR tenant_id = :tenant)",
        {"run": run_id, "value": value, "tenant": tenant},
    ).fetchone()
    if row is None:
        raise LedgerError(f"run {run_id!r} has no entry with {place} {value}")
    newest = newest_checkpoint(connection)
    entry_id, found_seq, index, kind, step_id, prev, digest, body = row
    if newest is None or newest[0] < entry_id:
        raise UncoveredError(f"entry {found_seq} of run {run_id!r} has come after the newest checkpoint")
    size, note = newest
    origin, nodes = _log(connection)
    path = inclusion_proof(nodes, entry_id - 1, size)
    return {
        "v": 1,
        "origin": origin,
        "run_id": run_id,
        "seq": found_seq,
        "step_index": index,
        "kind": kind,
        "step_id": step_id,
        "leaf_index": entry_id - 1,
        "tree_size": size,
        "path": [step.hex() for step in path],
        "entry": {"prev_hash": prev.hex(), "entry_hash": digest.hex(), "body": body.decode()},
        "checkpoint": note,
        "keys": [row[0] for row in signer_rows(connection)],
    }


def prove_consistency(connection: Connection, old_size: int) -> dict[str, Any]:
    """Return what shows that the newest checkpoint's log begins with the one of an older size."""
    newest = newest_checkpoint(connection)
    if newest is None or not 0 <= old_size <= newest[0]:
        have = "none" if newest is None else f"size {newest[0]}"
        raise LedgerError(f"no checkpoint covers size {old_size}; the newest one is {have}")
    origin, nodes = _log(connection)
    path = consistency_proof(nodes, old_size, newest[0])
    return {
        "v": 1,
        "origin": origin,
        "old_size": old_size,
        "new_size": newest[0],
        "old_root": range_root(nodes, 0, old_size).hex(),
        "new_root": read_checkpoint(newest[1]).root.hex(),
        "path": [step.hex() for step in path],
        "checkpoint": newest[1],
        "keys": [row[0] for row in signer_rows(connection)],
    }


def consistency(connection: Connection, old_size: int, new_size: int) -> list[bytes]:
    """Return the consistency proof between two sizes that the log has had."""
    size = origin_and_size(connection)[1]
    if not 0 <= old_size <= new_size <= size:
        raise LedgerError(f"the log of {size} entries proves nothing about the sizes {old_size} and {new_size}")
    return consistency_proof(_log(connection)[1], old_size, new_size)
