"""Legal holds: placed and released under a record, and looked up by every erasure in its own transaction."""

from __future__ import annotations

import uuid
from typing import Any

from meshflow.errors import LedgerError
from meshflow.ledger.erasure import LegalHoldError
from meshflow.ledger.format.entry import VERSION, seal
from meshflow.ledger.format.steps import timestamp
from meshflow.ledger.sql.append import SqlAppender
from meshflow.ledger.sql.batch import expected
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.sql.jobs import owner
from meshflow.ledger.sql.payloads import KEY, PAYLOAD, Opener
from meshflow.ledger.sql.subjects import APPROVER, PRINCIPAL, digest, index_key, names_in

HOLDS_RUN = "meshflow.holds"
"""The run that keeps the records of holds on subjects."""

_COLUMNS = ("id", "tenant_id", "run_id", "subject", "reason", "authority", "at_us", "released_at_us")
# A hold on a fork covers the run that its first steps lie in.
_IN_FORCE = (
    "WITH RECURSIVE forks (run_id) AS ("
    "SELECT s.run_id FROM runs s WHERE s.run_id = :run UNION SELECT r.run_id FROM forks f "
    "JOIN runs r ON r.parent_run_id = f.run_id) "
    "SELECT h.id, h.tenant_id, h.reason FROM holds h JOIN forks f ON h.run_id = f.run_id "
    "WHERE h.released_at_us IS NULL AND (:tenant IS NULL OR h.tenant_id IS NULL OR h.tenant_id = :tenant) "
    "ORDER BY h.id LIMIT 1"
)


def place_hold(
    appender: SqlAppender, run_id: str | None, subject: str | None, reason: str, authority: str,
    tenant: str | None, at_us: int,
) -> int:  # fmt: skip
    """Place a hold and append its record."""

    def work(connection: Connection) -> int:
        if run_id is not None:
            appender.known_head(connection, run_id, tenant)
        name = digest(index_key(connection), subject).hex() if subject is not None else None
        connection.execute(
            "INSERT INTO holds (tenant_id, run_id, subject, reason, authority, at_us) VALUES (?, ?, ?, ?, ?, ?)",
            (tenant, run_id, name, reason, authority, at_us),
        )
        number: int = connection.execute("SELECT max(id) FROM holds").fetchone()[0]  # under the lock, so it is ours
        _record(appender, connection, number, "hold", run_id, (reason, authority), tenant, at_us)
        return number

    return appender.transact(work)


def release_hold(
    appender: SqlAppender, number: int, reason: str, authority: str, tenant: str | None, at_us: int
) -> bool:
    """Release a hold and append a record of that."""

    def work(connection: Connection) -> bool:
        row = connection.execute(
            "SELECT run_id, released_at_us, tenant_id FROM holds WHERE id = :hold "
            "AND (:tenant IS NULL OR tenant_id = :tenant)",
            {"hold": number, "tenant": tenant},
        ).fetchone()
        if row is None:
            raise LedgerError(f"the ledger has no hold {number}")
        if row[1] is not None:
            return False
        connection.execute("UPDATE holds SET released_at_us = ? WHERE id = ?", (at_us, number))
        _record(appender, connection, number, "release", row[0], (reason, authority), row[2], at_us)
        return True

    return appender.transact(work)


def _record(
    appender: SqlAppender, connection: Connection, number: int, code: str, run_id: str | None,
    why: tuple[str, str], tenant: str | None, at_us: int,
) -> None:  # fmt: skip
    if run_id is not None:
        whose = tenant or owner(connection, run_id)
    else:
        # What concerns no tenant belongs to one that has no name, and so to nobody's view but the operator's.
        run_id, whose = HOLDS_RUN if tenant is None else f"{HOLDS_RUN}.{tenant}", tenant or ""
    draft = seal(
        {
            "v": VERSION, "kind": "retention", "run_id": run_id, "step_id": uuid.uuid4().hex, "attempt": 0,
            "tenant_id": whose, "started_us": at_us, "code": code, "hold": number, "reason": why[0],
            "authority": why[1],
        },
        {},
    )  # fmt: skip
    expected(appender.append_all(connection, [draft])[0])


