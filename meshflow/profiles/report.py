"""Which controls of a profile a ledger shows to hold: verified first, then read once, entry by entry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.ledger.format.steps import moment_us, timestamp
from meshflow.profiles.ledger_facts import LedgerFacts
from meshflow.profiles.manifest import RecordKind
from meshflow.profiles.packs import Pack
from meshflow.profiles.records import Record, RunFacts
from meshflow.profiles.stops import Stops
from meshflow.profiles.verdict import ControlTally, Query

FORMAT: Final = "meshflow/profile-report/v1"
STILL_OPEN_US: Final = 3_600_000_000
"""How long an intent may be without an outcome before the step counts as unrecorded."""
_PAGE = 500
_SHOWN_ERRORS = 5

Moment = datetime | str | float | None
Progress = Callable[[int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Which records are meant: those of steps begun ``since`` and before ``until``, of one tenant or of all."""

    since_us: int | None = None
    until_us: int | None = None
    tenant: str | None = None

    @classmethod
    def of(cls, since: Moment = None, until: Moment = None, tenant: str | None = None) -> Window:
        """Return the window between two moments (RFC 3339, a datetime with a zone, or seconds since the epoch)."""
        window = cls(
            since_us=None if since is None else moment_us(since, "since"),
            until_us=None if until is None else moment_us(until, "until"),
            tenant=tenant,
        )
        if window.since_us is not None and window.until_us is not None and window.since_us >= window.until_us:
            raise LedgerError("since is not before until, so that no record can be meant")
        return window

    def holds(self, started_us: int) -> bool:
        """Say whether a record of that time is meant."""
        return (self.since_us is None or started_us >= self.since_us) and (
            self.until_us is None or started_us < self.until_us
        )


@dataclass(slots=True)
class _Seen:
    """What was read, beside what it says of controls."""

    runs: int = 0
    entries: int = 0
    steps: int = 0
    under_profile: int = 0
    later: int = 0
    fingerprints: dict[str, list[int]] = field(default_factory=dict)

    def note(self, entry: Mapping[str, Any], active: Any) -> None:
        self.entries += 1
        if entry["kind"] != "step":
            return
        self.steps += 1
        self.under_profile += active is True
        at = entry["started_us"]
        first = self.fingerprints.setdefault(entry["fingerprint"], [0, at, at])
        first[0] += 1
        first[1], first[2] = min(first[1], at), max(first[2], at)


