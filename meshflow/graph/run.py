"""One run of a graph: the state, what comes next, and the loop over supersteps."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from meshflow.errors import MeshflowError
from meshflow.graph.copying import copied
from meshflow.graph.errors import (
    GraphInterrupt,
    GraphRecursionError,
    InvalidRunError,
    InvalidUpdateError,
    NodeStoppedError,
    ParentCommand,
)
from meshflow.graph.frontier import Frontier
from meshflow.graph.markers import START, Command, Interrupt
from meshflow.graph.output import Output, checked
from meshflow.graph.provenance import join, labels_from_plain, labels_to_plain
from meshflow.graph.reducers import apply_all, overlaid, snapshot, started
from meshflow.graph.schema import as_updates
from meshflow.graph.stream import INTERRUPT
from meshflow.graph.task import Answers, Task, failure_of
from meshflow.graph.telling import tell_end, tell_kept, tell_start
from meshflow.ids import new_id

if TYPE_CHECKING:
    from meshflow.graph.compiled import CompiledGraph
    from meshflow.graph.governed import Governor
    from meshflow.graph.host import Host
    from meshflow.graph.saving import Saver
    from meshflow.graph.settings import Settings
    from meshflow.graph.stream import Sink


class Run:
    """A run from its input, or from a checkpoint, to its end, a pause or an error.

    ``ticks`` is the loop. It yields whenever there are events to read, so that a caller who stops reading stops the
    run.
    """

    __slots__ = (
        "anchor", "answers", "applied", "failure", "frontier", "governor", "graph", "host", "interrupts", "left",
        "modes", "namespace", "nested_in", "paused", "resuming", "saver", "settings", "sink", "step", "steps_left",
        "values",
    )  # fmt: skip

    def __init__(
        self,
        graph: CompiledGraph,
        settings: Settings,
        sink: Sink,
        host: Host,
        *,
        saver: Saver | None = None,
        governor: Governor | None = None,
        nested_in: Task | None = None,
        namespace: tuple[str, ...] = (),
    ) -> None:
        self.graph = graph
        self.settings = settings
        self.sink = sink
        self.host = host
        self.saver = saver
        self.governor = governor
        self.nested_in = nested_in
        self.namespace = namespace
        self.modes = sink.modes_in(nested_in is not None)
        self.values: dict[str, Any] = {}
        self.frontier = Frontier(len(graph.joins))
        self.step = 0
        self.steps_left = settings.recursion_limit
        self.answers: Answers = nested_in.run.answers if nested_in is not None else Answers()
        self.anchor = ""
        self.applied: Task | None = None
        self.resuming = False
        self.paused = False
        self.failure: BaseException | None = None
        self.interrupts: tuple[Interrupt, ...] = ()
        self.left: tuple[str, ...] | None = None
        """The nodes of an unfinished superstep that have not finished; None where the frontier says what comes."""

    @property
    def cache_scope(self) -> str:
        """Return what parts the cached results of one tenant and agent from another's."""
        settings = self.settings
        return f"{settings.tenant}\x1f{settings.agent_id}\x1f{settings.credential}"

    async def ticks(self, given: Any) -> AsyncGenerator[None]:
        """Run; yield when the sink has events. The thread, where there is one, is this run's alone meanwhile."""
        try:
            async with aclosing(self._supersteps(given)) as steps:
                async for _ in steps:
                    yield
        except BaseException as error:
            if self.saver is not None:
                await self.saver.left(self, error)
            raise
        finally:
            if self.saver is not None and self.nested_in is None:
                await self.saver.release()

    async def _supersteps(self, given: Any) -> AsyncGenerator[None]:
        items = self.sink.items
        if not await self._begin(given):
            return
        if "values" in self.modes and (given or self.resuming):
            self.emit("values", self.output())
        if items:
            yield
        while self.frontier:
            if self.steps_left <= 0:
                raise GraphRecursionError(
                    f"graph {self.graph.name!r} was not done after {self.settings.recursion_limit} supersteps, next "
                    f"{self.frontier.names or [send.node for send in self.frontier.sends]}; mend its loop, or raise "
                    "recursion_limit"
                )
            tasks = self.tasks()
            if await self._breaks(self.settings.interrupt_before, {task.node.name for task in tasks}, "before"):
                break
            self.steps_left -= tasks[0].node is not self.graph.start
            if len(tasks) == 1 and not self.sink.live:
                task = tasks[0]
                tell_start(self, tasks)
                await self.host.alone(task)
                tell_end(self, task)
                if items and task.error is not None:
                    yield
            else:
                async with aclosing(self._together(tasks)) as ends:
                    async for _ in ends:
                        yield
            if not await self._conclude(tasks):
                break
            if items:
                yield
            if self.settings.interrupt_after and await self._breaks(
                self.settings.interrupt_after, {task.node.name for task in tasks}, "after"
            ):
                break
        if self.saver is not None:
            await self.saver.close(self)
        if items:
            yield
        if self.nested_in is not None and self.governor is not None:
            self._tell_labels(self.nested_in, self.governor)
        if self.paused and self.nested_in is not None:
            raise GraphInterrupt(*self.interrupts)

    def _tell_labels(self, task: Task, governor: Governor) -> None:
        """Let the node around know the labels of all that was read in here: what it returns may hold any of it."""
        labels, known = governor.provenance.everything(), labels_from_plain(task.saved.get("inner"))
        if labels is not None:
            task.saved["inner"] = labels_to_plain(labels if known is None else join(known, labels))

    def output(self) -> dict[str, Any]:
        """Return a copy of the state, all keys of all schemas, as streams and snapshots show it."""
        return snapshot(self.values)

    def result(self) -> dict[str, Any]:
        """Return what ``invoke`` does: the state's output keys, and open questions under ``__interrupt__``."""
        values = self.values
        result = {key: values[key] for key in self.graph.output_keys if key in values}
        if self.interrupts:
            result[INTERRUPT] = list(self.interrupts)
        return result

    async def _begin(self, given: Any) -> bool:
        """Load or make the state, and find the first nodes. False if the run stops before its first superstep."""
        saver = self.saver
        if self.governor is not None and self.nested_in is None:
            try:
                await self.governor.begin(self)
            except NodeStoppedError as error:
                self.failure = error
                raise
        if saver is not None and self.nested_in is None:
            await saver.claim()
        if saver is None:
            self.anchor = new_id("start") if self.nested_in is None else self.nested_in.id
        elif await saver.open(self, given):
            return await self._resume(given)
        if given is None or isinstance(given, Command):
            raise InvalidRunError(
                "there is nothing to resume: the run has no checkpoint; give an input"
                if saver is not None
                else "None and Command resume a run, which needs compile(checkpointer=...) and a thread_id"
            )
        self.take_input(given)
        self.enter()
        if saver is not None:
            await saver.save(self, "input")
        return True

    async def _resume(self, given: Any) -> bool:
        """Go on from the checkpoint that the saver has loaded into this run."""
        assert self.saver is not None  # noqa: S101 - only a saver loads
        self.resuming = True
        if isinstance(given, Command):
            await self.saver.take_command(self, given)
        self.saver.tell_loaded(self)
        if self.settings.interrupt_after and self.saver.ran and not self.saver.passed_breakpoint:
            return not await self._breaks(self.settings.interrupt_after, set(self.saver.ran), "after")
        return True

    def take_input(self, given: Any) -> None:
        known = {key: self.graph.channels[key] for key in self.graph.input_keys}
        if isinstance(given, Mapping):
            updates = checked(START, given, known)
        else:
            found = as_updates(given)
            if found is None:
                raise InvalidUpdateError(
                    f"the input is a {type(given).__name__}; give a dict with keys among {list(known)}", node=START
                )
            updates = [(key, value) for key, value in found.items() if key in known]
        if not self.values:
            self.values = started(tuple(self.graph.channels.values()))
        if self.saver is not None:
            self.saver.changed.update(key for key, _ in updates)
        memo: dict[int, Any] = {}
        apply_all(self.values, self.graph.channels, [(START, [(key, copied(value, memo)) for key, value in updates])])

    def enter(self) -> None:
        """Begin at START: its routers, if it has any, are a superstep of their own that nobody sees."""
        start, frontier = self.graph.start, self.frontier
        frontier.names, frontier.sends = [start.name], []
        if not start.routers:
            frontier.advance([(start, Output([], [], []))], self.graph.nodes, self.graph.joins)

    def tasks(self) -> list[Task]:
        frontier, nodes = self.frontier, self.graph.every_node
        names, sends = frontier.names, frontier.sends
        alone = len(names) + len(sends) == 1
        tasks = [Task(self, nodes[send.node], send.arg, index, alone) for index, send in enumerate(sends)]
        tasks += [Task(self, nodes[name], None, None, alone) for name in names]
        if names and names[0] == START:
            tasks[-1].output = Output([], [], [])
        if self.resuming and self.saver is not None:
            self.saver.restore(tasks)
        return tasks

    async def _together(self, tasks: Sequence[Task]) -> AsyncGenerator[None]:
        """Run what is left to run of several tasks; yield when the sink has events."""
        items, watched = self.sink.items, bool(self.modes) and self.nested_in is None
        tell_start(self, tasks)
        for task in tasks:
            if task.finished:
                tell_kept(self, task)
        left = [task for task in tasks if not task.finished]
        if items:
            yield
        remaining = len(left)
        try:
            async with aclosing(self.host.each(left, self.sink if watched else None)) as ends:
                async for ended in ends:
                    if ended is not None:
                        remaining -= 1
                        tell_end(self, ended)
                        if self.saver is not None and (remaining or items) and ended.finished:
                            try:
                                await self.saver.finished(self, ended)
                            except MeshflowError:  # once a sibling has failed that is the news, and this a note on it
                                if failure_of(left) is None:
                                    raise
                    if items:
                        yield
        except BaseException:  # the caller stopped reading, or was cancelled; what ended meanwhile is not done again
            if self.saver is not None:
                await self.saver.cut_short(self, left)
            raise

    async def _conclude(self, tasks: Sequence[Task]) -> bool:
        """Apply a superstep, or notice why it cannot be; True if the run goes on."""
        stopped = [task for task in tasks if not task.finished]
        if stopped:
            self.left = tuple(task.node.name for task in stopped)
            if self.saver is not None:
                await self.saver.stopped(self, tasks, failure_of(tasks))
            raise_for(tasks)
        ordered = sorted(tasks, key=place) if len(tasks) > 1 else tasks
        try:
            self.apply([task for task in ordered if task.finished] if stopped else ordered)
        except Exception as error:  # a reducer's code may raise anything; the nodes have run, and do not run again
            self.failure, self.left = error, None
            if self.saver is not None and not stopped:
                await self.saver.stopped(self, tasks, error)
            raise
        if stopped:
            self.interrupts = tuple(one for task in stopped for one in task.interrupts)
            if "values" in self.modes and self.nested_in is None and any(task.finished for task in tasks):
                self.emit("values", self.output())
            self._pause()
            return False
        ran = [(task.node, task.output) for task in ordered if task.output is not None]
        self.frontier.advance(ran, self.graph.nodes, self.graph.joins)
        self.step += tasks[0].node is not self.graph.start
        self.resuming = False
        if "values" in self.modes and any(output.updates for _, output in ran):
            self.emit("values", self.output())
        if self.saver is not None:
            await self.saver.save(self, "loop", [node.name for node, _ in ran])
        return True

    def seen_by_routers(self, task: Task) -> dict[str, Any]:
        """Return the state with one task's writes.

        Of a task that runs alone they are applied then and there, so that the cost does not grow with the state; unless
        what is kept of the run has to stay as it was until the routers have answered.
        """
        assert task.output is not None  # noqa: S101 - its node has run
        if not task.alone or self.saver is not None:
            return overlaid(self.values, self.graph.channels, task.output.updates)
        self.apply([task])
        return self.values

    def apply(self, tasks: Sequence[Task]) -> None:
        """Apply the writes of tasks that have run, once. Where the run is kept, all or none of them are."""
        alone = tasks[0] if len(tasks) == 1 else None
        if alone is not None:
            if alone is self.applied:
                return
            self.applied = alone
        values, channels = dict(self.values) if self.saver is not None else self.values, self.graph.channels
        if alone is not None and alone.output is not None and alone.output.unique:
            for key, value in alone.output.updates:
                channels[key].write(values, value)
        else:
            apply_all(values, channels, [(task.node.name, task.updates) for task in tasks])
        self.values = values
        if self.governor is not None:
            for task in tasks:
                self.governor.applied(task)
        if self.saver is not None:
            self.saver.changed.update(key for task in tasks for key, _ in task.updates)

    async def _breaks(self, where: frozenset[str], names: set[str], when: str) -> bool:
        """Pause at a breakpoint, unless the run was resumed from this very one."""
        if not where or where.isdisjoint(names):
            return False
        if self.saver is None:
            raise InvalidRunError(f"interrupt_{when} pauses the run, and nothing keeps it; compile with a checkpointer")
        if when == "before" and self.resuming and self.saver.passed_breakpoint:
            return False
        await self.saver.breakpoint(self, when)
        self._pause()
        return True

    def _pause(self) -> None:
        """Stop here, and tell it once, in the graph that the caller runs; questions have told of themselves."""
        if not self.interrupts and self.nested_in is None and "updates" in self.modes:
            self.emit("updates", {INTERRUPT: ()})
        self.paused = True

    async def nested(self, task: Task, graph: CompiledGraph, given: Any, host: Host) -> Any:
        """Run a graph as a node of this one."""
        run = graph.nested_run(task, host)
        shared = {key: given[key] for key in graph.input_keys if key in given} if isinstance(given, Mapping) else given
        async for _ in run.ticks(shared):
            pass
        if run.governor is not None:
            task.saved["labels"] = labels_to_plain(run.governor.provenance.everything())
        return {key: value for key, value in run.result().items() if key in self.graph.channels}

    def emit(self, mode: str, data: Any) -> None:
        """Put an event of this run in."""
        self.sink.emit(self.namespace, mode, data)


def place(task: Task) -> tuple[int, str, int]:
    """Return where a task's writes come in a superstep: nodes by name, then Sends in the order of sending."""
    return (0, task.node.name, 0) if task.index is None else (1, "", task.index)


def raise_for(tasks: Sequence[Task]) -> None:
    """Raise what a task raised, or hand its command on to the graph around."""
    error = failure_of(tasks)
    if error is not None:
        tasks[0].run.failure = error
        raise error
    for task in tasks:
        if task.parent_command is not None:
            raise ParentCommand(task.parent_command)
