"""LangGraph's checkpointer interface over our checkpoint stores, so that LangGraph's graphs run on them as well."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from meshflow.checkpoint.open import open_store
from meshflow.checkpoint.store import DEFAULT_TENANT, Checkpoint, CheckpointStore, Saved, ThreadKey, Write
from meshflow.loop_thread import LoopThread

try:
    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        WRITES_IDX_MAP,
        BaseCheckpointSaver,
        ChannelVersions,
        CheckpointMetadata,
        CheckpointTuple,
        get_checkpoint_id,
        get_checkpoint_metadata,
        writes_sort_key,
    )
    from langgraph.checkpoint.base import Checkpoint as LangGraphCheckpoint
except ImportError as error:  # pragma: no cover - the development environment has it
    raise ImportError('MeshflowSaver needs LangGraph: pip install "meshflow[langgraph]"') from error

T = TypeVar("T")
_WRITE, _SPECIAL = "write", "special:"


class MeshflowSaver(BaseCheckpointSaver[str]):
    """A checkpointer for LangGraph: ``graph.compile(checkpointer=MeshflowSaver("runs.db"))``.

    ``store`` is a checkpoint store, ``"memory"``, a path, or a ``postgresql://`` URL; everything is under ``tenant``.
    It serves ``invoke`` and ``ainvoke`` alike, and is closed with ``aclose`` or ``close``.
    """

    def __init__(
        self, store: CheckpointStore | str | Path = "memory", *, tenant: str = DEFAULT_TENANT, serde: Any = None
    ) -> None:
        super().__init__(serde=serde)
        self.store = open_store(store)
        self.tenant = tenant
        self._loop = LoopThread()

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Return the checkpoint that a config names, or its thread's newest."""
        saved = await self.store.get(self._key(config), get_checkpoint_id(config) or None)
        return None if saved is None else self._tuple(saved)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Yield the tenant's checkpoints, the newest first."""
        place: Mapping[str, Any] = config["configurable"] if config is not None else {}
        wanted, count = place.get("checkpoint_id"), 0
        edge = get_checkpoint_id(before) if before is not None else None
        thread = str(place["thread_id"]) if "thread_id" in place else None
        async for saved in self.store.list(self.tenant, thread, place.get("checkpoint_ns"), before=edge):
            if limit is not None and count >= limit:
                return
            if wanted and saved.checkpoint.checkpoint_id != wanted:
                continue
            if filter:
                metadata = self._unpacked(saved.checkpoint.metadata)
                if any(metadata.get(name) != value for name, value in filter.items()):
                    continue
            count += 1
            yield self._tuple(saved)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: LangGraphCheckpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Keep a checkpoint; of its values those that are new in it."""
        body: dict[str, Any] = dict(checkpoint)
        values = body.pop("channel_values")
        described = get_checkpoint_metadata(config, metadata)
        blobs = {
            (channel, str(version)): self._packed(values[channel])
            for channel, version in new_versions.items()
            if channel in values
        }
        made = Checkpoint(
            checkpoint_id=checkpoint["id"],
            parent_id=get_checkpoint_id(config) or None,
            run_id=str(described.get("run_id") or ""),
            body=self._packed(body),
            metadata=self._packed(described),
            values={channel: str(version) for channel, version in checkpoint["channel_versions"].items()},
        )
        key = self._key(config)
        await self.store.put(key, made, blobs)
        return _config(key, made.checkpoint_id)

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Keep what a task has written; a write stands once it is kept, the special ones give way to newer ones."""
        made = []
        for index, (channel, value) in enumerate(writes):
            payload = channel.encode() + b"\x00" + self._packed(value)
            if channel in WRITES_IDX_MAP:  # of these the last written counts, under a number that no other process has
                made.append(Write(task_id, _SPECIAL + channel, secrets.randbits(63), payload, task_path))
            else:
                made.append(Write(task_id, _WRITE, index, payload, task_path))
        checkpoint_id = get_checkpoint_id(config)
        await self.store.put_writes(self._key(config), str(checkpoint_id), made)

    async def adelete_thread(self, thread_id: str) -> None:
        """Forget a thread."""
        await self.store.delete_thread(self.tenant, str(thread_id))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Forget the checkpoints of runs."""
        await self.store.delete_runs(self.tenant, [str(one) for one in run_ids])

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread onto an empty one."""
        await self.store.copy_thread(self.tenant, str(source_thread_id), str(target_thread_id))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Forget all checkpoints of threads, or all but the newest of each namespace."""
        if strategy not in ("keep_latest", "delete"):
            raise ValueError(f"unknown strategy {strategy!r}; choose 'keep_latest' or 'delete'")
        for thread_id in thread_ids:
            if strategy == "delete":
                await self.store.delete_thread(self.tenant, str(thread_id))
            else:
                await self.store.prune(self.tenant, str(thread_id))

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Do what ``aget_tuple`` does, for a blocking caller."""
        return self._wait(self.aget_tuple(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Do what ``alist`` does, for a blocking caller."""
        found = self.alist(config, filter=filter, before=before, limit=limit)
        while (one := self._wait(_next(found))) is not None:
            yield one

    def put(
        self,
        config: RunnableConfig,
        checkpoint: LangGraphCheckpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Do what ``aput`` does, for a blocking caller."""
        return self._wait(self.aput(config, checkpoint, metadata, new_versions))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Do what ``aput_writes`` does, for a blocking caller."""
        self._wait(self.aput_writes(config, writes, task_id, task_path))

    def delete_thread(self, thread_id: str) -> None:
        """Do what ``adelete_thread`` does, for a blocking caller."""
        self._wait(self.adelete_thread(thread_id))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Do what ``adelete_for_runs`` does, for a blocking caller."""
        self._wait(self.adelete_for_runs(run_ids))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Do what ``acopy_thread`` does, for a blocking caller."""
        self._wait(self.acopy_thread(source_thread_id, target_thread_id))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Do what ``aprune`` does, for a blocking caller."""
        self._wait(self.aprune(thread_ids, strategy=strategy))

    def get_next_version(self, current: str | int | None, channel: None) -> str:
        """Return a version that no other branch of a thread makes: values are kept by it, and never changed."""
        number = 0 if current is None else current if isinstance(current, int) else int(current.partition(".")[0])
        return f"{number + 1:032}.{secrets.randbits(64):016x}"

    async def aclose(self) -> None:
        """Close the store."""
        await self.store.aclose()
        self._loop.stop()

    def close(self) -> None:
        """Do the same for a blocking caller."""
        self._wait(self.store.aclose())
        self._loop.stop()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run(work)

    def _key(self, config: RunnableConfig) -> ThreadKey:
        place = config["configurable"]
        return ThreadKey(self.tenant, str(place["thread_id"]), place.get("checkpoint_ns", ""))

    def _packed(self, value: Any) -> bytes:
        kind, data = self.serde.dumps_typed(value)
        return kind.encode() + b"\x00" + data

    def _unpacked(self, packed: bytes) -> Any:
        kind, _, data = packed.partition(b"\x00")
        return self.serde.loads_typed((kind.decode(), data))

    def _tuple(self, saved: Saved) -> CheckpointTuple:
        one = saved.checkpoint
        body = self._unpacked(one.body)
        body["channel_values"] = {name: self._unpacked(packed) for name, packed in saved.blobs.items()}
        return CheckpointTuple(
            config=_config(saved.key, one.checkpoint_id),
            checkpoint=body,
            metadata=self._unpacked(one.metadata),
            parent_config=_config(saved.key, one.parent_id) if one.parent_id is not None else None,
            pending_writes=_pending(saved.writes, self._unpacked),
        )


def _pending(writes: Sequence[Write], unpack: Callable[[bytes], Any]) -> list[tuple[str, str, Any]]:
    """Return the writes as LangGraph orders them; of special ones the newest of each task."""
    chosen: dict[tuple[str, int], tuple[str, Write]] = {}
    for write in writes:
        channel = write.payload.partition(b"\x00")[0].decode()
        chosen[write.task_id, WRITES_IDX_MAP.get(channel, write.index)] = (channel, write)
    ordered = sorted(chosen.items(), key=lambda one: writes_sort_key(one[1][1].path, *one[0]))
    return [
        (task_id, channel, unpack(write.payload.partition(b"\x00")[2])) for (task_id, _), (channel, write) in ordered
    ]


def _config(key: ThreadKey, checkpoint_id: str) -> RunnableConfig:
    return {
        "configurable": {
            "thread_id": key.thread_id,
            "checkpoint_ns": key.namespace,
            "checkpoint_id": checkpoint_id,
        }
    }


async def _next(found: AsyncIterator[CheckpointTuple]) -> CheckpointTuple | None:
    return await anext(found, None)
