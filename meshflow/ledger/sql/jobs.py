"""What happens to whole runs: close and fork; each in one transaction of the appender."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshflow.errors import LedgerError
from meshflow.ledger.format.chain import genesis_hash
from meshflow.ledger.format.entry import VERSION, Written, fork_fields, seal
from meshflow.ledger.sql.append import SqlAppender
from meshflow.ledger.sql.batch import expected
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.sql.lineage import step_hash


def close_run(appender: SqlAppender, run_id: str, tenant: str | None, at_us: int) -> Written:
    """Append the closing entry with the count of entries before it."""

    def work(connection: Connection) -> Written:
        head = appender.known_head(connection, run_id, tenant)
        if tenant is not None and head.tenants != {tenant}:
            raise LedgerError(f"run {run_id!r} is not this tenant's alone; close it without a tenant scope")
        if head.closed:
            row = connection.execute(
                "SELECT seq, entry_hash, id FROM entries WHERE run_id = ? AND kind = 'close'", (run_id,)
            ).fetchone()
            return Written(run_id, row[0], "", row[1].hex(), None, row[2] - 1)
        open_intents = connection.execute(
            "SELECT count(*) FROM entries i WHERE i.run_id = ? AND i.kind = 'intent' AND NOT EXISTS (SELECT 1 FROM "
            "entries s WHERE s.run_id = i.run_id AND s.step_id = i.step_id AND s.attempt = i.attempt "
            "AND s.kind = 'step')",
            (run_id,),
        ).fetchone()[0]
        fields = _lifecycle_fields("close", run_id, "", tenant or owner(connection, run_id), at_us)
        draft = seal({**fields, "count": head.seq, "unfinished": open_intents}, {})
        return expected(appender.append_all(connection, [draft])[0])

    return appender.transact(work)


def fork_run(
    appender: SqlAppender, run_id: str, parent_run_id: str, from_step: int, tenant: str | None, at_us: int,
    fields: Mapping[str, Any] | None = None,
) -> Written:  # fmt: skip
    """Begin a run that inherits the parent's steps before ``from_step``, by reference."""

    def work(connection: Connection) -> Written:
        parent = appender.known_head(connection, parent_run_id, tenant)
        if tenant is not None and parent.tenants != {tenant}:
            raise LedgerError(f"run {parent_run_id!r} is not this tenant's alone; fork it without a tenant scope")
        if not 0 <= from_step <= parent.steps:
            raise LedgerError(f"run {parent_run_id!r} has {parent.steps} steps; fork it from step 0 to {parent.steps}")
        last = step_hash(connection, parent_run_id, from_step - 1) if from_step else genesis_hash(parent_run_id)
        if last is None:
            raise LedgerError(f"run {parent_run_id!r} lacks step {from_step - 1}; verify it")
        reference = (parent_run_id, from_step, last.hex())
        whose = tenant or owner(connection, parent_run_id)
        draft = seal(fork_fields(run_id, reference, whose, at_us, fields), {})
        appender.started(connection, [run_id])
        return expected(appender.append_each(connection, [draft])[0])

    return appender.transact(work)


def owner(connection: Connection, run_id: str) -> str:
    """Return the tenant that began a run."""
    row = connection.execute("SELECT tenant_id FROM runs WHERE run_id = ? AND first_seq = 0", (run_id,)).fetchone()
    if row is None:
        raise LedgerError(f"the index of runs lacks run {run_id!r}; verify the ledger")
    return str(row[0])


def _lifecycle_fields(kind: str, run_id: str, step_id: str, tenant: str, at_us: int) -> dict[str, Any]:
    return {
        "v": VERSION, "kind": kind, "run_id": run_id, "step_id": step_id, "attempt": 0, "tenant_id": tenant,
        "started_us": at_us,
    }  # fmt: skip
