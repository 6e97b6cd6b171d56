"""One batch on its way into the tables: each draft is given its place behind the head of its run."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshflow.errors import LedgerConflictError
from meshflow.ledger.format.chain import genesis_hash, next_hash, run_head
from meshflow.ledger.format.entry import FIELD_NUMBER, UNBOUND, Draft, Written, body_of
from meshflow.ledger.sql.database import Connection, Database, groups
from meshflow.ledger.sql.payloads import KEY, PAYLOAD, Opener
from meshflow.ledger.writer import Outcome

_VERDICT_COLUMN = {"commit": 7, "reject": 8, "escalate": 9, "error": 10}
_SUMS = ("entries", "steps", "commits", "rejects", "escalates", "errors", "cost_micro_usd", "tokens")
_ADD_TO_RUN = (
    " ON CONFLICT (run_id, tenant_id) DO UPDATE SET "
    + ", ".join(f"{name} = runs.{name} + excluded.{name}" for name in _SUMS)
    + ", first_us = CASE WHEN runs.first_us IS NULL OR excluded.first_us < runs.first_us THEN excluded.first_us "
    "ELSE runs.first_us END"
    ", last_us = CASE WHEN runs.last_us IS NULL OR excluded.last_us > runs.last_us THEN excluded.last_us "
    "ELSE runs.last_us END"
)

_HEADS = (
    # The limit keeps planners from looking for the last entry at every entry.
    "WITH wanted (run_id) AS (VALUES %s), tops AS (SELECT w.run_id, "
    "(SELECT max(m.seq) FROM entries m WHERE m.run_id = w.run_id) AS seq FROM wanted w LIMIT 1000) "
    "SELECT e.run_id, e.seq, coalesce("
    "(SELECT max(s.step_index) + 1 FROM entries s WHERE s.run_id = e.run_id AND s.step_index IS NOT NULL), "
    "(SELECT r.parent_steps FROM runs r WHERE r.run_id = e.run_id AND r.first_seq = 0), 0), e.entry_hash, "
    "EXISTS (SELECT 1 FROM entries c WHERE c.run_id = e.run_id AND c.kind = 'close') "
    "FROM tops t JOIN entries e ON e.run_id = t.run_id AND e.seq = t.seq"
)
_RIVAL_ROWS = (
    "WITH wanted (run_id, step_id, attempt, kind) AS (VALUES %s) SELECT e.run_id, e.step_id, e.attempt, e.kind "
    "FROM wanted w JOIN entries e ON e.run_id = w.run_id AND e.step_id = w.step_id AND e.attempt = w.attempt "
    "AND e.kind = w.kind"
)
# A kind that is bound has SQLite plan the statement anew for each value, since an index of one kind might serve it.
_RIVAL = {
    kind: f"SELECT 1 FROM entries WHERE run_id = ? AND step_id = ? AND attempt = ? AND kind = '{kind}'"  # noqa: S608
    for kind in ("step", "intent")
}
_RIVALS = 32


@dataclass(slots=True)
class Head:
    """Where a run stands: the next seq and step index, the hash to follow, whether closed, and whose entries it has.

    ``named`` is what the hashes of its entries begin with. Moves on as a transaction places entries; when the
    transaction fails, all heads are forgotten and read again.
    """

    seq: int
    steps: int
    prev: bytes
    closed: bool
    tenants: frozenset[str]
    named: bytes


@dataclass(slots=True)
class Batch:
    """What a transaction will have changed; kept apart from what is known until the commit has succeeded."""

    last_id: int
    heads: dict[str, Head]
    known_nodes: set[tuple[str, str, str]]
    known_tools: set[tuple[str, str, str]]
    opener: Opener
    hashes: list[bytes] = field(default_factory=list)
    entries: list[Any] = field(default_factory=list)
    payloads: list[Any] = field(default_factory=list)
    runs: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    nodes: dict[tuple[str, str, str], int] = field(default_factory=dict)
    tools: dict[tuple[str, str, str], int] = field(default_factory=dict)
    taken: set[tuple[str, str, int, str]] = field(default_factory=set)
    """Attempts that drafts of this transaction begin or end, and rivals that were found: run, step, attempt, kind."""

    def insert(self, database: Database, connection: Connection) -> None:
        """Write all rows."""
        database.insert(connection, "entries", self.entries)
        if self.payloads:
            database.insert(connection, "payloads", self.payloads)
        database.insert(connection, "runs", [value for row in self.runs.values() for value in row], _ADD_TO_RUN)
        for table, rows in (("run_nodes", self.nodes), ("run_tools", self.tools)):
            if rows:
                values = [value for key, seq in rows.items() for value in (*key, seq)]
                database.insert(connection, table, values, " ON CONFLICT DO NOTHING")


def new_head(run_id: str) -> Head:
    """Return the head of a run without entries."""
    return Head(0, 0, genesis_hash(run_id), False, frozenset(), run_head(run_id))


def read_heads(connection: Connection, run_ids: Sequence[str]) -> dict[str, Head]:
    """Return the heads of those runs that have entries."""
    found: dict[str, Head] = {}
    for marks, values in groups(run_ids):
        tenants: dict[str, set[str]] = {}
        parts = f"SELECT run_id, tenant_id FROM runs WHERE run_id IN ({marks})"  # noqa: S608 - question marks alone
        for run_id, tenant in connection.execute(parts, values):
            tenants.setdefault(run_id, set()).add(tenant)
        for run_id, seq, steps, digest, closed in connection.execute(_HEADS % marks.replace("?", "(?)"), values):
            whose = frozenset(tenants.get(run_id, ()))
            found[run_id] = Head(seq + 1, steps, digest, bool(closed), whose, run_head(run_id))
    return found


def place(connection: Connection, batch: Batch, draft: Draft) -> Outcome:
    """Give the draft its place and queue its rows, or say why it has none."""
    run_id, columns = draft.run_id, draft.columns
    head = batch.heads[run_id]
    seq, prev = head.seq, head.prev
    kind, step_id, attempt, tenant = columns[:4]
    digest = next_hash(head.named, seq, prev, draft.body)
    if problem := _refusal(head, draft, digest):
        # What is in the ledger already stays answered, even when nothing new could follow.
        return known(connection, batch.opener, draft) or LedgerConflictError(problem)
    rival = _rival(draft)
    if rival is not None and rival in batch.taken:
        return LedgerConflictError(
            f"attempt {attempt} of step {step_id!r} in run {run_id!r} is taken; "
            "a new try of the step needs a new attempt number"
        )
    batch.taken.add((run_id, step_id, attempt, kind))
    batch.last_id = entry_id = batch.last_id + 1
    index = None
    if kind == "step":
        index = head.steps
        head.steps += 1
    elif kind == "fork":
        head.steps = draft.fields["parent_steps"]
    batch.hashes.append(digest)
    batch.entries += (entry_id, run_id, seq, index, *columns, prev, digest, draft.body)
    for name, salt, data in draft.payloads:
        batch.payloads += (entry_id * 16 + FIELD_NUMBER[name], salt, data, None)
    _count(batch, seq, draft)
    head.seq, head.prev = seq + 1, digest
    if kind == "close":
        head.closed = True
    if tenant not in head.tenants:
        head.tenants |= {tenant}
    return Written(run_id, seq, step_id, digest.hex(), index, entry_id - 1)


def _rival(draft: Draft) -> tuple[str, str, int, str] | None:
    """Return the entry that the draft may not follow, since it would speak for an attempt that is another's.

    An intent may not follow the attempt's outcome: it would run what the ledger calls over. An outcome without an
    intent of its own may not follow another's intent: it would take the place of the outcome that is to come.
    """
    kind, step_id, attempt = draft.columns[:3]
    if kind == "intent":
        return draft.run_id, step_id, attempt, "step"
    if kind == "step" and not draft.intended:
        return draft.run_id, step_id, attempt, "intent"
    return None


def find_rivals(connection: Connection, batch: Batch, drafts: Sequence[Draft]) -> None:
    """Look which attempts, of those that the drafts would begin or end, the ledger holds already; all at once."""
    rivals = [
        rival for draft in drafts if (rival := _rival(draft)) is not None and batch.heads[draft.run_id].seq
    ]  # fmt: skip
    if len(rivals) == 1:
        *attempt, kind = rivals[0]
        if connection.execute(_RIVAL[kind], attempt).fetchone() is not None:
            batch.taken.add(rivals[0])
        return
    for at in range(0, len(rivals), _RIVALS):
        part = rivals[at : at + _RIVALS]
        part += part[-1:] * (_RIVALS - len(part))
        wanted = ", ".join(["(?, ?, CAST(? AS BIGINT), ?)"] * _RIVALS)
        rows = connection.execute(_RIVAL_ROWS % wanted, [value for rival in part for value in rival])
        batch.taken.update((row[0], row[1], row[2], row[3]) for row in rows.fetchall())


def _count(batch: Batch, seq: int, draft: Draft) -> None:
    """Add the entry to the totals of its run."""
    kind, _, _, tenant, node, verdict, _, cost, tokens, started, duration, _ = draft.columns
    key = (draft.run_id, tenant)
    row = batch.runs.get(key)
    if row is None:
        row = batch.runs[key] = [*key, seq, None, 0, 0, 0, 0, 0, 0, 0, 0, 0, None, None]
    row[5] += 1
    if kind == "step":
        end = started + duration // 1_000
        row[6] += 1
        row[_VERDICT_COLUMN[verdict]] += 1
        row[11] += cost
        row[12] += tokens
        row[13] = started if row[13] is None or started < row[13] else row[13]
        row[14] = end if row[14] is None or end > row[14] else row[14]
        if node is not None and (triple := (*key, node)) not in batch.known_nodes:
            batch.nodes.setdefault(triple, seq)
        tool = draft.tool
        if tool is not None and (triple := (*key, tool)) not in batch.known_tools:
            batch.tools.setdefault(triple, seq)
    elif kind == "fork":
        fields = draft.fields
        row[3], row[4] = fields["parent_run_id"], fields["parent_steps"]


def _refusal(head: Head, draft: Draft, digest: bytes) -> str:
    kind = draft.columns[0]
    if head.closed and kind not in UNBOUND:
        return f"run {draft.run_id!r} is closed; nothing but an erasure may follow"
    if kind == "fork" and head.seq:
        return f"run {draft.run_id!r} has begun already; a fork needs a run id of its own"
    if draft.expect_prev is not None and draft.expect_prev != head.prev:
        return f"run {draft.run_id!r} stands at {head.prev.hex()}, not at the prev_hash given"
    if draft.expect_hash is not None and draft.expect_hash != digest:
        return "the entry_hash given is not the hash of this entry; leave it out of a new one"
    return ""


def known(connection: Connection, opener: Opener, draft: Draft) -> Outcome | None:
    """Return the entry that is there under the draft's key, a conflict when it says something else, or None."""
    row = connection.execute(
        "SELECT id, seq, prev_hash, entry_hash, body, step_index FROM entries "
        "WHERE run_id = ? AND step_id = ? AND attempt = ? AND kind = ?",
        (draft.run_id, *draft.key),
    ).fetchone()
    if row is None:
        return None
    entry_id, seq, prev, digest, body, index = row
    place = (entry_id * 16, entry_id * 16 + 15)
    rows = connection.execute(f"SELECT {PAYLOAD} FROM payloads p {KEY} WHERE p.id BETWEEN ? AND ?", place)  # noqa: S608
    salts = {payload_id % 16: salt for payload_id, salt, *_ in opener.open_rows(rows) if payload_id is not None}
    # A second intent is never the first one again: both would run.
    same = (
        draft.columns[0] != "intent"
        and len(salts) == len(draft.payloads)
        and all(FIELD_NUMBER[name] in salts for name, _, _ in draft.payloads)
    )
    if same:
        salted = tuple((name, salts[FIELD_NUMBER[name]], data) for name, _, data in draft.payloads)
        same = body_of(draft.fields, salted) == body
    if not same or draft.expect_prev not in (None, prev) or draft.expect_hash not in (None, digest):
        step_id, attempt, kind = draft.key
        return LedgerConflictError(
            f"run {draft.run_id!r} holds another {kind} entry of step {step_id!r}, attempt {attempt}; "
            "a new try of the step needs a new attempt number"
        )
    return Written(draft.run_id, seq, draft.key[0], digest.hex(), index, entry_id - 1)


def expected(outcome: Outcome) -> Written:
    """Return an entry that must have been written, or raise why it was not."""
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def run_ids_of(drafts: Collection[Draft]) -> set[str]:
    """Return the runs that drafts belong to."""
    return {draft.run_id for draft in drafts}
