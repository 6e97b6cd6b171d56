"""A graph that runs: invoke, stream, and what a thread holds."""

from __future__ import annotations

import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Unpack

from meshflow.graph.cache import NodeCache
from meshflow.graph.draw import draw_mermaid
from meshflow.graph.errors import InvalidRunError
from meshflow.graph.host import Direct, Host, Looped, drive
from meshflow.graph.markers import START
from meshflow.graph.nodes import Join, Node
from meshflow.graph.reducers import Channel
from meshflow.graph.result import GraphResult, result_of
from meshflow.graph.run import Run
from meshflow.graph.saving import Saver
from meshflow.graph.schema import Schema
from meshflow.graph.settings import RunOptions, Settings, inside_of, settings_from, settings_inside
from meshflow.graph.stream import Sink
from meshflow.graph.task import Task, current_task
from meshflow.graph.threads import Threads
from meshflow.graph.types import readable_types

if TYPE_CHECKING:
    from meshflow.checkpoint.store import CheckpointStore
    from meshflow.graph.governed import Governor
    from meshflow.kernel.runtime import StepRuntime
    from meshflow.loop_thread import LoopThread

MAX_WORKERS = 64


class CompiledGraph(Threads):
    """What ``StateGraph.compile`` returns. One graph serves any number of runs, threads and event loops at once.

    Plain nodes run in the caller's thread, or in workers where several run at once; ``ainvoke`` and ``astream`` never
    block the loop. A graph with coroutines, a governed one, or one whose checkpoints are not in memory, runs on an
    event loop of its own when it is invoked from blocking code.
    """

    def __init__(
        self,
        *,
        name: str,
        nodes: dict[str, Node],
        start: Node,
        joins: tuple[Join, ...],
        channels: dict[str, Channel],
        schemas: tuple[Schema, Schema, Schema, tuple[Schema, ...]],
        context_schema: Any,
        checkpointer: Any,
        runtime: StepRuntime | None,
        interrupt_before: tuple[str, ...],
        interrupt_after: tuple[str, ...],
        types: tuple[type, ...],
    ) -> None:
        self.name = name
        self.nodes = nodes
        self.start = start
        self.every_node = {**nodes, START: start}
        self.joins = joins
        self.channels = channels
        self.state_schema, given, shown, every = schemas
        self.input_keys = given.keys
        self.output_keys = tuple(key for key in channels if key in set(shown.keys))
        self.context_schema = context_schema
        self.runtime = runtime
        self.interrupt_before = interrupt_before
        self.interrupt_after = interrupt_after
        self.cache = NodeCache()
        self.types = readable_types([schema.type for schema in every], types)
        self._checkpointer = checkpointer
        self._store: CheckpointStore | None = None
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._loop: LoopThread | None = None
        self.has_coroutines = any(
            node.is_async
            or any(router.is_async for router in node.routers)
            or (node.is_graph and node.function.needs_loop)
            for node in self.every_node.values()
        )

    @property
    def store(self) -> CheckpointStore | None:
        """The checkpoint store, opened when it is first needed."""
        if self._store is None and self._checkpointer:
            from meshflow.checkpoint.open import open_store

            with self._lock:
                if self._store is None:
                    self._store = open_store(self._checkpointer)
        return self._store

    @property
    def needs_loop(self) -> bool:
        """Whether a run waits for anything that only an event loop brings."""
        return self.has_coroutines or self.runtime is not None or not _immediate(self.store)

    def invoke(
        self, given: Any, config: Mapping[str, Any] | None = None, **options: Unpack[RunOptions]
    ) -> dict[str, Any]:
        """Run to the end, or to a pause, and return the state.

        ``given`` is the input; on a thread with checkpoints None goes on where the run stopped, and a Command answers
        an interrupt. A paused run returns with its questions under ``__interrupt__``. Whatever a node raises is raised
        here.
        """
        if self._on_loop():
            result: dict[str, Any] = self._wait(self.ainvoke(given, config, **options))
            return result
        run = self._run(Direct(self._workers), config, options, Sink())
        ticks = run.ticks(given)
        drive(_exhaust(ticks))
        return run.result()

    async def ainvoke(
        self, given: Any, config: Mapping[str, Any] | None = None, **options: Unpack[RunOptions]
    ) -> dict[str, Any]:
        """Do the same on the running event loop."""
        run = self._run(Looped(self._workers), config, options, Sink())
        await _exhaust(run.ticks(given))
        return run.result()

    def run(self, given: Any, config: Mapping[str, Any] | None = None, **options: Unpack[RunOptions]) -> GraphResult:
        """Run like ``invoke``, and return how it ended instead of raising what a node raised.

        What is wrong with the call itself (no thread, no such checkpoint, an unknown key) is raised all the same.
        """
        if self._on_loop():
            result: GraphResult = self._wait(self.arun(given, config, **options))
            return result
        return drive(_finish(self._run(Direct(self._workers), config, options, Sink()), given))

    async def arun(
        self, given: Any, config: Mapping[str, Any] | None = None, **options: Unpack[RunOptions]
    ) -> GraphResult:
        """Do the same on the running event loop."""
        return await _finish(self._run(Looped(self._workers), config, options, Sink()), given)

    def stream(
        self,
        given: Any,
        config: Mapping[str, Any] | None = None,
        *,
        stream_mode: str | Sequence[str] = "updates",
        subgraphs: bool = False,
        **options: Unpack[RunOptions],
    ) -> Iterator[Any]:
        """Run, and yield what happens as it happens; the run goes on when the next event is asked for.

        Modes: ``values`` (the state after each superstep), ``updates`` (what each node wrote), ``tasks`` (each
        beginning and end), ``checkpoints``, ``debug`` (the last two together), ``custom`` (what nodes write to their
        writer). Of several modes, events are pairs of mode and event; with ``subgraphs`` the namespace comes first.
        """
        sink = Sink(stream_mode, subgraphs)
        if self._on_loop():
            host: Host = Looped(self._workers)
            wait: Callable[[Coroutine[Any, Any, Any]], Any] = self._wait
        else:
            host, wait = Direct(self._workers), drive
        ticks = self._run(host, config, options, sink).ticks(given)
        try:
            while wait(_step(ticks)):
                yield from sink.drain()
            yield from sink.drain()
        finally:
            wait(_close(ticks))

    async def astream(
        self,
        given: Any,
        config: Mapping[str, Any] | None = None,
        *,
        stream_mode: str | Sequence[str] = "updates",
        subgraphs: bool = False,
        **options: Unpack[RunOptions],
    ) -> AsyncIterator[Any]:
        """Do the same on the running event loop."""
        sink = Sink(stream_mode, subgraphs)
        ticks = self._run(Looped(self._workers), config, options, sink).ticks(given)
        try:
            async for _ in ticks:
                for event in sink.drain():
                    yield event
            for event in sink.drain():
                yield event
        finally:
            await ticks.aclose()

    def draw_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart."""
        return draw_mermaid(self)

    def nested_run(self, task: Task, host: Host, settings: Settings | None = None) -> Run:
        """Return a run of this graph inside a node of another one: it shares the thread, the stream and the answers."""
        outer = task.run
        number = task.subgraphs
        task.subgraphs += 1
        namespace = (*outer.namespace, f"{task.node.name}:{task.id}", *((str(number),) if number else ()))
        saver = None
        if self._checkpointer is not False and outer.saver is not None:
            saver = outer.saver.within(_for(host, self.store or outer.saver.store), "|".join(namespace), self.types)
        settings = settings or outer.settings.for_subgraph(self)
        mine = host.for_subgraph(self._workers)
        if self.runtime is not None and outer.governor is None:
            raise InvalidRunError(
                f"graph {self.name!r} is governed and node {task.node.name!r} of an ungoverned graph runs it; compile "
                "the outer graph with the runtime too"
            )
        governor = outer.governor.within(task, self.name) if outer.governor is not None else None
        return Run(
            self, settings, outer.sink, mine, saver=saver, governor=governor, nested_in=task, namespace=namespace
        )

    def close(self) -> None:
        """Stop the graph's own threads; it starts them again when they are needed."""
        with self._lock:
            pool, self._pool = self._pool, None
            loop, self._loop = self._loop, None
        if pool is not None:
            pool.shutdown(wait=True)
        if loop is not None:
            loop.stop()

    def _run(self, host: Host, config: Mapping[str, Any] | None, options: Mapping[str, Any], sink: Sink) -> Run:
        task = current_task()
        if task is not None and inside_of(task.run.settings, config, options):
            run = self.nested_run(task, host, settings_inside(task.run.settings, config, options, self))
            if sink.modes:  # streamed by the node itself
                run.sink, run.modes = sink, sink.modes
            return run
        settings = settings_from(config, options, self)
        return Run(self, settings, sink, host, saver=self._saver(settings, host), governor=self.governor(settings))

    def _saver(self, settings: Settings, host: Host) -> Saver | None:
        store = self.store
        if store is None:
            if settings.checkpoint_id is not None:
                raise InvalidRunError(
                    "checkpoint_id names a checkpoint, and the graph has no checkpointer; compile with one"
                )
            return None
        if settings.thread_id is None:
            raise InvalidRunError(
                "a graph with a checkpointer keeps each run in a thread; call invoke(..., thread_id=...) or give "
                "config "
                '{"configurable": {"thread_id": ...}}'
            )
        from meshflow.checkpoint.store import DEFAULT_TENANT, ThreadKey

        return Saver(_for(host, store), ThreadKey(settings.tenant or DEFAULT_TENANT, settings.thread_id), self.types)

    def _on_loop(self) -> bool:
        if self.needs_loop:
            return True
        task = current_task()
        saver = task.run.saver if task is not None else None
        return task is not None and (task.run.governor is not None or (saver is not None and not saver.store.immediate))

    def _workers(self) -> ThreadPoolExecutor:
        pool = self._pool
        if pool is None:
            with self._lock:
                pool = self._pool
                if pool is None:
                    pool = self._pool = ThreadPoolExecutor(MAX_WORKERS, f"meshflow-{self.name}")
        return pool

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something on the graph's own event loop, and wait for it."""
        from meshflow.loop_thread import LoopThread

        with self._lock:
            if self._loop is None:
                self._loop = LoopThread()
                weakref.finalize(self, self._loop.stop)
            loop = self._loop
        return loop.run(work)

    def governor(self, settings: Settings) -> Governor | None:
        """Return what takes the nodes of a run through the kernel; None for a graph without a runtime."""
        if self.runtime is None:
            return None
        from meshflow.graph.governed import Governor

        return Governor(self.runtime, self.name, settings, settings.labels)


def _immediate(store: CheckpointStore | None) -> bool:
    """Return whether a store can be used without an event loop."""
    return store is None or store.immediate or hasattr(store, "blocking")


def _for(host: Host, store: CheckpointStore) -> CheckpointStore:
    """Return a store as it is used where the nodes run."""
    if isinstance(host, Direct) and not store.immediate:
        blocking: CheckpointStore = store.blocking()  # type: ignore[attr-defined]
        return blocking
    return store


async def _finish(run: Run, given: Any) -> GraphResult:
    try:
        await _exhaust(run.ticks(given))
    except Exception as error:
        if error is not run.failure:
            raise
        return result_of(run, error)
    return result_of(run)


async def _exhaust(ticks: AsyncGenerator[None]) -> None:
    async for _ in ticks:
        pass


async def _close(ticks: AsyncGenerator[None]) -> None:
    await ticks.aclose()


async def _step(ticks: AsyncGenerator[None]) -> bool:
    """Go on to the next events; False when the run has ended."""
    try:
        await anext(ticks)
    except StopAsyncIteration:
        return False
    return True
