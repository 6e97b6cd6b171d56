"""A node's result in the form in which the kernel sees it: plain values that its stages can read and redact."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meshflow.graph.errors import GraphInterrupt, ParentCommand
from meshflow.graph.markers import Command, Send
from meshflow.graph.output import read_output
from meshflow.graph.records import output_to_plain
from meshflow.step import Metered

if TYPE_CHECKING:
    from meshflow.graph.task import Task


class Shape:
    """What kind of result stands behind the plain values. It stays outside of them, so that no value can pretend to it.

    ``plain``: a dict of updates, or None. ``output``: updates, goto and Sends. ``parent``: a command to the graph
    around. ``asks``: questions of ``interrupt``. ``answers``: what a router answered.
    """

    __slots__ = ("error", "has_events", "kind")

    def __init__(self, kind: str = "plain", has_events: bool = False) -> None:
        self.kind = kind
        self.has_events = has_events
        self.error: Exception | None = None

    def node_result(self, task: Task, value: Any) -> Any:
        """Return a node's result as plain values, in its Metered if it has one."""
        if isinstance(value, Metered):
            return replace(value, value=self.node_result(task, value.value))
        if value is None or type(value) is dict:
            self.kind = "plain"
            return value
        graph = task.run.graph
        try:
            output = read_output(task.node.name, value, graph.channels, graph.nodes)
        except ParentCommand as up:
            self.kind = "parent"
            return _command_to_plain(up.command)
        self.kind = "output"
        return output_to_plain(output)

    def with_events(self, plain: Any, events: list[Any]) -> Any:
        """Return a result together with what the node has told its writer, so that the stages see both."""
        if isinstance(plain, Metered):
            return replace(plain, value=self.with_events(plain.value, events))
        self.has_events = bool(events)
        return {"result": plain, "events": list(events)} if events else plain

    def questions(self, stop: GraphInterrupt) -> Any:
        """Return the questions that a node stopped with."""
        self.kind = "asks"
        return {"interrupts": [[one.id, one.value] for one in stop.interrupts]}

    def router_result(self, answer: Any) -> Any:
        """Return a router's answer as plain values."""
        self.kind = "answers"
        several = answer if isinstance(answer, (list, tuple)) else [answer]
        return [{"send": one.node, "arg": one.arg} if isinstance(one, Send) else {"to": one} for one in several]


def released_output(kind: str, released: Any) -> Any:
    """Return what the graph goes on with, from what the kernel has released."""
    if kind == "parent":
        update, goto = released["update"], [_place(one) for one in released["goto"]]
        return Command(update=update, goto=goto, graph=Command.PARENT)
    if kind == "answers":
        return [_place(one) for one in released]
    if kind == "output":
        updates = [(key, value) for key, value in released["updates"]]
        return Command(update=updates, goto=[*released["goto"], *(Send(node, arg) for node, arg in released["sends"])])
    return released


def _command_to_plain(command: Command[Any]) -> dict[str, Any]:
    goto = (command.goto,) if isinstance(command.goto, (str, Send)) else command.goto
    places = [{"send": one.node, "arg": one.arg} if isinstance(one, Send) else {"to": one} for one in goto]
    return {"update": command.update, "goto": places}


def _place(plain: Any) -> Any:
    return Send(plain["send"], plain["arg"]) if "send" in plain else plain["to"]
