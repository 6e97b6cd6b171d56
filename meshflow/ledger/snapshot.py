"""A ledger at one moment: what a bundle of evidence is made from, so that erasures meanwhile cannot tear it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from meshflow.ledger.format.entry import StoredEntry
from meshflow.ledger.format.signers import SignerRow


class LogHead(NamedTuple):
    """The log's name, its keys in the order of their use, and its newest checkpoint, if it has one."""

    origin: str
    signers: list[SignerRow]
    checkpoint: str | None


class LedgerSnapshot(Protocol):
    """Answers about one moment, whatever is written meanwhile."""

    async def head(self) -> LogHead:
        """Return what the log says of itself."""
        ...

    async def tenants(self, run_id: str) -> frozenset[str]:
        """Return whose entries a run has; nobody's for an unknown run."""
        ...

    async def lineage(self, run_id: str) -> list[tuple[str, int]]:
        """Return a run and those it comes from, itself first, each with the number of steps that it inherits."""
        ...

    async def has_beyond(self, size: int, runs: Collection[str] | None, kind: str | None = None) -> bool:
        """Say whether one of the runs, or any run, has an entry (of a kind) at a position from ``size`` on."""
        ...

    def entries(
        self, runs: Collection[str] | None, tenant: str | None, stop: int, payloads: bool
    ) -> AsyncIterator[StoredEntry]:
        """Yield the entries of runs, or all, at positions below ``stop`` in the order of the log.

        With a tenant that tenant's alone; without ``payloads`` none of them is read.
        """
        ...

    async def nodes(self, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the roots of the complete subtrees of 2**level leaves that begin at leaf index * 2**level."""
        ...


class SnapshotStore(Protocol):
    """What a ledger needs of a store to hand out evidence; part of LedgerStore."""

    def snapshot(self) -> AbstractAsyncContextManager[LedgerSnapshot | None]:
        """Hold the ledger as it is now for reading; None where there is no ledger yet."""
        ...
