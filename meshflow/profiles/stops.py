"""Which steps began while a control entry of the ledger stopped what they belong to."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import combinations
from operator import itemgetter
from typing import Any

Target = tuple[tuple[str, str], ...]
STRONGEST_FIRST = ("kill", "pause", "quarantine")


class Stops:
    """The control entries of a ledger, by what they stop and when."""

    def __init__(self, controls: Iterable[Mapping[str, Any]] = ()) -> None:
        self._times: dict[Target, list[int]] = {}
        self._codes: dict[Target, list[str]] = {}
        for entry in sorted(controls, key=itemgetter("started_us")):  # clocks of several processes may disagree
            target: Target = tuple(sorted(entry["target"].items()))
            self._times.setdefault(target, []).append(entry["started_us"])
            self._codes.setdefault(target, []).append(entry["code"])
        self.by_agent = any(name == "agent" for target in self._times for name, _ in target)
        """True where some entry names an agent."""

    def __bool__(self) -> bool:
        return bool(self._times)

    def in_force(self, at_us: int, belongs: Mapping[str, str | None]) -> str | None:
        """Return the code of what stopped a run, agent, tool or tenant before a moment, unless it was released."""
        given = [(name, value) for name, value in sorted(belongs.items()) if value]
        found = [
            code
            for count in range(1, len(given) + 1)
            for target in combinations(given, count)
            if (code := self._last(target, at_us)) is not None and code != "release"
        ]
        return min(found, key=STRONGEST_FIRST.index, default=None)

    def _last(self, target: Target, at_us: int) -> str | None:
        times = self._times.get(target)
        place = bisect_left(times, at_us) if times is not None else 0
        return self._codes[target][place - 1] if place else None
