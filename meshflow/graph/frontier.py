"""What runs in the next superstep: nodes that were triggered, Sends, joins that still wait, and what was put off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meshflow.graph.errors import InvalidRunError
from meshflow.graph.markers import Send
from meshflow.graph.nodes import Join, Node
from meshflow.graph.output import Output


class Frontier:
    """The next superstep's nodes in the order in which their writes will be applied: by name, then Sends as sent."""

    __slots__ = ("arrived", "deferred", "names", "sends")

    def __init__(self, joins: int) -> None:
        self.names: list[str] = []
        self.sends: list[Send] = []
        self.deferred: set[str] = set()
        self.arrived: list[set[str]] = [set() for _ in range(joins)]

    def __bool__(self) -> bool:
        return bool(self.names or self.sends)

    def advance(self, ran: Sequence[tuple[Node, Output]], nodes: Mapping[str, Node], joins: Sequence[Join]) -> None:
        """Take the results of a superstep and find what comes next."""
        if len(ran) == 1:
            node, output = ran[0]
            if not output.goto and not node.joins and not self.deferred and len(node.edges) < 2:
                target = node.edges
                if not target or not nodes[target[0]].defer:
                    self.names, self.sends = list(target), output.sends
                    return
        following: set[str] = set()
        sends: list[Send] = []
        for node, output in ran:
            following.update(node.edges, output.goto)
            sends.extend(output.sends)
            for index in node.joins:
                arrived = self.arrived[index]
                arrived.add(node.name)
                if arrived == joins[index].sources:
                    arrived.clear()
                    following.add(joins[index].target)
        following.discard("__end__")
        self._settle(following, sends, nodes)

    def _settle(self, following: set[str], sends: list[Send], nodes: Mapping[str, Node]) -> None:
        late = {name for name in following if nodes[name].defer}
        self.deferred |= late
        following -= late
        if not following and not sends:
            following, self.deferred = self.deferred, set()
        self.names = sorted(following)
        self.sends = sends

    def to_plain(self, joins: Sequence[Join]) -> dict[str, Any]:
        """Return the frontier as plain values for a checkpoint; joins by their edges: a later graph may have others."""
        return {
            "names": self.names,
            "sends": [[send.node, send.arg] for send in self.sends],
            "deferred": sorted(self.deferred),
            "arrived": [
                {"sources": sorted(join.sources), "target": join.target, "come": sorted(come)}
                for join, come in zip(joins, self.arrived, strict=True)
                if come
            ],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], joins: Sequence[Join]) -> Frontier:
        """Return the frontier that a checkpoint holds; InvalidRunError if it waits at a join that the graph lacks."""
        frontier = cls(len(joins))
        frontier.names = list(plain["names"])
        frontier.sends = [Send(node, arg) for node, arg in plain["sends"]]
        frontier.deferred = set(plain["deferred"])
        places = {(join.target, *sorted(join.sources)): index for index, join in enumerate(joins)}
        for stored in plain["arrived"]:
            index = places.get((stored["target"], *stored["sources"]))
            if index is None:
                raise InvalidRunError(
                    f"the thread waits at an edge from {stored['sources']} to {stored['target']!r}, which the graph "
                    "does not have any more; give it back that edge, or go on from an earlier checkpoint"
                )
            frontier.arrived[index].update(stored["come"])
        return frontier
