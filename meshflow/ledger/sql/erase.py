"""Erasing: tombstone and deletion in one transaction, and no copy left behind."""

from __future__ import annotations

import uuid
from typing import NamedTuple

from meshflow.ledger.erasure import DELETED, HIDDEN_KINDS, ErasureOrder
from meshflow.ledger.format.entry import FIELD_NUMBER, FIELDS, VERSION, seal
from meshflow.ledger.sql.append import SqlAppender
from meshflow.ledger.sql.batch import expected
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.sql.holds import refuse_held
from meshflow.ledger.sql.payloads import Opener
from meshflow.ledger.sql.subjects import catch_up, digest, forget, index_key
from meshflow.ledger.sql.vault import shred

VISIBLE = (
    f"(e.kind NOT IN {HIDDEN_KINDS} OR NOT EXISTS (SELECT 1 FROM entries d INDEXED BY entries_erasure "  # noqa: S608
    f"WHERE d.run_id = e.run_id AND d.kind = 'erasure' AND d.code = '{DELETED}' AND d.tenant_id = e.tenant_id "
    "AND d.seq > e.seq))"
)
"""Condition that an entry ``e`` was not taken out of sight by the deletion of its run.

The index is named, since SQLite would rather read every entry behind ``e``, for each ``e``.
"""

WAS_DELETED = (
    f"EXISTS (SELECT 1 FROM entries d WHERE d.run_id = :run AND d.kind = 'erasure' AND d.code = '{DELETED}' "  # noqa: S608
    "AND (:tenant IS NULL OR d.tenant_id = :tenant))"
)
_SUBJECT_PAGE = 4_096


class Chosen(NamedTuple):
    """A payload to be erased."""

    payload_id: int
    seq: int
    tenant_id: str
    field: str
    key_id: int | None


def erase(appender: SqlAppender, run_id: str, order: ErasureOrder) -> int:
    """Append tombstones, delete the payloads that they name, and leave no copy of them."""
    gone = appender.transact(lambda connection: _erase(appender, connection, run_id, order))
    appender.database.scrub(appender.open())
    return gone


def _erase(appender: SqlAppender, connection: Connection, run_id: str, order: ErasureOrder) -> int:
    appender.known_head(connection, run_id, order.tenant)
    chosen = _choose(connection, appender.opener, run_id, order)
    ids = [one.payload_id for one in chosen]
    tenants = {one.tenant_id for one in chosen}
    if order.delete:
        tenants |= _still_listed(connection, run_id, order.tenant)
    if not tenants:
        return 0
    refuse_held(connection, appender.opener, run_id, order.tenant, ids)
    for tenant in sorted(tenants):
        _bury(appender, connection, run_id, order, tenant, [one for one in chosen if one.tenant_id == tenant])
    connection.executemany("DELETE FROM payloads WHERE id = ?", [(one,) for one in ids])
    forget(connection, ids)
    shred(connection, {one.key_id for one in chosen if one.key_id is not None})
    return len(chosen)


def _choose(connection: Connection, opener: Opener, run_id: str, order: ErasureOrder) -> list[Chosen]:
    whose, parameters = "", {"run": run_id, "tenant": order.tenant}
    if order.subject is not None:
        catch_up(connection, opener)
        whose = "AND e.id IN (SELECT entry_id FROM subjects WHERE digest = :digest)"
        parameters["digest"] = digest(index_key(connection), order.subject)  # type: ignore[assignment]
    rows = connection.execute(
        "SELECT p.id, e.seq, e.tenant_id, p.key_id FROM entries e "  # noqa: S608
        "JOIN payloads p ON p.id BETWEEN e.id * 16 AND e.id * 16 + 15 "
        f"WHERE e.run_id = :run AND (:tenant IS NULL OR e.tenant_id = :tenant) {whose} ORDER BY p.id",
        parameters,
    )
    wanted = {FIELD_NUMBER[name] for name in order.fields}
    found = [Chosen(id_, seq, whom, FIELDS[id_ % 16], key) for id_, seq, whom, key in rows if id_ % 16 in wanted]
    if order.only is None:
        return found
    nothing: frozenset[str] = frozenset()
    return [one for one in found if one.field in order.only.get(one.payload_id // 16 - 1, nothing)]


def _still_listed(connection: Connection, run_id: str, tenant: str | None) -> set[str]:
    """Return the tenants of a run of whose part something is listed, or inherited."""
    rows = connection.execute(
        f"SELECT tenant_id FROM entries WHERE run_id = :run AND (:tenant IS NULL OR tenant_id = :tenant) "  # noqa: S608
        "GROUP BY tenant_id "
        f"HAVING max(seq) FILTER (WHERE kind IN {(*HIDDEN_KINDS, 'fork')}) > "
        f"coalesce(max(seq) FILTER (WHERE kind = 'erasure' AND code = '{DELETED}'), -1)",
        {"run": run_id, "tenant": tenant},
    )
    return {row[0] for row in rows}


def _bury(
    appender: SqlAppender, connection: Connection, run_id: str, order: ErasureOrder, tenant: str,
    chosen: list[Chosen],
) -> None:  # fmt: skip
    """Append the tombstone of one tenant's payloads."""
    erased: dict[str, list[str]] = {}
    for one in chosen:
        erased.setdefault(str(one.seq), []).append(one.field)
    fields = {
        "v": VERSION, "kind": "erasure", "run_id": run_id, "step_id": uuid.uuid4().hex, "attempt": 0,
        "tenant_id": tenant, "started_us": order.at_us, "erased": erased, "reason": order.reason,
        "authority": order.authority,
    }  # fmt: skip
    draft = seal({**fields, "code": DELETED} if order.delete else fields, {})
    expected(appender.append_all(connection, [draft])[0])


def index_subjects(appender: SqlAppender) -> bool:
    """Go on with the index of subjects, one page; True when it is complete."""
    return appender.transact(lambda connection: catch_up(connection, appender.opener, _SUBJECT_PAGE))


def runs_of_subject(appender: SqlAppender, subject: str, after: str, limit: int, tenant: str | None) -> list[str]:
    """Return runs that hold payloads of somebody."""

    def work(connection: Connection) -> list[str]:
        rows = connection.execute(
            "SELECT DISTINCT e.run_id FROM subjects s JOIN entries e ON e.id = s.entry_id "
            "WHERE s.digest = :digest AND e.run_id > :after AND (:tenant IS NULL OR e.tenant_id = :tenant) "
            "ORDER BY e.run_id LIMIT :limit",
            {"digest": digest(index_key(connection), subject), "after": after, "tenant": tenant, "limit": limit},
        )
        return [row[0] for row in rows.fetchall()]

    return appender.transact(work)
