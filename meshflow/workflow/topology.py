"""The shape of a workflow: what comes after what, where loops lead back, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from meshflow.config.problems import Problem, unknown
from meshflow.config.source import SettingPath, shown
from meshflow.workflow.spec import Edge

_MAX_NAMED = 8


class Arrow(NamedTuple):
    """One edge between two nodes; ``edge`` is its number in the file's list, ``most`` the bound of a loop, or 0."""

    source: str
    target: str
    edge: int
    most: int = 0


@dataclass(frozen=True)
class Topology:
    """Nodes in an order in which each comes after all that lead to it; arrows by the node they leave and reach.

    ``back`` holds the arrow that leads back from a node, and ``bodies`` the nodes that such a loop runs again.
    """

    order: tuple[str, ...]
    starts: tuple[str, ...]
    leaving: Mapping[str, tuple[Arrow, ...]]
    reaching: Mapping[str, tuple[Arrow, ...]]
    back: Mapping[str, Arrow] = field(default_factory=dict)
    bodies: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def ends(self) -> tuple[str, ...]:
        """The nodes that no arrow leaves."""
        return tuple(node for node in self.order if not self.leaving.get(node))

    def precedes(self, one: str, other: str) -> bool:
        """Say whether one node may have run when another begins; itself too where a loop comes back to it."""
        return bool(self._before[other] >> self._places[one] & 1)

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {node: place for place, node in enumerate(self.order)}

    @cached_property
    def _before(self) -> Mapping[str, int]:
        """What may have run before each node, a bit for each by its place in the order."""
        before: dict[str, int] = {}
        for node in self.order:
            found = 0
            for arrow in self.reaching.get(node, ()):
                found |= before[arrow.source] | 1 << self._places[arrow.source]
            before[node] = found
        for body in self.bodies.values():
            whole = sum(1 << self._places[node] for node in body)
            for node in body:
                before[node] |= whole
        return before


def topology(
    nodes: Sequence[str], edges: Iterable[Edge], start: Sequence[str] | None, places: Sequence[SettingPath],
    root: SettingPath, problems: list[Problem],
) -> Topology | None:  # fmt: skip
    """Return the shape, or None after noting what is wrong; ``places`` says where each edge stands in the file."""
    before = len(problems)
    forward, backward = _arrows(nodes, edges, places, problems)
    if len(problems) > before:
        return None
    leaving, reaching = _grouped(forward)
    order = _ordered(nodes, leaving, reaching)
    if len(order) < len(nodes):
        cycle = _cycle(set(nodes) - set(order), leaving)
        number = next(arrow.edge for arrow in leaving[cycle[-2]] if arrow.target == cycle[-1])
        problems.append(Problem(places[number], f"{_path(cycle)} is a circle; mark the edge that leads back with loop"))
        return None
    sources = tuple(node for node in nodes if node not in reaching)
    _check_starts(nodes, sources, leaving, start, root, problems)
    shape = Topology(tuple(order), sources, leaving, reaching)
    back: dict[str, Arrow] = {}
    bodies: dict[str, frozenset[str]] = {}
    loops_of: dict[str, list[str]] = {}
    for arrow in backward:
        body = _body(shape, arrow)
        beside = [bodies[name] for name in dict.fromkeys(name for node in body for name in loops_of.get(node, ()))]
        wrong = _wrong_loop(shape, arrow, body, back, beside)
        if wrong:
            problems.append(Problem(places[arrow.edge], wrong))
            continue
        back[arrow.source], bodies[arrow.source] = arrow, body
        for node in body:
            loops_of.setdefault(node, []).append(arrow.source)
    return Topology(shape.order, sources, leaving, reaching, back, bodies) if len(problems) == before else None


def _arrows(
    nodes: Sequence[str], edges: Iterable[Edge], places: Sequence[SettingPath], problems: list[Problem]
) -> tuple[list[Arrow], list[Arrow]]:
    known, seen = set(nodes), set()
    forward: list[Arrow] = []
    backward: list[Arrow] = []
    for number, edge in enumerate(edges):
        missing = [name for name in (*edge.source, *edge.target) if name not in known]
        for name in missing:
            key = "from" if name in edge.source else "to"
            problems.append(Problem((*places[number], key), f"{unknown('node', name, known)}: {shown(name)}"))
        if missing:
            continue
        for source in edge.source:
            for target in edge.target:
                if (source, target) in seen:
                    problems.append(Problem(places[number], f"there are two edges from {source} to {target}; keep one"))
                seen.add((source, target))
                most = edge.loop.max if edge.loop is not None else 0
                (backward if most else forward).append(Arrow(source, target, number, most))
    return forward, backward