def holds(connection: Connection, released: bool, tenant: str | None) -> list[dict[str, Any]]:
    """Return the holds that a tenant placed, or all."""
    rows = connection.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM holds WHERE (:released OR released_at_us IS NULL) "  # noqa: S608
        "AND (:tenant IS NULL OR tenant_id = :tenant) ORDER BY id",
        {"released": released, "tenant": tenant},
    )
    return [_hold_dict(dict(zip(_COLUMNS, row, strict=True))) for row in rows.fetchall()]


def _hold_dict(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "hold": row["id"],
        "tenant_id": row["tenant_id"],
        "run_id": row["run_id"],
        "subject_digest": row["subject"],
        "reason": row["reason"],
        "authority": row["authority"],
        "placed_at": timestamp(row["at_us"]),
        "released_at": None if row["released_at_us"] is None else timestamp(row["released_at_us"]),
    }


def refuse_held(
    connection: Connection, opener: Opener, run_id: str, tenant: str | None, payload_ids: list[int]
) -> None:
    """Raise LegalHoldError when a hold covers the run, or whoever the payloads to be erased belong to."""
    found = connection.execute(_IN_FORCE, {"run": run_id, "tenant": tenant}).fetchone()
    found = found or _held_subject(connection, opener, tenant, payload_ids)
    if found is None:
        return
    number, whose, reason = found
    because = f" ({reason})" if tenant is None or whose == tenant else ""
    raise LegalHoldError(
        f"run {run_id!r} is under legal hold {number}{because}; nothing was erased. Release the hold first"
    )


def hold_on(appender: SqlAppender, run_id: str, tenant: str) -> int | None:
    """Return the number of a hold on a tenant's part of a run, or on somebody in it."""

    def work(connection: Connection) -> int | None:
        rows = connection.execute(
            "SELECT p.id FROM entries e JOIN payloads p ON p.id BETWEEN e.id * 16 AND e.id * 16 + 15 "
            "WHERE e.run_id = :run AND e.tenant_id = :tenant",
            {"run": run_id, "tenant": tenant},
        )
        payload_ids = [row[0] for row in rows.fetchall()]
        found = connection.execute(_IN_FORCE, {"run": run_id, "tenant": tenant}).fetchone()
        found = found or _held_subject(connection, appender.opener, tenant, payload_ids)
        return None if found is None else int(found[0])

    return appender.transact(work)


def _held_subject(
    connection: Connection, opener: Opener, tenant: str | None, payload_ids: list[int]
) -> tuple[int, str | None, str] | None:
    """Return a hold on somebody whose entries are about to lose payloads, whatever the fields."""
    held: dict[bytes, tuple[int, str | None, str]] = {
        bytes.fromhex(row[0]): (row[1], row[2], row[3])
        for row in connection.execute(
            "SELECT subject, id, tenant_id, reason FROM holds WHERE subject IS NOT NULL AND released_at_us IS NULL "
            "AND (:tenant IS NULL OR tenant_id IS NULL OR tenant_id = :tenant)",
            {"tenant": tenant},
        )
    }
    if not held:
        return None
    key = index_key(connection)
    for entry_id in sorted({payload_id // 16 for payload_id in payload_ids}):
        for number in (PRINCIPAL, APPROVER):
            place = (entry_id * 16 + number,)
            rows = connection.execute(f"SELECT {PAYLOAD} FROM payloads p {KEY} WHERE p.id = ?", place)  # noqa: S608
            for payload_id, _, data, *_ in opener.open_rows(rows):
                for name in names_in(number, data) if payload_id is not None else ():
                    if (found := held.get(digest(key, name))) is not None:
                        return found
    return None
