"""Retention: how long payloads are kept, by tenant, tool and node, and the sweep that erases what is past its time."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from meshflow.errors import LedgerError
from meshflow.ledger.erasure import ErasableStore, ErasureOrder, LegalHoldError, with_salts
from meshflow.ledger.format.entry import FIELDS

AUTHORITY = "retention policy"
_UNITS_US = {"s": 10**6, "m": 60 * 10**6, "h": 3_600 * 10**6, "d": 86_400 * 10**6, "w": 7 * 86_400 * 10**6}
_DURATION = re.compile(r"([0-9]{1,9}) ?([smhdw])")
_PAGE = 2_000
_MAX_US = 2**53


def duration_us(text: str) -> int:
    """Return the microseconds of a duration such as ``30d``; LedgerError for anything else."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise LedgerError(f"{text!r} is not a duration; write a whole number and one of s, m, h, d, w, such as 30d")
    value = int(found[1]) * _UNITS_US[found[2]]
    if value > _MAX_US:
        raise LedgerError(f"{text!r} is longer than the ledger can count, which is 285 years")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRule:
    """How long the payloads of some entries are kept, counted from when their step started.

    A rule matches entries that have each value given; one without any matches all. ``fields`` is what goes.
    """

    keep_us: int
    tenant: str | None = None
    tool: str | None = None
    node: str | None = None
    fields: frozenset[str] = frozenset(FIELDS)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", with_salts(self.fields))

    @property
    def everything(self) -> bool:
        """True for a rule that is for every entry and every payload."""
        return self.tenant is None and self.tool is None and self.node is None and self.fields == frozenset(FIELDS)

    def matches(self, tenant: str, tool: str | None, node: str | None) -> bool:
        """Say whether the rule is for an entry."""
        return all(
            wanted is None or wanted == found
            for wanted, found in ((self.tenant, tenant), (self.tool, tool), (self.node, node))
        )


@dataclass(slots=True)
class RetentionReport:
    """What a sweep erased: payloads by run, and why runs were passed over."""

    at_us: int
    runs: dict[str, int] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)

    @property
    def erased(self) -> int:
        """Return how many payloads went."""
        return sum(self.runs.values())


async def sweep(
    store: ErasableStore, rules: Collection[RetentionRule], now_us: int, tenant: str | None
) -> RetentionReport:
    """Erase what is past its time; the first rule that matches an entry decides, and one that none matches is kept."""
    report = RetentionReport(now_us)
    after: int | None = -1
    while after is not None and rules:
        runs, after = await store.expired(rules, now_us, after, _PAGE, tenant)
        for run_id, only in runs.items():
            order = ErasureOrder(
                fields=frozenset(FIELDS), reason="kept for its time", authority=AUTHORITY, tenant=tenant, at_us=now_us,
                only=only,
            )  # fmt: skip
            try:
                gone = await store.erase(run_id, order)
            except LegalHoldError as error:
                report.held[run_id] = str(error)
            else:
                report.runs[run_id] = report.runs.get(run_id, 0) + gone
    return report
