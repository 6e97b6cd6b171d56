"""Keep a run in a checkpoint store as it goes on, and take it up again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from meshflow.checkpoint.encode import encode, encode_readable
from meshflow.checkpoint.store import (
    OF_RUN,
    Checkpoint,
    CheckpointStore,
    Claim,
    Saved,
    ThreadKey,
    Write,
    lost_claim,
    new_id,
)
from meshflow.clock import SystemClock
from meshflow.errors import EncodingError, MeshflowError
from meshflow.graph.errors import InvalidRunError
from meshflow.graph.frontier import Frontier
from meshflow.graph.markers import END, Command, Send
from meshflow.graph.output import Output, command_updates, existing, sendable
from meshflow.graph.provenance import Provenance
from meshflow.graph.records import (
    ANSWER,
    BREAKPOINT,
    COMMAND,
    RUN,
    VERSION,
    Pending,
    output_from_plain,
    output_to_plain,
    question_id,
    read_body,
    read_pending,
    read_values,
    result_write,
    unfinished_write,
)
from meshflow.graph.reducers import apply_all
from meshflow.graph.telling import tell_checkpoint

if TYPE_CHECKING:
    from meshflow.graph.run import Run
    from meshflow.graph.task import Task


class Saver:
    """What one run keeps, in one namespace of a thread.

    A run has its thread to itself: it claims it before anything is read, and a second run is refused before any of its
    nodes begins. ``newest`` is the newest checkpoint that this run knows of. Each put demands that it still is, so that
    no run writes half of a history whatever has become of its claim.
    """

    def __init__(self, store: CheckpointStore, key: ThreadKey, types: Mapping[str, type]) -> None:
        self.store = store
        self.key = key
        self.types = types
        self.newest = ""
        self.current: str | None = None
        self.versions: dict[str, str] = {}
        self.changed: set[str] = set()
        self.pending = Pending()
        self.prefilled: dict[tuple[str, int | None], list[Any]] = {}
        self.ran: list[str] = []
        self._held: tuple[str, list[str]] | None = None
        self._written: set[str] = set()
        self._claim: Claim | None = None
        self._loaded: Checkpoint | None = None

    @property
    def passed_breakpoint(self) -> bool:
        """Whether the checkpoint that was loaded is one at which the run had paused."""
        return self.pending.passed_breakpoint

    async def claim(self) -> None:
        """Take the thread for this run; CheckpointConflictError if another run works on it."""
        self._claim = await self.store.claim(self.key.tenant, self.key.thread_id)

    def within(self, store: CheckpointStore, namespace: str, types: Mapping[str, type]) -> Saver:
        """Return what a run inside of this one keeps: the same thread, under the same claim."""
        inside = Saver(store, replace(self.key, namespace=namespace), {**self.types, **types})
        inside._claim = self._claim
        return inside

    async def release(self) -> None:
        """Let go of the thread."""
        claim, self._claim = self._claim, None
        if claim is not None:
            await claim.release()

    async def open(self, run: Run, given: Any) -> bool:
        """Load what the thread holds into the run. True if the run goes on from it, False if it begins anew."""
        if not await self.load(run, run.settings.checkpoint_id if run.nested_in is None else None):
            return False
        if run.nested_in is not None and run.nested_in.retrying and not run.frontier:
            # The node around has seen how this ended, and is tried again: so is this.
            run.values, self.versions, run.step = {}, {}, 0
            run.frontier = Frontier(len(run.graph.joins))
            return False
        if run.nested_in is None and not (given is None or isinstance(given, Command)):
            self.pending = Pending()
            return False
        if self.current != self.newest:
            await self._fork(run, given)
            self._loaded = None
        elif self._loaded is not None and self._loaded.run_id != run.settings.run_id and self.current is not None:
            mark = Write(RUN, f"{OF_RUN}{run.settings.run_id}", 0, encode(None))  # erasure finds the thread by it
            await self._add([mark])
        return True

    def tell_loaded(self, run: Run) -> None:
        """Tell of the checkpoint that the run goes on from; one of the past was told of when its branch began."""
        if self._loaded is not None:
            tell_checkpoint(run, self._loaded)

    async def load(self, run: Run, wanted: str | None) -> bool:
        """Load a checkpoint, or the newest, into the run; False if the thread has none."""
        saved = await self.store.get(self.key, wanted)
        if saved is None:
            if wanted is not None:
                raise InvalidRunError(f"thread {self.key.thread_id!r} has no checkpoint {wanted!r}")
            return False
        newest = saved if wanted is None else await self.store.get(self.key)
        self.newest = newest.checkpoint.checkpoint_id if newest is not None else ""
        self.read(run, saved)
        return True

    def read(self, run: Run, saved: Saved) -> None:
        """Take what a checkpoint holds into the run."""
        body = read_body(saved, self.types)
        run.values = read_values(saved, self.types)
        run.frontier = Frontier.from_plain(body["frontier"], run.graph.joins)
        for name in [*run.frontier.names, *(send.node for send in run.frontier.sends), *run.frontier.deferred]:
            existing(f"thread {self.key.thread_id!r}", name, {**run.graph.nodes, run.graph.start.name: run.graph.start})
        run.step = body["step"]
        self.current = run.anchor = saved.checkpoint.checkpoint_id
        self._loaded = saved.checkpoint
        self.versions = dict(saved.checkpoint.values)
        self.ran = list(body["ran"])
        if run.governor is not None and "labels" in body:
            run.governor.provenance = Provenance.from_plain(body["labels"])
        self.pending = read_pending(saved, self.types)
        run.answers.by_id.update(self.pending.answers)
        for output in self.pending.commands:
            self._apply_command(run, output)

    async def _fork(self, run: Run, given: Any) -> None:
        """Begin a branch at an older checkpoint: what was done after it belongs to the other branch."""
        past, prefilled = self.pending, {}
        if isinstance(given, Command) and given.resume is not None:
            past.answers, past.results = {}, {}  # given on the other branch
            prefilled = _answers_by_task(past, _answers(past, given.resume))
        run.answers.by_id.clear()
        await self.save(run, "fork", self.ran)
        self.prefilled = prefilled
        self.pending.passed_breakpoint = past.passed_breakpoint

    async def take_command(self, run: Run, command: Command[Any]) -> None:
        """Note what a caller hands in to resume; it is kept before anything acts on it."""
        if command.graph is not None:
            raise InvalidRunError("a caller's Command has no graph; there is no graph around this one")
        goto = (command.goto,) if isinstance(command.goto, (str, Send)) else tuple(command.goto)
        if command.resume is None and command.update is None and not goto:
            raise InvalidRunError("the Command says nothing: give resume, update or goto")
        writes: list[Write] = []
        if command.resume is not None and not self.prefilled:
            answers = _answers(self.pending, command.resume)
            run.answers.by_id.update(answers)
            writes.append(Write(RUN, ANSWER, self.pending.run_writes, encode_readable(answers, self.types)))
        if command.update is not None or goto:
            nodes = run.graph.nodes
            output = Output(command_updates("the caller's Command", command.update, run.graph.channels), [], [])
            for target in goto:
                if isinstance(target, Send):
                    output.sends.append(sendable("the caller's Command", target, nodes))
                elif target != END:
                    output.goto.append(existing("the caller's Command", target, nodes))
            self._apply_command(run, output)
            writes.append(
                Write(RUN, COMMAND, self.pending.run_writes, encode_readable(output_to_plain(output), self.types))
            )
        await self._add(writes)

    def _apply_command(self, run: Run, output: Output) -> None:
        apply_all(run.values, run.graph.channels, [("the caller's Command", output.updates)])
        self.changed.update(key for key, _ in output.updates)
        run.frontier.names = sorted({*run.frontier.names, *output.goto})
        run.frontier.sends = [*run.frontier.sends, *output.sends]

    def restore(self, tasks: Sequence[Task]) -> None:
        """Give the tasks of the superstep that was under way what they had done already."""
        for task in tasks:
            task.resuming = True
            task_id = task.id
            done = self.pending.results.get(task_id)
            record = self.pending.unfinished.get(task_id)
            if done is not None:
                task.output, task.routed = done, len(task.node.routers)
                task.saved["labels"] = self.pending.labels.get(task_id)
                self._written.add(task_id)
            elif record is not None:
                task.answers = list(record["answers"])
                task.saved = {name: one for name, one in record["saved"].items() if not name.startswith("tries")}
                if record["output"] is not None:
                    task.output, task.routed = output_from_plain(record["output"]), record["routed"]
            task.answers = self.prefilled.get((task.node.name, task.index), task.answers)

    async def save(self, run: Run, source: str, ran: Sequence[str] = ()) -> None:
        """Keep the state between two supersteps."""
        made = new_id(max(self.newest, self.current or ""), SystemClock().now_us())
        run.anchor = made
        self.ran = list(ran)
        if run.settings.durability == "exit" and source == "loop":
            self._held = (made, self.ran)
            return
        await self._put(run, made, source)

    def _check_claim(self) -> None:
        if self._claim is not None and self._claim.lost:
            raise lost_claim(self.key.thread_id)

    async def _add(self, writes: Sequence[Write]) -> None:
        """Put writes behind the current checkpoint."""
        self._check_claim()
        if writes and self.current is not None:
            await self.store.put_writes(self.key, self.current, writes)

    async def _put(self, run: Run, made: str, source: str) -> None:
        self._check_claim()
        values = run.values
        changed = [key for key in values if key in self.changed or key not in self.versions]
        blobs: dict[tuple[str, str], bytes] = {}
        for key in changed:
            try:
                blobs[key, made] = encode_readable(values[key], self.types)
            except EncodingError as error:
                raise EncodingError(str(error), path=f"the state's key {key!r}") from None
        self.versions = {key: version for key, version in self.versions.items() if key in values}
        self.versions.update((key, made) for key in changed)
        body = {"v": VERSION, "step": run.step, "frontier": run.frontier.to_plain(run.graph.joins), "ran": self.ran}
        if run.governor is not None:
            body["labels"] = run.governor.provenance.to_plain()
        metadata = {**run.settings.metadata, "source": source, "step": run.step, "run_id": run.settings.run_id}
        checkpoint = Checkpoint(
            checkpoint_id=made,
            body=encode_readable(body, self.types),
            metadata=orjson.dumps(metadata, default=repr),
            parent_id=self.current,
            run_id=run.settings.run_id,
            values=dict(self.versions),
        )
        await self.store.put(self.key, checkpoint, blobs, after=self.newest)
        self.newest = self.current = run.anchor = made
        self.changed.clear()
        self._held = None
        self._written.clear()
        self.pending = Pending()
        self.prefilled.clear()
        tell_checkpoint(run, checkpoint)

    async def finished(self, run: Run, task: Task) -> None:
        """Keep what one task of several has done: if the process dies before the others end, it is not done again."""
        if run.settings.durability == "sync" and self.current is not None:
            await self._add([result_write(task, self.types)])
            self._written.add(task.id)

    async def stopped(self, run: Run, tasks: Sequence[Task], error: BaseException | None) -> None:
        """Keep what each task of a superstep has done that is not applied: some failed, some ask or wait.

        ``error``, where one ends the run, is the news all the same if something cannot be kept.
        """
        try:
            await self.close(run)
            await self._keep([task for task in tasks if task.id not in self._written])
        except MeshflowError as problem:
            if error is None:
                raise
            error.add_note(f"not all that superstep {run.step + 1} had done could be kept: {problem}")

    async def cut_short(self, run: Run, tasks: Sequence[Task]) -> None:
        """Keep what was done in a superstep that nobody waits for any more. Whatever stopped the run is the news."""
        ended = [task for task in tasks if task.output is not None and task.id not in self._written]
        if ended and self.current is not None:
            with suppress(MeshflowError):
                await self.close(run)
                await self._keep(ended)

    async def _keep(self, tasks: Sequence[Task]) -> None:
        """Keep what tasks have done, all of it that has a stored form; EncodingError if one's has none."""
        writes: list[Write] = []
        problem: EncodingError | None = None
        for task in tasks:
            try:
                writes.append(self._write_of(task))
            except EncodingError as error:
                problem = problem or error
        await self._add(writes)
        if problem is not None:
            raise problem

    def _write_of(self, task: Task) -> Write:
        if task.finished:
            return result_write(task, self.types)
        return unfinished_write(task, self.pending.counts.get(task.id, 0), self.types)

    async def left(self, run: Run, error: BaseException) -> None:
        """Write what ``durability="exit"`` has held back when a run ends by an error, or is cancelled."""
        try:
            await self.close(run)
        except MeshflowError as problem:
            error.add_note(f"the supersteps that durability='exit' held back could not be kept: {problem}")

    async def breakpoint(self, run: Run, when: str) -> None:
        """Note that the run pauses here, so that it goes on from here when it is resumed, and only then."""
        await self.close(run)
        await self.mark(when)

    async def mark(self, why: str) -> None:
        """Note that somebody has been at the current checkpoint: breakpoints there do not fire on resuming."""
        await self._add([Write(RUN, BREAKPOINT, 0, encode(why))])

    async def close(self, run: Run) -> None:
        """Write what ``durability="exit"`` has held back."""
        if self._held is not None:
            made, self.ran = self._held
            await self._put(run, made, "loop")


