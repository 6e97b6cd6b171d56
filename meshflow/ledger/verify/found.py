"""What a pass over a whole ledger reads of each entry, and where it puts what does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshflow.ledger.format.entry import COLUMNS, document_of
from meshflow.ledger.format.findings import Finding, missing

ENTRY = "id, run_id, seq, prev_hash, entry_hash, body"
WITH_COLUMNS = f"{ENTRY}, step_index, {', '.join(COLUMNS)}"
FORM = (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError)
"""What is raised by an entry that has not the form of one."""

Row = Sequence[Any]


class Found:
    """Findings, each at its entry where it concerns one."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def say(self, layer: str, problem: str) -> None:
        """Note what concerns no single entry."""
        self.findings.append(Finding(layer, problem))

    def missing(self, run_id: Any, first: int, after: Any) -> None:
        """Note that a run lacks entries; it goes on with the one ``after``."""
        self.findings.append(missing(str(run_id), first, after))

    def at(self, layer: str, row: Row, problem: str) -> None:
        """Note what does not hold of an entry."""
        self.findings.append(Finding(layer, problem, str(row[1]), row[2], step_of(row)))


def step_of(row: Row) -> Any:
    """Return the step of an entry: as its column says, where that was read, else as its body says."""
    return row[8] if len(row) > 8 else (document_of(row[5]) or {}).get("step_id", "")
