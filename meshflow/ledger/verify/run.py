"""Checking a run against its own evidence: what was checked, what was not, and what is wrong.

The chain finds every edit, reordering, splice and gap inside a run; the log and its newest checkpoint, that the run was
rewritten and linked anew by somebody without the key. That a tail was cut off with its leaves, that an older copy was
put back, or that somebody with the key signed another history, shows only against a checkpoint held outside the
database. The result says in ``not_checked`` what was not looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

from meshflow.ledger.format.chain import SEQ_AND_PREV, entry_hashes, genesis_hash
from meshflow.ledger.format.entry import COLUMNS, FIELD_NUMBER, UNBOUND, columns_of, document_of
from meshflow.ledger.format.findings import Finding, missing
from meshflow.ledger.format.notes import Verifier
from meshflow.ledger.outside import Held
from meshflow.ledger.sql.database import Connection
from meshflow.ledger.sql.lineage import LINEAGE, Segment, segments, step_hash
from meshflow.ledger.sql.payloads import Opener
from meshflow.ledger.sql.totals import RunTotals
from meshflow.ledger.verify.log import LogCheck
from meshflow.ledger.verify.payloads import GONE, LOCKED, Digests

CHECKED = ("chain", "columns", "commitments", "erasures", "keys", "places", "run_index")
NOT_CHECKED = ("anchor", "witness", "other_runs")
_MAX_ERRORS = 1_000
_PAGE = 256
_PAYLOADS = (
    "FROM entries e JOIN payloads p ON p.id BETWEEN e.id * 16 AND e.id * 16 + 15 "
    "WHERE e.run_id = ? AND e.seq BETWEEN ? AND ?"
)

_FIRST_EMPTY = (
    "SELECT CASE WHEN EXISTS (SELECT 1 FROM entries WHERE id = 1) THEN (SELECT min(e.id) + 1 FROM entries e "
    "WHERE e.id >= 1 AND NOT EXISTS (SELECT 1 FROM entries n WHERE n.id = e.id + 1)) ELSE 1 END"
)


def unknown_run(run_id: str) -> dict[str, Any]:
    """Return the result for a run that the ledger does not know, which is never valid."""
    finding = Finding("run_index", f"the ledger has no run {run_id!r}", run_id)
    return _result(run_id, "unknown", 0, [finding], None)


def verify_run(
    connection: Connection, opener: Opener, run_id: str, tenant: str | None = None, held: Sequence[Held] = (),
    keys: Iterable[Verifier] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Check all of a run; with a tenant, count that tenant's steps and know only its runs.

    ``held`` are checkpoints from outside, and ``keys`` public keys from outside; without them the stored ones are
    believed.
    """
    mine = connection.execute(
        "SELECT count(*) FROM entries WHERE run_id = :run AND (:tenant IS NULL OR tenant_id = :tenant)",
        {"run": run_id, "tenant": tenant},
    ).fetchone()[0]
    if not mine:
        return unknown_run(run_id)
    return _Check(connection, opener, run_id, tenant, LogCheck(connection, held, keys)).result()


def _result(run_id: str, state: str, steps: int, findings: Sequence[Finding], log: LogCheck | None) -> dict[str, Any]:
    newest, held = (log.newest, log.held) if log is not None else (None, None)
    return {
        "run_id": run_id,
        "valid": state != "unknown" and not findings,
        "state": state,
        "steps_verified": steps,
        "errors": [str(finding) for finding in findings],
        "findings": [finding.as_dict() for finding in findings],
        "checked": [*CHECKED, *log.checked] if log is not None else [],
        "not_checked": [*(log.not_checked if log is not None else ()), *NOT_CHECKED],
        "uncovered": log.uncovered if log is not None else 0,
        "checkpoint_size": newest.size if newest is not None else None,
        "held_size": held.size if held is not None else None,
        "keys_from_outside": log is not None and log.trust.from_outside,
    }


def _unnamed(finding: Finding) -> Finding:
    return Finding(finding.layer, f"an entry of another run: {finding.problem}")


