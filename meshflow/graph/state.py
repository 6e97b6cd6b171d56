"""What a thread holds at a checkpoint, and changing it from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from meshflow.checkpoint.store import Saved
from meshflow.graph.errors import InvalidRunError, did_you_mean
from meshflow.graph.markers import END, START, Interrupt
from meshflow.graph.output import read_output
from meshflow.graph.run import Run, place, raise_for
from meshflow.graph.stream import Sink, timestamp
from meshflow.graph.task import Task

if TYPE_CHECKING:
    from meshflow.graph.compiled import CompiledGraph
    from meshflow.graph.host import Host
    from meshflow.graph.saving import Saver
    from meshflow.graph.settings import Settings


class TaskSnapshot(NamedTuple):
    """A task of the superstep after a checkpoint, as far as it has come."""

    id: str
    name: str
    error: str | None = None
    interrupts: tuple[Interrupt, ...] = ()
    result: dict[str, Any] | None = None


class StateSnapshot(NamedTuple):
    """A thread at a checkpoint. ``next`` names what runs when the thread is resumed here; empty, it is done."""

    values: dict[str, Any]
    next: tuple[str, ...]
    config: dict[str, Any]
    metadata: dict[str, Any] | None
    created_at: str | None
    parent_config: dict[str, Any] | None
    tasks: tuple[TaskSnapshot, ...]
    interrupts: tuple[Interrupt, ...]


class ThreadView:
    """One thread of a graph, as it is looked at and changed between runs."""

    def __init__(self, graph: CompiledGraph, settings: Settings, saver: Saver, host: Host) -> None:
        self._graph = graph
        self._settings = settings
        self._saver = saver
        self._host = host

    async def now(self) -> StateSnapshot:
        """Return the newest state, or that of the checkpoint that the settings name."""
        await self._begin()
        wanted = self._settings.checkpoint_id
        saved = await self._saver.store.get(self._saver.key, wanted)
        if saved is not None:
            return self._snapshot(saved, live=wanted is None)
        if wanted is not None:
            raise InvalidRunError(f"thread {self._saver.key.thread_id!r} has no checkpoint {wanted!r}")
        return StateSnapshot({}, (), self._config(None), None, None, None, (), ())

    async def history(
        self, wanted: Mapping[str, Any] | None, before: str | None, limit: int | None
    ) -> AsyncIterator[StateSnapshot]:
        """Yield states, the newest first; ``wanted`` are entries that the metadata must have."""
        await self._begin()
        key, count = self._saver.key, 0
        async for saved in self._saver.store.list(key.tenant, key.thread_id, key.namespace, before=before):
            if limit is not None and count >= limit:
                return
            if wanted:
                metadata = orjson.loads(saved.checkpoint.metadata)
                if any(metadata.get(name) != value for name, value in wanted.items()):
                    continue
            count += 1
            yield self._snapshot(saved, live=False)

    async def update(self, values: Any, as_node: str | None) -> dict[str, Any]:
        """Write a checkpoint as if a node had returned ``values``; return its config."""
        await self._begin()
        await self._saver.claim()
        try:
            return await self._update(values, as_node)
        finally:
            await self._saver.release()

    async def delete(self) -> None:
        """Forget the thread."""
        await self._begin()
        key = self._saver.key
        await self._saver.claim()
        try:
            await self._saver.store.delete_thread(key.tenant, key.thread_id)
        finally:
            await self._saver.release()

    async def _update(self, values: Any, as_node: str | None) -> dict[str, Any]:
        graph, saver, run = self._graph, self._saver, self._run()
        known = await saver.load(run, self._settings.checkpoint_id)
        if as_node == END and not values:
            run.frontier.names, run.frontier.sends = [], []
            run.frontier.deferred.clear()
            run.step += 1
            return await self._save(run, [])
        done = self._apply_finished(run) if known and saver.current == saver.newest else []
        node = graph.every_node.get(self._as_node(as_node, known))
        if node is None:
            raise InvalidRunError(f"as_node={as_node!r} is no node{did_you_mean(str(as_node), graph.nodes)}")
        if node.name == START:
            run.take_input(values or {})
            run.enter()
            return await self._save(run, [])
        if run.governor is not None:
            values = await run.governor.update(run, node, values)
        task = Task(run, node, None, None, alone=True)
        task.output = read_output(node.name, values, graph.channels, graph.nodes)
        task.resuming = True  # its routers may have been asked here before, on record
        await self._host.alone(task)
        raise_for([task])
        if not task.finished:
            raise InvalidRunError(
                f"a router of node {node.name!r} asks a question or waits for an approval, so what follows is not "
                "known and nothing was written; answer it by resuming the thread, or name another node in as_node"
            )
        run.apply([task])
        done.append(task)
        waiting = [name for name in run.frontier.names if name not in {one.node.name for one in done}]
        ran = [(one.node, one.output) for one in done if one.output is not None]
        run.frontier.advance(ran, graph.nodes, graph.joins)
        run.frontier.names = sorted({*run.frontier.names, *waiting})
        run.step += 1
        return await self._save(run, [node.name])

    async def _begin(self) -> None:
        """Learn from the kernel whose threads these are, before anything of them is read."""
        run = self._run()
        if run.governor is not None:
            await run.governor.begin(run)

    def _as_node(self, given: str | None, known: bool) -> str:
        if given is not None:
            return given
        if not known:
            return START
        if len(set(self._saver.ran)) == 1:
            return self._saver.ran[0]
        raise InvalidRunError(
            f"it is not clear as which node to write the state, {self._saver.ran or 'none'} ran last; give as_node"
        )

    def _apply_finished(self, run: Run) -> list[Task]:
        """Apply what tasks of an unfinished superstep have done; they do not run again, unless it cannot be applied."""
        run.resuming = True
        finished = sorted((task for task in run.tasks() if task.finished and task.node.name != START), key=place)
        run.resuming = False
        return finished if _applied(run, finished) else []

    async def _save(self, run: Run, ran: Sequence[str]) -> dict[str, Any]:
        """Save, and mark the place as one at which somebody has been: breakpoints here do not fire on resuming."""
        saver = self._saver
        await saver.save(run, "update", ran)
        await saver.mark("update")
        return self._config(saver.current)

    def _run(self) -> Run:
        governor = self._graph.governor(self._settings)
        return Run(self._graph, self._settings, Sink(), self._host, saver=self._saver, governor=governor)

    def _snapshot(self, saved: Saved, *, live: bool) -> StateSnapshot:
        run = self._run()
        saver = self._saver
        saver.read(run, saved)
        run.resuming = True
        tasks = run.tasks()
        applied = live and _applied(run, sorted((task for task in tasks if task.finished), key=place))
        seen = tuple(self._task(task) for task in tasks)
        checkpoint = saved.checkpoint
        try:
            created = timestamp(int(checkpoint.checkpoint_id[:16], 16))
        except ValueError:
            created = None
        return StateSnapshot(
            values=run.output(),
            next=tuple(task.node.name for task in tasks if not (applied and task.finished)),
            config=self._config(checkpoint.checkpoint_id),
            metadata=orjson.loads(checkpoint.metadata),
            created_at=created,
            parent_config=self._config(checkpoint.parent_id) if checkpoint.parent_id is not None else None,
            tasks=seen,
            interrupts=tuple(one for task in seen for one in task.interrupts),
        )

    def _task(self, task: Task) -> TaskSnapshot:
        pending = self._saver.pending
        record = pending.unfinished.get(task.id)
        asked = pending.waiting
        return TaskSnapshot(
            id=task.id,
            name=task.node.name,
            error=record["error"] if record is not None and not task.finished else None,
            interrupts=tuple(asked[one[0]] for one in record["interrupts"] if one[0] in asked) if record else (),
            result=dict(task.updates) if task.finished else None,
        )

    def _config(self, checkpoint_id: str | None) -> dict[str, Any]:
        key = self._saver.key
        place_of = {"thread_id": key.thread_id, "checkpoint_ns": key.namespace}
        return {"configurable": place_of | ({"checkpoint_id": checkpoint_id} if checkpoint_id is not None else {})}


def _applied(run: Run, finished: Sequence[Task]) -> bool:
    """Apply what tasks have done, all or nothing; False where a reducer, or two of them, stand against it."""
    try:
        run.apply(finished)
    except Exception:  # a reducer's code may raise anything; it was raised to whoever ran the superstep
        return False
    return True
