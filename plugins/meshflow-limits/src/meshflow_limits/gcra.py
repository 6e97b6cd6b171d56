"""Rate limits in memory by the generic cell rate algorithm (ITU-T I.371), in whole numbers."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from meshflow_limits.scope import Key
from meshflow_limits.store import RateAnswer, RateRule

_SWEPT_AT_ONCE = 2
_Place = tuple[str, tuple[str, ...], int, int]


class _Arrivals:
    """What several stores of one process share: a reload does not hand out a fresh allowance."""

    __slots__ = ("lock", "tables")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tables: dict[_Place, OrderedDict[Key, int]] = {}


class MemoryRateStore:
    """Keeps one theoretical arrival time (TAT) for each key.

    Times are kept as nanoseconds times the rule's count, in which one step is exactly ``period_ns``: so a rate such as
    7/s, whose interval is no whole number of nanoseconds, is still exact. A key whose TAT has passed is the same as one
    never seen, and is dropped. A store made with ``previous`` goes on with the keys of every rule whose name,
    ``per`` and rate are the same.
    """

    def __init__(self, max_keys: int, previous: MemoryRateStore | None = None) -> None:
        self._max_keys = max_keys
        self._arrivals: _Arrivals = previous._arrivals if previous is not None else _Arrivals()

    async def acquire(self, claims: Sequence[tuple[RateRule, Key]], now_ns: int, *, consume: bool) -> RateAnswer:
        """Count one step against all claims or against none."""
        with self._arrivals.lock:
            return self._acquire(claims, now_ns, consume)

    def _acquire(self, claims: Sequence[tuple[RateRule, Key]], now_ns: int, consume: bool) -> RateAnswer:
        remaining: dict[str, int] = {}
        arrivals: list[int] = []
        refused: RateRule | None = None
        longest_wait_ns = 0
        for rule, key in claims:
            now, tolerance = now_ns * rule.count, rule.burst * rule.period_ns
            table = self._table(rule, now)
            tat = table.get(key)
            if tat is None:
                if len(table) >= self._max_keys:
                    return RateAnswer({}, rule, full=True)
                tat = now
            elif tat > now + tolerance:
                # No step put it there: the clock went back. Go on with an empty allowance, but do not lock out.
                tat = now + tolerance
                if consume:
                    table[key] = tat
            arrival = max(tat, now) + rule.period_ns
            room = now + tolerance - arrival
            if room < 0:
                wait_ns = -(room // rule.count)
                if refused is None or wait_ns > longest_wait_ns:
                    refused, longest_wait_ns = rule, wait_ns
            remaining[rule.name] = max(0, room // rule.period_ns)
            arrivals.append(arrival)
        if refused is not None:
            return RateAnswer(remaining, refused, longest_wait_ns)
        if consume:
            for (rule, key), arrival in zip(claims, arrivals, strict=True):
                table = self._arrivals.tables[_place(rule)]
                table[key] = arrival
                table.move_to_end(key)
        return RateAnswer(remaining)

    def _table(self, rule: RateRule, now: int) -> OrderedDict[Key, int]:
        place = _place(rule)
        table = self._arrivals.tables.get(place)
        if table is None:
            table = self._arrivals.tables[place] = OrderedDict()
        # Each step adds at most one key and drops up to two, the longest untouched first: no pause, however many.
        for _ in range(_SWEPT_AT_ONCE):
            if not table:
                break
            oldest = next(iter(table))
            if table[oldest] > now:
                break
            del table[oldest]
        return table

    def keys_followed(self) -> int:
        """Return how many keys are kept, over all rules."""
        with self._arrivals.lock:
            return sum(map(len, self._arrivals.tables.values()))


def _place(rule: RateRule) -> _Place:
    return rule.name, rule.per, rule.count, rule.period_ns
