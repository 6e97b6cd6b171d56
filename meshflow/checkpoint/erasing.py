"""Erase the threads of runs: what a ledger asks of the stores that keep the state of the same runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from meshflow.checkpoint.open import open_store
from meshflow.checkpoint.store import OF_RUN, CheckpointConflictError, CheckpointError, CheckpointStore, Held


async def erase_threads(
    store: CheckpointStore,
    tenant: str | None,
    run_ids: Sequence[str],
    delete: Callable[[str, str], Awaitable[None]],
    held: Held | None = None,
) -> int:
    """Forget every thread in which these runs wrote, with the store's own ``delete``; return how many went.

    Threads in which a run that is held wrote as well are passed over.
    """
    erased, busy = 0, []
    for owner, thread_id in await store.threads_of_runs(tenant, run_ids):
        try:
            claim = await store.claim(owner, thread_id)
        except CheckpointConflictError:
            busy.append(thread_id)
            continue
        try:
            if held is None or not await _any_held(store, owner, thread_id, held):
                await delete(owner, thread_id)
                erased += 1
        finally:
            await claim.release()
    if busy:
        raise CheckpointConflictError(
            f"runs work on the threads {busy}, which are not erased yet; erase again once they have ended"
        )
    return erased


async def _any_held(store: CheckpointStore, owner: str, thread_id: str, held: Held) -> bool:
    """Ask about every run that wrote in a thread, so that whoever asks hears of each that is held."""
    runs: set[str] = set()
    async for saved in store.list(owner, thread_id):
        runs.add(saved.checkpoint.run_id)
        runs.update(one.channel.removeprefix(OF_RUN) for one in saved.writes if one.channel.startswith(OF_RUN))
    return any([await held(run_id, owner) for run_id in sorted(runs - {""})])


class ErasedWith:
    """A checkpoint store by its path or URL, opened for each erasure and closed behind it."""

    def __init__(self, place: str | Path) -> None:
        self.place = str(place)

    async def erase_runs(self, tenant: str | None, run_ids: Sequence[str], held: Held | None = None) -> int:
        """Do what the store does."""
        store = self._opened()
        try:
            return await store.erase_runs(tenant, run_ids, held)
        finally:
            await store.aclose()

    def _opened(self) -> CheckpointStore:
        """Open the store; CheckpointError for a file that is not there, since a slip must not pass for an erasure."""
        if "://" not in self.place and not Path(self.place).exists():
            raise CheckpointError(f"there are no checkpoints in {self.place}: the file is not there; correct its path")
        return open_store(self.place)
