"""What a node or a router returned, as updates of the state and places to go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from meshflow.graph.errors import InvalidUpdateError, ParentCommand, RouteError, did_you_mean
from meshflow.graph.markers import END, START, Command, Send
from meshflow.graph.schema import as_updates

if TYPE_CHECKING:
    from meshflow.graph.nodes import Node, Router

Update = tuple[str, Any]


class Output:
    """The updates, the nodes named by ``goto`` and the Sends of one task, in the order in which they were given."""

    __slots__ = ("goto", "sends", "unique", "updates")

    def __init__(self, updates: list[Update], goto: list[str], sends: list[Send]) -> None:
        self.updates = updates
        self.goto = goto
        self.sends = sends
        self.unique = len(updates) < 2
        """Whether no key comes twice, as far as was looked."""


def read_output(node: str, value: Any, known: Mapping[str, Any], nodes: Mapping[str, Node]) -> Output:
    """Return what a node asks for; InvalidUpdateError or RouteError for what cannot be done."""
    output = Output([], [], [])
    if type(value) is dict:
        output.updates = checked(node, value, known)
        output.unique = True
    elif value is not None:
        _collect(node, value, known, nodes, output)
        output.unique = len(dict(output.updates)) == len(output.updates)
    return output


def _collect(node: str, value: Any, known: Mapping[str, Any], nodes: Mapping[str, Node], into: Output) -> None:
    if value is None:
        return
    if isinstance(value, Command):
        _command(node, value, known, nodes, into)
    elif isinstance(value, Send):
        _go(node, (value,), nodes, into)
    elif isinstance(value, Mapping):
        into.updates.extend(checked(node, value, known))
    elif isinstance(value, (list, tuple)) and any(isinstance(one, (Command, Send)) for one in value):
        for one in value:
            _collect(node, one, known, nodes, into)
    else:
        updates = as_updates(value)
        if updates is None:
            raise InvalidUpdateError(
                f"node {node!r} returned a {type(value).__name__}; return a dict of what changes in the state, a "
                "Command, or None",
                node=node,
            )
        into.updates.extend((key, one) for key, one in updates.items() if key in known)


def _command(
    node: str, command: Command[Any], known: Mapping[str, Any], nodes: Mapping[str, Node], into: Output
) -> None:
    if command.graph == Command.PARENT:
        raise ParentCommand(command)
    if command.graph is not None:
        raise RouteError(f"node {node!r} returned Command(graph={command.graph!r}); it may be None or Command.PARENT")
    if command.resume is not None:
        raise InvalidUpdateError(
            f"node {node!r} returned Command(resume=...), which only a caller may hand in", node=node
        )
    into.updates.extend(command_updates(node, command.update, known))
    goto = command.goto
    _go(node, (goto,) if isinstance(goto, (str, Send)) else goto, nodes, into)


def command_updates(node: str, update: Any, known: Mapping[str, Any]) -> list[Update]:
    """Return the updates of a Command: a dict, pairs, or an instance of a state class."""
    if update is None:
        return []
    if isinstance(update, Mapping):
        return checked(node, update, known)
    if isinstance(update, (list, tuple)) and all(isinstance(one, tuple) and len(one) == 2 for one in update):
        return [pair for key, value in update for pair in checked(node, {key: value}, known)]
    updates = as_updates(update)
    if updates is None:
        raise InvalidUpdateError(
            f"node {node!r} returned Command(update=...) with a {type(update).__name__}; give a dict", node=node
        )
    return [(key, value) for key, value in updates.items() if key in known]


def checked(node: str, update: Mapping[str, Any], known: Mapping[str, Any]) -> list[Update]:
    """Return a dict's items; InvalidUpdateError for a key that the state does not have."""
    for key in update:
        if key not in known:
            whose = f"node {node!r} returned" if node != START else "the input has"
            raise InvalidUpdateError(
                f"{whose} the key {key!r}, which the state does not have{did_you_mean(str(key), known)}; it has "
                f"{list(known)}",
                node=node,
                key=str(key),
            )
    return list(update.items())


def _go(node: str, targets: Iterable[Any], nodes: Mapping[str, Node], into: Output) -> None:
    for target in targets:
        if isinstance(target, Send):
            into.sends.append(sendable(node, target, nodes))
        elif target != END:
            into.goto.append(existing(node, target, nodes))


def sendable(where: str, send: Send, nodes: Mapping[str, Node]) -> Send:
    """Return the Send, if its node is there."""
    if send.node == END:
        raise RouteError(f"{where!r} sends to END, which no node is")
    existing(where, send.node, nodes)
    return send


def existing(where: str, target: Any, nodes: Mapping[str, Node]) -> str:
    """Return the name, if there is such a node; RouteError, naming both, if not."""
    if isinstance(target, str) and target in nodes:
        return target
    raise RouteError(
        f"{where!r} goes to {target!r}, which is no node{did_you_mean(str(target), nodes)}; there are {list(nodes)}"
    )


def read_route(source: str, router: Router, answer: Any, nodes: Mapping[str, Node], into: Output) -> None:
    """Add where a router says to go; RouteError, naming router and answer, for a place that is not there."""
    where = source if source != START else "the entry"
    several: Sequence[Any] = answer if isinstance(answer, (list, tuple)) else (answer,)
    for one in several:
        if isinstance(one, Send):
            into.sends.append(sendable(router.name, one, nodes))
            continue
        target = one
        if router.ends is not None:
            try:
                target = router.ends[one]
            except (KeyError, TypeError):
                raise RouteError(
                    f"router {router.name!r} behind {where!r} answered {one!r}; its path_map has {list(router.ends)}"
                ) from None
        if target == END:
            continue
        if not isinstance(target, str) or target not in nodes:
            raise RouteError(
                f"router {router.name!r} behind {where!r} answered {one!r}, which is no "
                f"node{did_you_mean(str(target), nodes)}; there are {list(nodes)} and END"
            )
        into.goto.append(target)
