"""Erase the threads of runs: what a ledger asks of the stores that keep the state of the same runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from meshflow.checkpoint.open import open_store
from meshflow.checkpoint.store import CheckpointConflictError, CheckpointError, CheckpointStore


async def erase_threads(
    store: CheckpointStore, tenant: str | None, run_ids: Sequence[str], delete: Callable[[str, str], Awaitable[None]]
) -> int:
    """Forget every thread in which these runs wrote, with the store's own ``delete``; return how many went."""
    erased, busy = 0, []
    for owner, thread_id in await store.threads_of_runs(tenant, run_ids):
        try:
            claim = await store.claim(owner, thread_id)
        except CheckpointConflictError:
            busy.append(thread_id)
            continue
        try:
            await delete(owner, thread_id)
        finally:
            await claim.release()
        erased += 1
    if busy:
        raise CheckpointConflictError(
            f"runs work on the threads {busy}, which are not erased yet; erase again once they have ended"
        )
    return erased


class ErasedWith:
    """A checkpoint store by its path or URL, opened for each erasure and closed behind it."""

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)

    async def erase_runs(self, tenant: str | None, run_ids: Sequence[str]) -> int:
        """Do what the store does."""
        store = self._opened()
        try:
            return await store.erase_runs(tenant, run_ids)
        finally:
            await store.aclose()

    def _opened(self) -> CheckpointStore:
        """Open the store; CheckpointError for a file that is not there, since a slip must not pass for an erasure."""
        if "://" not in self.place and not Path(self.place).exists():
            raise CheckpointError(f"there are no checkpoints in {self.place}: the file is not there; correct its path")
        return open_store(self.place)
