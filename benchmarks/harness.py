"""Rounds, clocks and the table: everything is measured in turn with its baseline, so both meet the same weather."""

from __future__ import annotations

import os
import platform
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
TALE = (
    "the order was shipped on time and the customer asked about delivery to another address before friday while our "
    "agent looked at the invoice for details and wrote a summary of what had happened since last week because a parcel "
    "with two lamps and one chair came back damaged so we offered a refund or a new one and they chose to wait"
)
WORDS = TALE.split()


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``met`` is None where no target stands; ``ratio`` is what the target speaks of."""

    what: str
    measured: float
    unit: str
    baseline: float | None = None
    baseline_is: str = ""
    ratio: float | None = None
    target: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds by the wall and of the processor, all threads together, for one piece of work."""

    wall: float
    cpu: float


Work = Callable[[], Awaitable[object]]
"""One round of a contestant. What it works on is made beforehand, so that the clocks do not run for it."""


def at_most(
    what: str, measured: float, unit: str, most: float, *, baseline: float | None = None, baseline_is: str = ""
) -> Row:
    """Return a row whose measured value, as a multiple of its baseline if there is one, has an upper bound."""
    ratio = measured / baseline if baseline else None
    judged = measured if ratio is None else ratio
    bound = f"<= {most:g}" + ("" if ratio is not None else f" {unit}")
    return Row(what, measured, unit, baseline, baseline_is, ratio, bound, judged <= most)


def at_least(what: str, measured: float, unit: str, least: float, baseline: float, baseline_is: str) -> Row:
    """Return a row whose measured value, as a multiple of its baseline, has a lower bound."""
    ratio = measured / baseline
    return Row(what, measured, unit, baseline, baseline_is, ratio, f">= {least:g}", ratio >= least)


def beside(what: str, measured: float, unit: str, baseline: float, baseline_is: str) -> Row:
    """Return a row without a target, for a share or a comparison."""
    return Row(what, measured, unit, baseline, baseline_is, measured / baseline if baseline else None)


async def in_turn(rounds: int, contestants: Mapping[str, Work], count: int) -> dict[str, Spent]:
    """Run each contestant once a round, A B C A B C, and return the medians for one of ``count`` pieces of work.

    One round before the first is not counted: caches fill, files grow, and the interpreter specialises its code.
    """
    walls: dict[str, list[float]] = {name: [] for name in contestants}
    cpus: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, work in contestants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            await work()
            if number:
                walls[name].append((time.perf_counter() - wall) / count)
                cpus[name].append((time.process_time() - cpu) / count)
    return {name: Spent(statistics.median(walls[name]), statistics.median(cpus[name])) for name in contestants}


def prose(size: int, seed: int = 1) -> Iterator[str]:
    """Yield clean prose of a size, each text new: a text that was seen before would be answered from a cache."""
    choose = random.Random(seed)
    while True:
        yield " ".join(choose.choices(WORDS, k=size // 2))[:size]


@contextmanager
def folder() -> Iterator[Path]:
    """Give a folder on the disk of the checkout, not in memory, and take it away again."""
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with TemporaryDirectory(prefix="bench-", dir=build) as path:
        yield Path(path)


def machine() -> str:
    """Return the line that stands above the table."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {platform.python_implementation()} {platform.python_version()}, "
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, load {load:.1f}"
    )


def table(rows: list[Row]) -> str:
    """Return the rows as a table for a terminal."""
    head = ("what", "measured", "baseline", "ratio", "target", "met")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    baseline = f"{_number(row.baseline)} {row.unit}: {row.baseline_is}" if row.baseline is not None else row.baseline_is
    met = "" if row.met is None else "met" if row.met else "NOT MET"
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
    return row.what, f"{_number(row.measured)} {row.unit}", baseline, ratio, row.target, met


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