class _Check:
    """One pass over a run in order of seq."""

    def __init__(self, connection: Connection, opener: Opener, run_id: str, tenant: str | None, log: LogCheck) -> None:
        self._log = log
        self._connection = connection
        self._opener = opener
        self._run_id = run_id
        self._tenant = tenant
        self._findings: list[Finding] = []
        self._steps = 0
        self._count = 0
        self._previous = genesis_hash(run_id)
        self._begin_hash = entry_hashes(run_id)
        self._digests = Digests(connection, opener)
        self._last_id = 0
        self._keys: set[tuple[Any, ...]] = set()
        self._totals = RunTotals(run_id)
        self._next_step = 0
        self._missing: dict[tuple[int, str], str] = {}
        self._closed = False
        self._sealed = 0
        self._parents: list[Segment] = []

    def result(self) -> dict[str, Any]:
        findings = self._own()
        for part in self._parents:
            parent = _Check(self._connection, self._opener, part.run_id, None, self._log)
            for finding in parent._own():
                problem = f"run {part.run_id!r}, which it inherits from: {finding}"
                findings.append(Finding(finding.layer, problem, part.run_id))
            self._sealed += parent._sealed
        state = "closed" if self._closed else "open"
        findings += [one if self._may_name(one.run_id) else _unnamed(one) for one in self._log.findings]
        result = _result(self._run_id, state, self._steps, findings, self._log)
        if self._sealed:  # encrypted under a key that was not given
            result["not_checked"].append("sealed_payloads")
        return result

    def _may_name(self, run_id: str | None) -> bool:
        """Say whether whoever asks for this run may hear of that one; none is told of another tenant's."""
        return run_id in (None, self._run_id) or run_id in {part.run_id for part in self._parents}

    def _own(self) -> list[Finding]:
        """Check the run's own entries and return what is wrong with them."""
        rows = self._connection.execute(
            f"SELECT id, seq, step_index, {', '.join(COLUMNS)}, prev_hash, entry_hash, body FROM entries "  # noqa: S608
            "WHERE run_id = ? ORDER BY seq, id",
            (self._run_id,),
        )
        while page := rows.fetchmany(_PAGE):
            self._read_payloads(page[0][1], page[-1][1])
            for row in page:
                self._entry(row)
            self._stray_payloads(page)
            if len(self._findings) >= _MAX_ERRORS:
                return self._findings
        self._at_end()
        return self._findings

    def _read_payloads(self, first: Any, last: Any) -> None:
        """Digest the payloads of a page of entries, and forget those before."""
        self._digests.held.clear()
        rows = self._connection.execute(self._digests.select(_PAYLOADS), (self._run_id, first, last))
        while some := rows.fetchmany(_PAGE):
            self._digests.add(some)

    def _stray_payloads(self, page: Sequence[Any]) -> None:
        """Report the payloads of a page that nobody has asked for."""
        if self._digests.held:
            entries = {row[0]: row for row in page}
            for payload_id in sorted(self._digests.held):
                entry_id, number = divmod(payload_id, 16)
                if row := entries.get(entry_id):  # two entries in one place may be on two pages
                    self._say("commitments", row[1], row[4], f"payload number {number} is there without a commitment")

    def _say(self, layer: str, seq: object, step_id: object, problem: str) -> None:
        self._findings.append(Finding(layer, problem, self._run_id, seq, step_id))

    def _entry(self, row: tuple[Any, ...]) -> None:
        entry_id, seq, index, columns, (prev, digest, body) = *row[:3], row[3:-3], row[-3:]
        step_id, before = columns[1], len(self._findings)
        if seq != self._count:
            if isinstance(seq, int) and seq > self._count:
                self._findings.append(missing(self._run_id, self._count, seq))
            else:
                self._say("chain", seq, step_id, f"its place is taken twice, or entry {self._count} is missing")
            self._count = seq if isinstance(seq, int) else self._count
        if entry_id <= self._last_id:
            self._say("places", seq, step_id, "its place in the ledger is before that of the entry it follows")
        if prev != self._previous:
            self._say("chain", seq, step_id, "prev_hash is not the hash of the entry before")
        if not self._hash_holds(seq, prev, digest, body):
            self._say("chain", seq, step_id, "entry_hash is not the hash of the entry")
        if problem := self._log.entry(entry_id - 1, digest):
            self._say("merkle_log", seq, step_id, problem)
        self._count, self._last_id, self._previous = self._count + 1, entry_id, digest
        document = document_of(body)
        if document is None:
            self._say("columns", seq, step_id, "its body is not a JSON object")
            return
        try:
            wanted = columns_of(document)
            self._against_body(seq, columns, wanted, document)
            self._against_payloads(entry_id, seq, step_id, document)
            self._follow(seq, index, columns, wanted, document)
        except (TypeError, ValueError, AttributeError, KeyError):
            self._say("columns", seq, step_id, "its body does not have the form of an entry")
        if columns[0] == "step" and self._tenant in (None, columns[3]) and len(self._findings) == before:
            self._steps += 1

    def _hash_holds(self, seq: Any, prev: Any, digest: Any, body: Any) -> bool:
        try:
            hashed = self._begin_hash()
            hashed.update(SEQ_AND_PREV(seq, 32, prev, len(body)))
            hashed.update(body)
        except (struct.error, TypeError):
            return False
        return bool(hashed.digest() == digest) and len(prev) == 32

    def _against_body(
        self, seq: Any, columns: tuple[Any, ...], wanted: tuple[Any, ...], document: dict[str, Any]
    ) -> None:
        if document.get("run_id") != self._run_id:
            self._say("columns", seq, columns[1], "its body belongs to another run")
        # Types too, since SQLite would keep 1.0 or "1" where the body says 1.
        if columns != wanted or list(map(type, columns)) != list(map(type, wanted)):
            for name, column, value in zip(COLUMNS, columns, wanted, strict=True):
                if column != value or type(column) is not type(value):
                    self._say("columns", seq, columns[1], f"column {name} does not say what the body says")

    def _against_payloads(self, entry_id: int, seq: Any, step_id: Any, document: dict[str, Any]) -> None:
        for name, committed in document.get("commitments", {}).items():
            number = FIELD_NUMBER.get(name)
            digest = self._digests.held.pop(entry_id * 16 + number, GONE) if number is not None else GONE
            if digest == committed:
                continue
            if digest is GONE:
                self._missing[seq, name] = str(step_id)
            elif digest is LOCKED:
                self._sealed += 1
            else:
                self._say("commitments", seq, step_id, f"payload {name} is not what was committed to")

    def _follow(
        self, seq: Any, index: Any, columns: tuple[Any, ...], wanted: tuple[Any, ...], document: dict[str, Any]
    ) -> None:
        """Check what the entry means for the run: its key, its tenant, erasures and the close."""
        kind, step_id, attempt = columns[:3]
        key = (step_id, attempt, kind)
        if key in self._keys:
            self._say("keys", seq, step_id, f"a second {kind} entry of attempt {attempt}")
        self._keys.add(key)
        self._totals.add(seq, wanted, document)
        place = self._next_step if kind == "step" else None
        if index != place or type(index) is not type(place):
            self._say("places", seq, step_id, f"its step index is {index}, not {place}")
        if kind == "step":
            self._next_step = (index if type(index) is int else self._next_step) + 1
        if kind == "fork":
            self._fork(seq, document)
        if kind == "erasure":
            self._erasure(seq, step_id, document)
        elif self._closed and kind not in UNBOUND:
            self._say("places", seq, step_id, "it follows the close of the run")
        elif kind == "close":
            self._closed = True
            if document.get("count") != seq:
                self._say("places", seq, step_id, f"the close counts {document.get('count')} entries, not {seq}")

    def _erasure(self, seq: Any, step_id: Any, document: dict[str, Any]) -> None:
        for erased_seq, names in document.get("erased", {}).items():
            for name in names:
                if self._missing.pop((int(erased_seq), name), None) is None:
                    self._say(
                        "erasures", seq, step_id, f"payload {name} of entry {erased_seq} was erased, and is there"
                    )

    def _fork(self, seq: Any, document: dict[str, Any]) -> None:
        """Check that what a fork inherits is there, and is what it was."""
        parent, steps, wanted = (document[name] for name in ("parent_run_id", "parent_steps", "parent_entry_hash"))
        self._next_step = steps
        if seq != 0:
            self._say("places", seq, "", "a fork entry that does not begin the run")
        found = step_hash(self._connection, parent, steps - 1) if steps else genesis_hash(parent)
        if found is None:
            self._say("chain", seq, "", f"the run it forks, {parent!r}, has no step {steps - 1}")
        elif found.hex() != wanted:
            self._say(
                "chain", seq, "", f"step {steps - 1} of the run it forks, {parent!r}, is not the one that was forked"
            )
        self._parents += [part for part in self._lineage() if part.run_id != self._run_id]

    def _lineage(self) -> list[Segment]:
        return segments(self._connection.execute(LINEAGE, {"run": self._run_id}).fetchall())

    def _at_end(self) -> None:
        for (seq, name), step_id in self._missing.items():
            self._say("erasures", seq, step_id, f"payload {name} is gone without an erasure entry")
        self._findings += self._totals.differences(self._connection, self._count)
        count, last, first = self._connection.execute("SELECT count(*), max(id), min(id) FROM entries").fetchone()
        if count != last or first != 1:
            (empty,) = self._connection.execute(_FIRST_EMPTY).fetchone()
            problem = f"the ledger has {count} entries in {last} places, and none in place {empty}: entries are gone"
            self._findings.append(Finding("places", problem))
