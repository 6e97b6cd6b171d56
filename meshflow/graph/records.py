"""What a checkpoint and its writes hold, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from meshflow.checkpoint.encode import decode, encode_readable
from meshflow.checkpoint.store import OF_RUN, Saved, Write
from meshflow.graph.errors import GraphError
from meshflow.graph.markers import Interrupt, Send
from meshflow.graph.output import Output
from meshflow.ids import id_of

if TYPE_CHECKING:
    from meshflow.graph.task import Task

VERSION = 2
RESULT, UNFINISHED, ANSWER, COMMAND, BREAKPOINT = "result", "unfinished", "answer", "command", "breakpoint"
APPROVAL = "apr-"
"""How the ids of approvals begin; those of questions of ``interrupt`` hold no dash."""


def question_id(task_id: str, index: int) -> str:
    """Return the id of a node's question, by its place among the questions of that node."""
    return id_of(task_id, str(index))


RUN = ""
"""The task id of writes that belong to the run and to none of its tasks."""


def output_to_plain(output: Output | None) -> dict[str, Any] | None:
    """Return an output as plain values."""
    if output is None:
        return None
    return {
        "updates": [list(pair) for pair in output.updates],
        "goto": list(output.goto),
        "sends": [[send.node, send.arg] for send in output.sends],
    }


def output_from_plain(plain: Mapping[str, Any]) -> Output:
    """Return the output that plain values stand for."""
    updates = [(key, value) for key, value in plain["updates"]]
    return Output(updates, list(plain["goto"]), [Send(node, arg) for node, arg in plain["sends"]])


def result_write(task: Task, types: Mapping[str, type]) -> Write:
    """Return what is kept of a task that finished before its superstep did."""
    plain = {"output": output_to_plain(task.output), "labels": task.saved.get("labels")}
    return Write(task.id, RESULT, 0, encode_readable(plain, types), path_of(task))


def unfinished_write(task: Task, index: int, types: Mapping[str, type]) -> Write:
    """Return what is kept of a task that failed, asks or waits: what is done of it, and what it was told so far."""
    plain = {
        "node": task.node.name,
        "index": task.index,
        "error": repr(task.error) if task.error is not None else None,
        "interrupts": [[one.id, one.value] for one in task.interrupts],
        "answers": task.answers,
        "output": output_to_plain(task.output),
        "routed": task.routed,
        "saved": task.saved,
    }
    return Write(task.id, UNFINISHED, index, encode_readable(plain, types), path_of(task))


def path_of(task: Task) -> str:
    """Return a task's place in its superstep, as text that sorts like it."""
    return f"0:{task.node.name}" if task.index is None else f"1:{task.index:010d}:{task.node.name}"


@dataclass(slots=True)
class Pending:
    """The writes of a checkpoint, read: what is known of the superstep after it."""

    results: dict[str, Output] = field(default_factory=dict)
    labels: dict[str, Any] = field(default_factory=dict)
    unfinished: dict[str, dict[str, Any]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    commands: list[Output] = field(default_factory=list)
    run_writes: int = 0
    passed_breakpoint: bool = False

    @property
    def open(self) -> dict[str, Interrupt]:
        """Return the questions that a caller may answer, by id; approvals are decided elsewhere."""
        return {asked: one for asked, one in self.waiting.items() if not asked.startswith(APPROVAL)}

    @property
    def waiting(self) -> dict[str, Interrupt]:
        """Return all that the run waits for, by id."""
        return {
            asked[0]: Interrupt(asked[1], asked[0])
            for task_id, record in self.unfinished.items()
            if task_id not in self.results
            for asked in record["interrupts"]
            if asked[0] not in self.answers
        }


def read_pending(saved: Saved, types: Mapping[str, type]) -> Pending:
    """Return what a checkpoint's writes say."""
    pending = Pending()
    for write in saved.writes:
        if write.channel == BREAKPOINT:
            pending.passed_breakpoint = True
            continue
        if write.channel.startswith(OF_RUN):
            continue
        plain = decode(write.payload, types)
        if write.task_id == RUN:
            pending.run_writes = max(pending.run_writes, write.index + 1)
            if write.channel == ANSWER:
                pending.answers.update(plain)
            else:
                pending.commands.append(output_from_plain(plain))
        elif write.channel == RESULT:
            pending.results[write.task_id] = output_from_plain(plain["output"])
            pending.labels[write.task_id] = plain["labels"]
        elif write.index >= pending.counts.get(write.task_id, 0):
            pending.counts[write.task_id] = write.index + 1
            pending.unfinished[write.task_id] = plain
    return pending


def read_body(saved: Saved, types: Mapping[str, type]) -> dict[str, Any]:
    """Return a checkpoint's body; GraphError for one of another kind or a later version."""
    body = decode(saved.checkpoint.body, types)
    if not isinstance(body, dict) or body.get("v") != VERSION:
        raise GraphError(
            f"checkpoint {saved.checkpoint.checkpoint_id!r} of thread {saved.key.thread_id!r} was not written by a "
            "graph of this version"
        )
    return body


def read_values(saved: Saved, types: Mapping[str, type]) -> dict[str, Any]:
    """Return the state that a checkpoint holds."""
    return {name: decode(payload, types) for name, payload in saved.blobs.items()}