async def profile_report(
    ledger: ReplayLedger, pack: Pack, window: Window, *, now_us: int, checkpoints: Sequence[str] = (),
    keys: Sequence[str] | None = None, limit: int = 25, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return what the ledger says of each control of a pack and of those that it extends.

    The whole ledger is verified first, against ``checkpoints`` and public ``keys`` from outside where they are given;
    LedgerError if it does not verify, since evidence that does not hold says nothing. What was written after the
    verification began is left for the next report. Up to ``limit`` records are listed for each state of a control;
    all are counted. Memory does not grow with the number of records.
    """
    verified = await verified_ledger(ledger, checkpoints, keys)
    tallies = [ControlTally(control, one, limit) for one in pack.line() for control in one.manifest.controls]
    by_kind: dict[RecordKind, list[tuple[ControlTally, Query]]] = {}
    for tally in tallies:
        for query in tally.queries:
            by_kind.setdefault(query.records, []).append((tally, query))
    seen = _Seen()
    stops = Stops(await ledger.controls())
    async for run_id in _runs(ledger, window):
        seen.runs += 1
        async for entry, run, outcome in _entries(ledger, run_id, window, verified["log_size"], now_us, seen, stops):
            records: dict[str, Record] = {}
            for tally, query in by_kind.get(entry["kind"], ()):
                name = tally.pack.manifest.name
                record = records.get(name)
                if record is None:
                    record = records[name] = Record(entry, run, name, tally.pack.settings, now_us, outcome)
                tally.ask(query, record)
            own = Record(entry, run, pack.manifest.name, pack.settings, now_us)
            seen.note(entry, own.value("profile.active") if entry["kind"] == "step" else None)
        if progress is not None:
            progress(seen.entries, run_id)
    if seen.entries:
        facts = LedgerFacts(verified)
        for tally, query in by_kind.get("ledger", ()):
            tally.ask_ledger(query, facts)
    return _document(pack, window, now_us, verified, seen, tallies)


async def verified_ledger(
    ledger: ReplayLedger, checkpoints: Sequence[str] = (), keys: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the verification of a ledger; LedgerError if it does not verify."""
    verified = await ledger.verify_ledger(since=list(checkpoints) or None, keys=keys)
    if not verified["valid"]:
        errors = verified["errors"][:_SHOWN_ERRORS]
        more = len(verified["errors"]) - len(errors)
        rest = f"; and {more} more" if more > 0 else ""
        raise LedgerError(f"the ledger does not verify, so nothing is reported of it: {'; '.join(errors)}{rest}")
    return verified


async def _runs(ledger: ReplayLedger, window: Window) -> AsyncIterator[str]:
    before: str | None = None
    while page := await ledger.list_runs(limit=_PAGE, before=before, tenant=window.tenant):
        for run_id in page:
            yield run_id
        before = page[-1]


async def _entries(
    ledger: ReplayLedger, run_id: str, window: Window, size: int, now_us: int, seen: _Seen, stops: Stops
) -> AsyncIterator[tuple[dict[str, Any], RunFacts, str]]:
    """Yield the entries meant, in order, with what their run says of them; an intent when its outcome is known."""
    run = RunFacts(stops)
    tombstones = await ledger.entries(run_id, "erasure", tenant=window.tenant)
    run.take_tombstones(tombstones)
    waiting: dict[tuple[str, int], dict[str, Any]] = {}
    async for entry in ledger.iter_history(run_id, tenant=window.tenant):
        if entry["position"] >= size:
            seen.later += 1
            continue
        run.take(entry)
        meant = window.holds(entry["started_us"])
        if entry["kind"] == "intent":
            if meant:
                waiting[entry["step_id"], entry["attempt"]] = entry
            continue
        if entry["kind"] == "step":
            intent = waiting.pop((entry["step_id"], entry["attempt"]), None)
            if intent is not None:
                yield intent, run, "recorded"
        if meant:
            yield entry, run, ""
    for intent in waiting.values():
        yield intent, run, "open" if now_us - intent["started_us"] < STILL_OPEN_US else "missing"


def _document(
    pack: Pack, window: Window, now_us: int, verified: Mapping[str, Any], seen: _Seen, tallies: Sequence[ControlTally]
) -> dict[str, Any]:
    manifest = pack.manifest
    controls = [tally.document() for tally in tallies]
    gaps = [
        {"id": gap.id, "title": gap.title, "why": gap.why, "status": "not_covered", "profile": one.manifest.name}
        for one in pack.line()
        for gap in one.manifest.not_covered
    ]
    states = ("satisfied", "violated", "not_exercised")
    kept = (
        "checked", "not_checked", "log_size", "checkpoint_size", "uncovered", "held_size", "keys_from_outside",
        "sealed_payloads", "checkpoint",
    )  # fmt: skip
    return {
        "format": FORMAT,
        "profile": {
            "name": manifest.name, "title": manifest.title, "version": manifest.version, "edition": manifest.edition,
            "digest": pack.digest, "extends": [one.manifest.name for one in pack.line() if one is not pack],
            "settings": {one.manifest.name: dict(one.settings) for one in pack.line()},
        },
        "generated_at": timestamp(now_us),
        "since": None if window.since_us is None else timestamp(window.since_us),
        "until": None if window.until_us is None else timestamp(window.until_us),
        "tenant": window.tenant,
        "ledger": {"valid": True, **{name: verified.get(name) for name in kept}},
        "records": {
            "runs": seen.runs, "entries": seen.entries, "steps": seen.steps, "steps_under_profile": seen.under_profile,
            "written_later": seen.later,
        },
        "fingerprints": [
            {"fingerprint": name, "steps": count, "first": timestamp(first), "last": timestamp(last)}
            for name, (count, first, last) in sorted(seen.fingerprints.items(), key=lambda item: item[1][1])
        ],
        "summary": {
            **{state: sum(control["status"] == state for control in controls) for state in states},
            "not_covered": len(gaps),
        },
        "controls": controls,
        "not_covered": gaps,
    }  # fmt: skip
