"""Mergeable latency sketches by key (DDSketch, Masson et al. 2019): the error is relative and survives merging."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Lock
from typing import Any

OTHER = "other"
_WAITING = 64
_NS_PER_MS = 1_000_000


class Series:
    """The durations of one key: how many, how many failed, and their distribution.

    A step adds to sixteen series and more. Durations wait until there are some dozens, or somebody asks, since sorting
    many into bins at once costs a fraction of what one here and one there does, whose code and bins the cache has lost.
    """

    __slots__ = ("_lock", "_sketch", "_waiting", "errors", "max_ns")

    def __init__(self, accuracy: float) -> None:
        from ddsketch import LogCollapsingLowestDenseDDSketch

        # At most 2,048 bins: collapsing loses only the fastest steps, from which no percentile of interest comes.
        self._sketch = LogCollapsingLowestDenseDDSketch(accuracy)
        self._waiting: list[int] = []
        self._lock = Lock()
        self.errors = 0
        self.max_ns = 0

    @property
    def count(self) -> int:
        """How many durations were added."""
        return int(self._sorted().count)

    def add(self, elapsed_ns: int, *, failed: bool = False) -> None:
        """Count a duration; a clock that stepped back counts as none."""
        if elapsed_ns < 0:
            elapsed_ns = 0
        if failed:
            self.errors += 1
        if elapsed_ns > self.max_ns:
            self.max_ns = elapsed_ns
        waiting = self._waiting
        waiting.append(elapsed_ns)
        if len(waiting) >= _WAITING:
            self._sorted()

    def _sorted(self) -> Any:
        """Return the sketch with all that was added. Whoever asks may be another thread than the one that adds."""
        sketch, waiting = self._sketch, self._waiting
        with self._lock:
            while waiting:
                sketch.add(waiting.pop())
        return sketch

    def merge(self, other: Series) -> None:
        """Count all that another series has counted; both must have the same accuracy."""
        self._sorted().merge(other._sorted())
        self.errors += other.errors
        self.max_ns = max(self.max_ns, other.max_ns)

    def percentile_ms(self, p: float) -> float | None:
        """Return a percentile in milliseconds, never above the greatest duration seen; None for an empty series."""
        value = self._sorted().get_quantile_value(p)
        return None if value is None else min(float(value), float(self.max_ns)) / _NS_PER_MS

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers that reports show."""
        return {
            "count": self.count,
            "errors": self.errors,
            "p50_ms": self.percentile_ms(0.50),
            "p95_ms": self.percentile_ms(0.95),
            "p99_ms": self.percentile_ms(0.99),
            "max_ms": self.max_ns / _NS_PER_MS,
        }


class Table:
    """Series by key. Keys come from callers without end, so from ``max_keys`` on new ones share one series."""

    def __init__(self, max_keys: int, accuracy: float) -> None:
        self._series: dict[str, Series] = {}
        self._max_keys = max_keys
        self._accuracy = accuracy

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def get(self, key: str) -> Series | None:
        """Return a key's series, if it has one."""
        return self._series.get(key)

    def of(self, key: str) -> Series:
        """Return the series that a key counts in."""
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= self._max_keys:
                key = OTHER
            series = self._series.get(key) or self._series.setdefault(key, Series(self._accuracy))
        return series

    def merge(self, other: Table) -> None:
        """Count all that another table has counted."""
        for key, series in other._series.items():
            self.of(key).merge(series)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers of each key, keys in order."""
        return {key: self._series[key].to_dict() for key in sorted(self._series)}
