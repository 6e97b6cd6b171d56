"""What a store answers beside single entries: runs found by what is in them, outlines, and whole histories."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from meshflow.errors import LedgerError
from meshflow.ledger.format.entry import StoredEntry
from meshflow.ledger.outline import Outline
from meshflow.record import Verdict

_VERDICTS = tuple(verdict.value for verdict in Verdict)


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are meant: all that is given must hold.

    ``verdict`` and ``node``: some step of the run itself has it. ``tool``: some step calls it. ``since_us`` and
    ``until_us``: some step began or was still running in that time, the end not included.
    """

    verdict: str | None = None
    node: str | None = None
    tool: str | None = None
    since_us: int | None = None
    until_us: int | None = None

    def __post_init__(self) -> None:
        if self.verdict is not None and self.verdict not in _VERDICTS:
            raise LedgerError(f"no verdict {self.verdict!r}; choose one of {list(_VERDICTS)}")


EVERY_RUN = RunFilter()


class HistoryStore(Protocol):
    """The part of a store that comparisons, exports and time travel read from.

    With a tenant each method shows that tenant's entries alone.
    """

    async def find_runs(
        self, where: RunFilter, limit: int, offset: int, before: str | None, tenant: str | None
    ) -> list[str]:
        """Return the ids of the runs meant, the newest first; with ``before``, those begun before that run."""
        ...

    async def outline(self, run_id: str, tenant: str | None) -> Outline | None:
        """Return the steps of a run in outline, inherited ones first, at one snapshot; None for an unknown run."""
        ...

    async def outputs(self, run_id: str, indexes: Sequence[int], tenant: str | None) -> dict[int, bytes]:
        """Return the output payloads that steps of a run have, by step index, inherited ones too."""
        ...

    async def spending(self, run_id: str, after: int, tenant: str | None) -> list[tuple[int, int, int]]:
        """Return (step index, cost in micro-USD, tokens) of a run's own steps behind a step index, in order."""
        ...

    def history(self, run_id: str, tenant: str | None) -> AsyncIterator[StoredEntry]:
        """Yield a run's own entries of every kind in order of seq, with payloads, at one snapshot."""
        ...
