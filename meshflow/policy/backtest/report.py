"""What a backtest found, in memory that does not grow with the records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

MAX_KEYS = 1_000
"""How many agents, tools, tenants and rules are told apart; the rest is counted together."""
OTHERS = "(others)"

_STRENGTH = {"deny": 2, "escalate": 1, "allow": 0, "abstain": 0}


@dataclass(frozen=True, slots=True)
class Change:
    """A recorded decision that would be another: where it is, and what it was and would be.

    ``gains`` and ``loses`` are the rules, or codes of rules without a name, that speak now and did then; ``new_duties``
    and ``lost_duties`` are the obligations of an effect that stays.
    """

    run_id: str
    step_index: int | None
    step_id: str
    stage: str
    node: str
    agent: str
    tool: str
    tenant: str
    then: str
    now: str
    gains: tuple[str, ...] = ()
    loses: tuple[str, ...] = ()
    new_duties: tuple[str, ...] = ()
    lost_duties: tuple[str, ...] = ()
    reason: str = ""
    why: str = ""

    @property
    def kind(self) -> str:
        """``deny to allow``; ``allow with other duties``; or ``deny`` where only the rules differ."""
        if self.then != self.now:
            return f"{self.then} to {self.now}"
        return f"{self.then} with other duties" if self.new_duties or self.lost_duties else self.then

    @property
    def looser(self) -> bool:
        """True where the candidate lets more through."""
        return _STRENGTH[self.now] < _STRENGTH[self.then] or bool(self.lost_duties)

    @property
    def signed(self) -> Iterator[str]:
        """Each rule and duty with a plus where it is new, a minus where it is gone."""
        for sign, rules, duties in (("+", self.gains, self.new_duties), ("-", self.loses, self.lost_duties)):
            yield from (f"{sign} {rule}" for rule in rules)
            yield from (f"{sign} duty {name}" for name in duties)


class Tally:
    """Counts by key and kind, with a bound on the keys."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, int]] = {}

    def add(self, key: str, kind: str) -> None:
        """Count one."""
        if key not in self.counts and len(self.counts) >= MAX_KEYS:
            key = OTHERS
        kinds = self.counts.setdefault(key, {})
        kinds[kind] = kinds.get(kind, 0) + 1

    def rows(self) -> list[dict[str, Any]]:
        """Return the keys, the most frequent first."""
        found = [{"key": key, "total": sum(kinds.values()), "kinds": kinds} for key, kinds in self.counts.items()]
        return sorted(found, key=lambda row: (-int(str(row["total"])), str(row["key"])))


@dataclass(slots=True)
class Report:
    """The outcome of a backtest. ``examples`` bounds how many changes of each kind are kept whole."""

    bundle: str
    digest: str
    examples: int = 20
    runs: int = 0
    steps: int = 0
    decisions: int = 0
    same: int = 0
    flips: int = 0
    looser: int = 0
    reasons: int = 0
    undecidable: int = 0
    kinds: Tally = field(default_factory=Tally)
    why: Tally = field(default_factory=Tally)
    by: dict[str, Tally] = field(
        default_factory=lambda: {name: Tally() for name in ("rule", "stage", "agent", "tool", "tenant")}
    )
    bundles: Tally = field(default_factory=Tally)
    _kept: dict[str, list[Change]] = field(default_factory=dict)

    def flip(self, change: Change) -> None:
        """Count a decision whose effect would be another."""
        self.flips += 1
        self.looser += change.looser
        self.kinds.add(change.kind, change.stage)
        for rule in change.signed:
            self.by["rule"].add(rule, change.kind)
        self.by["stage"].add(change.stage, change.kind)
        self.by["agent"].add(change.agent, change.kind)
        self.by["tool"].add(change.tool or "(no tool)", change.kind)
        self.by["tenant"].add(change.tenant, change.kind)
        self._keep("flip", change.kind, change)

    def other_reasons(self, change: Change) -> None:
        """Count a decision that would be the same for other reasons."""
        self.reasons += 1
        for rule in change.signed:
            self.by["rule"].add(rule, "same effect")
        self._keep("reasons", change.kind, change)

    def doubt(self, change: Change) -> None:
        """Count a decision of which the record does not tell what it would be."""
        self.undecidable += 1
        self.why.add(change.why, change.stage)
        self._keep("undecidable", change.why, change)

    def _keep(self, group: str, kind: str, change: Change) -> None:
        kept = self._kept.setdefault(f"{group}: {kind}", [])
        if len(kept) < self.examples:
            kept.append(change)

    def kept(self, group: str) -> Iterable[tuple[str, list[Change]]]:
        """Yield the kinds of a group (flip, reasons, undecidable) and the changes that were kept of each."""
        for name, changes in sorted(self._kept.items()):
            found, _, kind = name.partition(": ")
            if found == group:
                yield kind, changes

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "bundle": self.bundle,
            "digest": self.digest,
            "runs": self.runs,
            "steps": self.steps,
            "decisions": self.decisions,
            "same": self.same,
            "flips": self.flips,
            "looser": self.looser,
            "other_reasons": self.reasons,
            "undecidable": self.undecidable,
            "recorded_bundles": self.bundles.rows(),
            "kinds": self.kinds.rows(),
            "undecidable_why": self.why.rows(),
            "by": {name: tally.rows() for name, tally in self.by.items()},
            "examples": {
                group: [
                    {"kind": kind, "changes": [asdict(one) for one in changes]} for kind, changes in self.kept(group)
                ]
                for group in ("flip", "reasons", "undecidable")
            },
        }
