"""Draw a workflow as a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Iterator

from meshflow.workflow.plan import Plan, PlannedNode

_SHAPES = {
    "human": ("{{", "}}"), "map": ("[[", "]]"), "agent": ("(", ")"), "model": ("(", ")"), "http": ("[/", "/]"),
    "mcp": ("[/", "/]"), "tool": ("[/", "/]"),
}  # fmt: skip
_ESCAPES = str.maketrans(
    {"&": "&amp;", '"': "&quot;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "#": "&#35;", "\n": " "}
)
_MAX_LABEL = 60


def draw_mermaid(plan: Plan) -> str:
    """Return the flowchart: an arrow for each edge with its condition, dotted where it leads back, a box in a box for a
    subgraph that stands in the file.
    """
    return "\n".join(["flowchart TD", *_lines(plan, "n", "    ")]) + "\n"


def _lines(plan: Plan, prefix: str, indent: str) -> Iterator[str]:
    places = {name: f"{prefix}{number}" for number, name in enumerate(plan.shape.order)}
    for name, place in places.items():
        node = plan.nodes[name]
        if node.inner is not None:
            yield f'{indent}subgraph {place}["{_label(name)}"]'
            yield from _lines(node.inner, f"{place}_", f"{indent}    ")
            yield f"{indent}end"
            continue
        left, right = _SHAPES.get(node.kind, ("[", "]"))
        yield f'{indent}{place}{left}"{_title(node)}"{right}'
    for name in plan.shape.order:
        for arrow in plan.shape.leaving.get(name, ()):
            yield f"{indent}{places[name]} -->{_condition(plan, arrow.edge)} {places[arrow.target]}"
    for name, arrow in plan.shape.back.items():
        label = f"{plan.edges[arrow.edge].when or 'again'}, {arrow.most} times at most"
        yield f'{indent}{places[name]} -.->|"{_label(label)}"| {places[arrow.target]}'


def _title(node: PlannedNode) -> str:
    about = node.each.kind if node.each is not None else ""
    kind = f"{node.kind} of {about}" if about else node.kind
    undo = ", can be undone" if node.spec.compensate is not None else ""
    return f"{_label(node.name)}<br/><small>{_label(node.spec.description or kind + undo)}</small>"


def _condition(plan: Plan, edge: int) -> str:
    when = plan.edges[edge].when
    return "" if when is None else f'|"{_label(when)}"|'


def _label(text: str) -> str:
    """Return text that cannot end its label, nor be read as markup: Mermaid takes HTML entities."""
    text = " ".join(text.split())
    return (text if len(text) <= _MAX_LABEL else f"{text[: _MAX_LABEL - 3]}...").translate(_ESCAPES)