def _answers_by_task(past: Pending, chosen: Mapping[str, Any]) -> dict[tuple[str, int | None], list[Any]]:
    """Return the answers that nodes on a branch get before they ask; InvalidRunError for those that none would ask."""
    found: dict[tuple[str, int | None], list[Any]] = {}
    for task_id, record in past.unfinished.items():
        given = record["answers"]
        for asked, _ in record["interrupts"]:
            if asked in chosen:
                if asked != question_id(task_id, len(given)):
                    raise InvalidRunError(
                        f"question {asked!r} was asked by what runs inside of node {record['node']!r}, which begins "
                        "anew on a branch; go on from there with None, and answer when it asks again"
                    )
                found[record["node"], record["index"]] = [*given, chosen[asked]]
    return found


def _answers(pending: Pending, resume: Any) -> dict[str, Any]:
    """Return the answers by the ids of the questions."""
    asked = pending.open
    if not asked:
        raise InvalidRunError("Command(resume=...) answers nothing: no node of this thread waits for an answer")
    if isinstance(resume, dict) and resume and asked.keys() >= resume.keys():
        return dict(resume)
    if len(asked) > 1:
        raise InvalidRunError(
            f"{len(asked)} nodes wait for an answer; give Command(resume={{id: answer}}) with ids among {sorted(asked)}"
        )
    return {next(iter(asked)): resume}
