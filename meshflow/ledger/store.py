"""What a ledger needs of a store: append in batches, and answer scoped questions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from meshflow.ledger.erasure import ErasableStore
from meshflow.ledger.evidence import EvidenceStore
from meshflow.ledger.format.entry import Draft, StoredEntry, Written
from meshflow.ledger.history import HistoryStore
from meshflow.ledger.snapshot import SnapshotStore


class LedgerStore(ErasableStore, EvidenceStore, HistoryStore, SnapshotStore, Protocol):
    """The contract of a store.

    The store assigns ``seq`` and ``prev_hash`` inside the transaction that appends, so that any number of writers, in
    any number of processes, verify. An entry is unique by (run_id, step_id, attempt, kind): written again with the same
    content it is answered with the entry that is there, with other content it is a LedgerConflictError, as is a wrong
    ``expect_prev`` or ``expect_hash`` and anything but an erasure after a close. Such an entry fails alone; a failing
    commit is a LedgerError for all that were in it. Every read takes a tenant, and with one shows nothing of others.
    """

    async def open(self) -> None:
        """Open for writing now rather than on first use."""
        ...

    async def admit(self) -> None:
        """Wait until there is room for one more entry; called before the entry is encoded."""
        ...

    async def append(self, draft: Draft) -> Written:
        """Append an entry and return once it is durable."""
        ...

    async def close_run(self, run_id: str, tenant: str | None, at_us: int) -> Written:
        """Append the closing entry, with the count of entries before it; answer the one there is, if there is."""
        ...

    async def fork_run(
        self, run_id: str, parent_run_id: str, from_step: int, tenant: str | None, at_us: int,
        fields: Mapping[str, Any] | None = None,
    ) -> Written:  # fmt: skip
        """Begin a run that inherits the parent's steps 0 to from_step-1 by reference, with further fields in its body.

        LedgerError when the parent has not so many steps; LedgerConflictError when the run has begun already.
        """
        ...

    def entries(
        self, run_id: str, kind: str, tenant: str | None = None, *, inherited: bool = True, after: int = -1
    ) -> AsyncIterator[StoredEntry]:
        """Yield a run's entries of one kind in order, with their payloads.

        Steps come after step index ``after``, and those that a fork inherits come first, under the run id that they
        were written with; entries of other kinds come after sequence number ``after``.
        """
        ...

    async def entry_at(self, run_id: str, index: int, kind: str, tenant: str | None = None) -> StoredEntry | None:
        """Return a step by its index, or an entry of another kind by its place among those; from the end if negative.

        An index counts the steps of a run, inherited ones too; with a tenant, in a run of several, that tenant's alone.
        """
        ...

    async def runs(self, limit: int, offset: int, before: str | None, tenant: str | None) -> list[str]:
        """Return the ids of runs, the newest first; with ``before``, those begun before that run."""
        ...

    async def totals(self, run_id: str, tenant: str | None) -> list[dict[str, Any]]:
        """Return the running totals of a run, one dict for each tenant in it; see RUN_TOTALS of ``sqlite``.

        Only the run's own steps count, not those that it inherits.
        """
        ...

    async def nodes(self, run_id: str, tenant: str | None) -> list[str]:
        """Return the nodes of a run's own steps in the order in which they first appear."""
        ...

    async def escalations(self, approval_id: str | None, tenant: str | None) -> list[StoredEntry]:
        """Return the steps that wait for an approval, or the one with that id, decided or not."""
        ...

    async def decision(self, approval_id: str) -> StoredEntry | None:
        """Return the approval entry of an approval id."""
        ...

    async def last_of(self, run_id: str, step_id: str, kind: str) -> StoredEntry | None:
        """Return a step's latest entry of a kind."""
        ...

    async def unfinished(self, run_id: str | None, tenant: str | None) -> list[StoredEntry]:
        """Return the intents without a step entry of the same run, step and attempt."""
        ...

    def stop(self) -> None:
        """Refuse further work without waiting; for a ledger that nobody closed."""
        ...

    async def aclose(self) -> None:
        """Write out what was handed in, then close."""
        ...
