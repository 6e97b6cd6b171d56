"""Draw a graph as a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from meshflow.graph.markers import END, START

if TYPE_CHECKING:
    from meshflow.graph.compiled import CompiledGraph


def draw_mermaid(graph: CompiledGraph) -> str:
    """Return the flowchart: edges as arrows, routers and declared destinations as dotted ones with their answers."""
    ids = {name: f"n{index}" for index, name in enumerate(graph.nodes)} | {START: "start", END: "stop"}
    lines = ["flowchart TD", "    start([start])"]
    for name, node in graph.nodes.items():
        shape = ('[["', '"]]') if node.is_graph else ('["', '"]')
        lines.append(f"    {ids[name]}{shape[0]}{_quoted(name)}{shape[1]}")
    lines.append("    stop([end])")
    for source, target, label, dotted in _arrows(graph):
        arrow = "-.->" if dotted else "-->"
        text = f"|{_quoted(label)}|" if label else ""
        lines.append(f"    {ids[source]} {arrow}{text} {ids[target]}")
    return "\n".join(lines) + "\n"


def _arrows(graph: CompiledGraph) -> Iterator[tuple[str, str, str, bool]]:
    for name, node in graph.every_node.items():
        for target in node.edges:
            yield name, target, "", False
        for index in node.joins:
            yield name, graph.joins[index].target, "", False
        for router in node.routers:
            answers = router.ends if router.ends is not None else {one: one for one in (*graph.nodes, END)}
            for answer, target in answers.items():
                yield name, target, str(answer) if answer != target else "", True
        for target in node.destinations or ():
            yield name, target, "", True
        if not (node.edges or node.joins or node.routers or node.destinations) and name != START:
            yield name, END, "", False


def _quoted(text: str) -> str:
    """Return text that cannot end its own label: Mermaid takes HTML entities."""
    for character, entity in (
        ("&", "&amp;"),
        ('"', "&quot;"),
        ("<", "&lt;"),
        (">", "&gt;"),
        ("|", "&#124;"),
        ("\n", " "),
    ):
        text = text.replace(character, entity)
    return text
