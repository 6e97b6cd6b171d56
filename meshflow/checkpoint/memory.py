"""Checkpoints in the memory of the process."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from meshflow.checkpoint.store import (
    OF_RUN,
    Checkpoint,
    CheckpointStore,
    Claim,
    Held,
    Saved,
    ThreadKey,
    Write,
    in_use,
    moved_on,
    not_the_same,
    target_taken,
)


class _Space:
    """One namespace of a thread."""

    __slots__ = ("blobs", "checkpoints", "newest", "writes")

    def __init__(self) -> None:
        self.newest = ""
        self.checkpoints: dict[str, Checkpoint] = {}
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.writes: dict[str, dict[tuple[str, str, int], Write]] = {}

    def runs(self) -> Iterator[str]:
        """Name the runs that wrote here."""
        for checkpoint in self.checkpoints.values():
            yield checkpoint.run_id
        for writes in self.writes.values():
            yield from (channel.removeprefix(OF_RUN) for _, channel, _ in writes if channel.startswith(OF_RUN))

    def forget(self, ids: Sequence[str]) -> None:
        for one in ids:
            self.checkpoints.pop(one, None)
            self.writes.pop(one, None)
        self.newest = max(self.checkpoints, default="")
        held = {pair for checkpoint in self.checkpoints.values() for pair in checkpoint.values.items()}
        for pair in self.blobs.keys() - held:
            del self.blobs[pair]


class _Claim:
    """An entry in the set of the threads that runs have."""

    lost = False

    def __init__(self, claimed: set[tuple[str, str]], thread: tuple[str, str]) -> None:
        self._claimed = claimed
        self._thread: tuple[str, str] | None = thread

    async def release(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._claimed.discard(thread)


class MemoryCheckpoints:
    """A checkpoint store for tests, and for runs that need not survive the process. It holds bytes, as others do."""

    immediate = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spaces: dict[ThreadKey, _Space] = {}
        self._claimed: set[tuple[str, str]] = set()

    async def put(
        self,
        key: ThreadKey,
        checkpoint: Checkpoint,
        blobs: Mapping[tuple[str, str], bytes],
        *,
        after: str | None = None,
    ) -> None:
        """Write a checkpoint and its new blobs."""
        with self._lock:
            space = self._spaces.get(key) or _Space()
            stored = space.checkpoints.get(checkpoint.checkpoint_id)
            if stored is not None:
                if stored != checkpoint:
                    raise not_the_same(key, checkpoint.checkpoint_id)
                return
            if after is not None and space.newest != after:
                raise moved_on(key, after, space.newest)
            self._spaces[key] = space
            space.newest = max(space.newest, checkpoint.checkpoint_id)
            space.checkpoints[checkpoint.checkpoint_id] = checkpoint
            for pair, payload in blobs.items():
                space.blobs.setdefault(pair, payload)

    async def put_writes(self, key: ThreadKey, checkpoint_id: str, writes: Sequence[Write]) -> None:
        """Add what a task did."""
        with self._lock:
            kept = self._spaces.setdefault(key, _Space()).writes.setdefault(checkpoint_id, {})
            for write in writes:
                kept.setdefault((write.task_id, write.channel, write.index), write)

    async def claim(self, tenant: str, thread_id: str) -> Claim:
        """Take a thread for one run."""
        thread = (tenant, thread_id)
        with self._lock:
            if thread in self._claimed:
                raise in_use(thread_id)
            self._claimed.add(thread)
        return _Claim(self._claimed, thread)

    async def get(self, key: ThreadKey, checkpoint_id: str | None = None) -> Saved | None:
        """Return a checkpoint, or the newest."""
        with self._lock:
            space = self._spaces.get(key)
            if space is None:
                return None
            checkpoint = space.checkpoints.get(space.newest if checkpoint_id is None else checkpoint_id)
            return None if checkpoint is None else _saved(key, space, checkpoint)

    async def list(
        self, tenant: str, thread_id: str | None = None, namespace: str | None = None, *, before: str | None = None
    ) -> AsyncIterator[Saved]:
        """Yield checkpoints, the newest first."""
        with self._lock:
            found = [
                (checkpoint_id, key)
                for key, space in self._matching(tenant, thread_id, namespace)
                for checkpoint_id in space.checkpoints
                if before is None or checkpoint_id < before
            ]
        for checkpoint_id, key in sorted(found, key=lambda one: one[0], reverse=True):
            saved = await self.get(key, checkpoint_id)
            if saved is not None:
                yield saved

    def _matching(
        self, tenant: str, thread_id: str | None, namespace: str | None
    ) -> Iterator[tuple[ThreadKey, _Space]]:
        for key, space in self._spaces.items():
            if key.tenant == tenant and thread_id in (None, key.thread_id) and namespace in (None, key.namespace):
                yield key, space

    async def threads(self, tenant: str) -> Sequence[str]:
        """Return the tenant's threads."""
        with self._lock:
            return sorted({key.thread_id for key, space in self._matching(tenant, None, None) if space.checkpoints})

    async def delete_thread(self, tenant: str, thread_id: str) -> None:
        """Forget a thread."""
        with self._lock:
            for key, _ in tuple(self._matching(tenant, thread_id, None)):
                del self._spaces[key]

    async def delete_runs(self, tenant: str, run_ids: Sequence[str]) -> None:
        """Forget what these runs wrote."""
        wanted = set(run_ids)
        with self._lock:
            for _, space in self._matching(tenant, None, None):
                gone = [one.checkpoint_id for one in space.checkpoints.values() if one.run_id in wanted]
                if gone:
                    space.forget(gone)

    async def threads_of_runs(self, tenant: str | None, run_ids: Sequence[str]) -> Sequence[tuple[str, str]]:
        """Return the threads in which these runs wrote."""
        wanted = set(run_ids)
        with self._lock:
            found = {
                (key.tenant, key.thread_id)
                for key, space in self._spaces.items()
                if tenant in (None, key.tenant) and not wanted.isdisjoint(space.runs())
            }
        return sorted(found)

    async def erase_runs(self, tenant: str | None, run_ids: Sequence[str], held: Held | None = None) -> int:
        """Forget whole threads of these runs."""
        from meshflow.checkpoint.erasing import erase_threads

        return await erase_threads(self, tenant, run_ids, self.delete_thread, held)

    async def copy_thread(self, tenant: str, source: str, target: str) -> None:
        """Copy a thread."""
        with self._lock:
            if any(space.checkpoints for _, space in self._matching(tenant, target, None)):
                raise target_taken(target)
            for key, space in tuple(self._matching(tenant, source, None)):
                copy = _Space()
                copy.newest = space.newest
                copy.checkpoints = dict(space.checkpoints)
                copy.blobs = dict(space.blobs)
                copy.writes = {one: dict(writes) for one, writes in space.writes.items()}
                self._spaces[ThreadKey(tenant, target, key.namespace)] = copy

    async def prune(self, tenant: str, thread_id: str) -> None:
        """Forget all but the newest of each namespace."""
        with self._lock:
            for _, space in self._matching(tenant, thread_id, None):
                space.forget([one for one in space.checkpoints if one != space.newest])

    async def aclose(self) -> None:
        """Nothing to let go of."""


def _saved(key: ThreadKey, space: _Space, checkpoint: Checkpoint) -> Saved:
    blobs = {
        name: space.blobs[name, version]
        for name, version in checkpoint.values.items()
        if (name, version) in space.blobs
    }
    return Saved(key, checkpoint, blobs, tuple(space.writes.get(checkpoint.checkpoint_id, {}).values()))


if TYPE_CHECKING:
    _: CheckpointStore = MemoryCheckpoints()
