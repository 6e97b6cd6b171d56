"""What may have run before a node is what can be walked back to from it, loops included."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshflow.config.problems import Problem
from meshflow.workflow.spec import Edge
from meshflow.workflow.topology import Topology, topology


def walked(shape: Topology, node: str) -> set[str]:
    """The plain way: back along every edge, and from where a loop comes back to where it leaves."""
    found: set[str] = set()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        sources = [arrow.source for arrow in shape.reaching.get(current, ())]
        sources += [arrow.source for arrow in shape.back.values() if arrow.target == current]
        for source in sources:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


def nested(loop: tuple[int, int], other: tuple[int, int]) -> bool:
    (a, b), (c, d) = loop, other
    return b != d and (b < c or d < a or (a <= c and d < b) or (c <= a and b < d))


@st.composite
def shapes(draw: st.DrawFn) -> Topology:
    """A line of nodes with short cuts in it, and loops that lie within each other or beside."""
    count = draw(st.integers(2, 12))
    places = st.integers(0, count - 1)
    loops: list[tuple[int, int]] = []
    for one, two in draw(st.lists(st.tuples(places, places), max_size=5)):
        loop = (min(one, two), max(one, two))
        if all(nested(loop, other) for other in loops):
            loops.append(loop)
    pairs = {(place, place + 1) for place in range(count - 1)}
    for one, two in draw(st.lists(st.tuples(places, places), max_size=8)):
        cut = (min(one, two), max(one, two))
        whole = all((a <= cut[0] <= b) == (a <= cut[1] <= b) for a, b in loops)
        if cut[0] < cut[1] and whole:
            pairs.add(cut)
    edges = [Edge.model_validate({"from": f"n{one}", "to": f"n{two}"}) for one, two in sorted(pairs)]
    edges += [Edge.model_validate({"from": f"n{b}", "to": f"n{a}", "loop": {"max": 2}}) for a, b in loops]
    problems: list[Problem] = []
    names = draw(st.permutations([f"n{number}" for number in range(count)]))
    shape = topology(names, edges, None, [()] * len(edges), (), problems)
    assert shape is not None, problems
    return shape


@given(shapes())
def test_what_precedes_a_node_is_what_can_be_walked_back_to(shape: Topology) -> None:
    for node in shape.order:
        assert {one for one in shape.order if shape.precedes(one, node)} == walked(shape, node)


@given(shapes())
def test_a_loop_holds_all_ways_from_its_first_node_to_its_last(shape: Topology) -> None:
    for source, body in shape.bodies.items():
        first = shape.back[source].target
        plain = Topology(shape.order, shape.starts, shape.leaving, shape.reaching)
        behind = {node for node in shape.order if first in walked(plain, node)} | {first}
        assert body == behind & (walked(plain, source) | {source})