def _grouped(arrows: Iterable[Arrow]) -> tuple[dict[str, tuple[Arrow, ...]], dict[str, tuple[Arrow, ...]]]:
    leaving: dict[str, list[Arrow]] = {}
    reaching: dict[str, list[Arrow]] = {}
    for arrow in arrows:
        leaving.setdefault(arrow.source, []).append(arrow)
        reaching.setdefault(arrow.target, []).append(arrow)
    return (
        {node: tuple(found) for node, found in leaving.items()},
        {node: tuple(found) for node, found in reaching.items()},
    )


def _ordered(
    nodes: Sequence[str], leaving: Mapping[str, tuple[Arrow, ...]], reaching: Mapping[str, tuple[Arrow, ...]]
) -> list[str]:
    """Return the nodes in topological order (Kahn 1962); those on a circle, and behind one, are left out."""
    waits = {node: len(reaching.get(node, ())) for node in nodes}
    order = [node for node in nodes if not waits[node]]
    for node in order:
        for arrow in leaving.get(node, ()):
            waits[arrow.target] -= 1
            if not waits[arrow.target]:
                order.append(arrow.target)
    return order


def _cycle(nodes: set[str], leaving: Mapping[str, tuple[Arrow, ...]]) -> list[str]:
    """Return a circle among nodes each of which is on one or behind one; its first node comes last again."""
    # Walking backwards never ends outside of a circle: each of the nodes still waits for one of the others.
    before: dict[str, str] = {}
    for node in sorted(nodes):
        for arrow in leaving.get(node, ()):
            if arrow.target in nodes:
                before.setdefault(arrow.target, node)
    path: list[str] = []
    places: dict[str, int] = {}
    node = min(nodes)
    while node not in places:
        places[node] = len(path)
        path.append(node)
        node = before[node]
    return [node, *reversed(path[places[node] :])]


def _path(nodes: Sequence[str]) -> str:
    if len(nodes) <= _MAX_NAMED:
        return " -> ".join(nodes)
    return " -> ".join((*nodes[: _MAX_NAMED - 2], "...", nodes[-1]))


def _check_starts(
    nodes: Sequence[str], sources: Sequence[str], leaving: Mapping[str, tuple[Arrow, ...]], start: Sequence[str] | None,
    root: SettingPath, problems: list[Problem],
) -> None:  # fmt: skip
    if start is None:
        for node in sources:
            if len(nodes) > 1 and node not in leaving:
                message = "no edge leads to it or from it; add one, or name it in start if it is to run beside the rest"
                problems.append(Problem((*root, "nodes", node), message))
        return
    for name in start:
        if name not in nodes:
            problems.append(Problem((*root, "start"), f"{unknown('node', name, nodes)}: {shown(name)}"))
        elif name not in sources:
            message = f"{shown(name)} has an edge that leads to it; start names nodes that nothing leads to"
            problems.append(Problem((*root, "start"), message))
    for node in sources:
        if node not in start:
            message = "cannot be reached: no edge leads to it, and start does not name it"
            problems.append(Problem((*root, "nodes", node), message))


def _body(shape: Topology, back: Arrow) -> frozenset[str]:
    """Return the nodes on all ways from where a loop comes back to where it leaves."""
    first, last = back.target, back.source
    if first == last:
        return frozenset({first})
    if not shape.precedes(first, last):
        return frozenset()
    between = shape.order[shape.order.index(first) : shape.order.index(last)]
    return frozenset({
        first, last, *(node for node in between if shape.precedes(first, node) and shape.precedes(node, last)),
    })  # fmt: skip


def _wrong_loop(
    shape: Topology, back: Arrow, body: frozenset[str], known: Mapping[str, Arrow],
    beside: Iterable[frozenset[str]],
) -> str:  # fmt: skip
    """Return what is wrong with a loop, or nothing: it has one way in, one way out, and lies whole in another.

    ``beside`` are the bodies of the loops that it shares nodes with.
    """
    if not body:
        return f"{back.source} -> {back.target} does not lead back: {back.target} is not before {back.source}"
    if back.source in known:
        return f"{back.source} has two edges that lead back; give the other one a node of its own"
    for node in sorted(body):
        for arrow in shape.reaching.get(node, ()):
            if node != back.target and arrow.source not in body:
                return f"{arrow.source} -> {node} leads into the loop past its first node {back.target}"
        for arrow in shape.leaving.get(node, ()):
            if node != back.source and arrow.target not in body:
                return f"{node} -> {arrow.target} leads out of the loop before its last node {back.source}"
    if not all(body <= other or other <= body for other in beside):
        return "the loop overlaps with another one; a loop lies within another, or beside it"
    return ""
