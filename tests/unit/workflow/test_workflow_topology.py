"""What may have run before a node is what can be walked back to from it, loops included."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

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


@st.composite
def shapes(draw: st.DrawFn) -> Topology | None:
    """A shape of up to nine nodes, or None for edges that make none."""
    count = draw(st.integers(2, 9))
    pairs = draw(st.sets(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), min_size=1, max_size=16))
    edges = [
        Edge.model_validate({"from": f"n{one}", "to": f"n{two}"} | ({"loop": {"max": 2}} if two <= one else {}))
        for one, two in sorted(pairs)
    ]
    names = draw(st.permutations([f"n{number}" for number in range(count)]))
    return topology(names, edges, None, [()] * len(edges), (), [])


@given(shapes())
def test_what_precedes_a_node_is_what_can_be_walked_back_to(shape: Topology | None) -> None:
    if shape is None:
        return
    for node in shape.order:
        assert {one for one in shape.order if shape.precedes(one, node)} == walked(shape, node)


@given(shapes())
def test_a_loop_holds_all_ways_from_its_first_node_to_its_last(shape: Topology | None) -> None:
    for source, body in shape.bodies.items() if shape is not None else ():
        assert shape is not None
        first = shape.back[source].target
        plain = Topology(shape.order, shape.starts, shape.leaving, shape.reaching)
        behind = {node for node in shape.order if first in walked(plain, node)} | {first}
        assert body == behind & (walked(plain, source) | {source})
