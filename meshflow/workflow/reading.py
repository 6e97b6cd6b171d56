"""Check a workflow file part by part, and note everything that is wrong with it, each with its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from meshflow.config.names import field_names
from meshflow.config.problems import Problem, try_validate, unknown
from meshflow.config.source import SettingPath, Source, shown
from meshflow.errors import ConfigError
from meshflow.workflow.compiling import Compiler
from meshflow.workflow.input_schema import InputSchema
from meshflow.workflow.plan import Plan, PlannedNode
from meshflow.workflow.spec import NODE_TYPES, Document, Edge, Node
from meshflow.workflow.spec.base import NODE_NAME, RESERVED
from meshflow.workflow.spec.nodes import CompensationNode, HttpNode, MapNode, PythonNode, SubgraphNode
from meshflow.workflow.topology import topology

_NAME = re.compile(NODE_NAME)
_HOST = re.compile(r"https?://[^/?#\s${}@]+(?=[/?#]|$)")
_ARROW = "->"
# What is set for one step; a map and a subgraph are many.
_OF_ONE_STEP = frozenset({
    "action", "agent_id", "estimate_tokens", "estimate_usd", "idempotent", "labels", "needs_approval", "retry", "risk",
})  # fmt: skip
# Where a request goes, and how it ends, is not for a header to say.
_HEADERS_OF_THE_REQUEST = frozenset({
    "accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "te", "trailer",
    "transfer-encoding", "upgrade",
})  # fmt: skip
_SECRET_HEADERS = frozenset({"api-key", "authorization", "cookie", "proxy-authorization", "x-api-key", "x-auth-token"})
MAX_SUBGRAPHS = 8


@dataclass(slots=True)
class Reader:
    """Reads one file. ``allow_imports`` permits nodes that name Python code by its import path."""

    source: Source
    allow_imports: bool = False
    problems: list[Problem] = field(default_factory=list)

    def workflow(self, data: Any, root: SettingPath = (), depth: int = 0) -> Plan | None:
        """Return the plan of a workflow that stands at ``root``; None after noting what is wrong."""
        before = len(self.problems)
        if not isinstance(data, Mapping):
            self.problems.append(Problem(root, "should be a mapping with nodes and edges"))
            return None
        edges, places = self._edges(data.get("edges"), root)
        edges_read = len(self.problems) == before
        document = self._part(Document, {**data, "edges": ()} if "edges" in data else data, root)
        if document is None:
            return None
        if not document.nodes:
            self.problems.append(Problem((*root, "nodes"), "is empty; a workflow has one node at least"))
            return None
        if depth and document.limits is not None:
            self.problems.append(Problem((*root, "limits"), "hold for a whole run; set them at the top of the file"))
        nodes = {name: self._named(name, node, root, depth) for name, node in document.nodes.items()}
        for name in document.state or {}:
            self._check_name("state variable", name, (*root, "state", name))
        if not edges_read:
            return None  # an edge that is missing would make nodes look out of reach
        start = list(document.start) if document.start is not None else None
        shape = topology(list(nodes), edges, start, places, root, self.problems)
        known = {name: node for name, node in nodes.items() if node is not None}
        if shape is None or len(self.problems) > before:
            return None
        compiler = Compiler(self.source, self.problems, document, shape, root)
        planned = {name: compiler.node(node) for name, node in known.items()}
        conditions = compiler.conditions(edges, places)
        output = compiler.output()
        schema = self._input_schema(document, root)
        if len(self.problems) > before:
            return None
        mapping = _mapping(document, planned, edges)
        return Plan(
            document, planned, tuple(edges), shape, conditions, compiler.state_types, output, mapping, self.source,
            root, schema,
        )  # fmt: skip

    def _input_schema(self, document: Document, root: SettingPath) -> InputSchema | None:
        if document.input is None or document.input.schema_ is None:
            return None
        try:
            return InputSchema(document.input.schema_)
        except ConfigError as error:
            self.problems.append(Problem((*root, "input", "schema"), error.problem))
            return None

    def _part(self, model: Any, data: Any, path: SettingPath) -> Any:
        made, problems = try_validate(model, data, self.source, lambda inside: (*path, *inside))
        self.problems += problems
        return made

    def _named(self, name: str, data: Any, root: SettingPath, depth: int) -> PlannedNode | None:
        path = (*root, "nodes", name)
        self._check_name("node", name, path)
        return self._node(name, data, path, depth)

    def _check_name(self, what: str, name: str, path: SettingPath) -> None:
        if not _NAME.fullmatch(name) or name in RESERVED:
            reason = "is a word of CEL" if name in RESERVED else "is letters, digits and underscores, 64 at most"
            self.problems.append(Problem(path, f"the name of a {what} {reason}; choose another for {shown(name)}"))

    def _node(self, name: str, data: Any, path: SettingPath, depth: int) -> PlannedNode | None:
        if not isinstance(data, Mapping):
            self.problems.append(Problem(path, "should be a mapping with a kind"))
            return None
        kind = data.get("kind")
        if "kind" not in data:
            message = f"is required and not set; choose one of {', '.join(NODE_TYPES)}"
            self.problems.append(Problem((*path, "kind"), message))
            return None
        if not isinstance(kind, str) or kind not in NODE_TYPES:
            text = unknown("kind of node", kind, NODE_TYPES) if isinstance(kind, str) else "should be text"
            self.problems.append(Problem((*path, "kind"), f"{text}: {shown(kind)}"))
            return None
        before = len(self.problems)
        spec = self._part(NODE_TYPES[kind], data, path)
        if spec is None:
            return None
        self._check_node(spec, path)
        each, inner = None, None
        if isinstance(spec, MapNode):
            each = self._each(name, spec, path, depth)
        elif isinstance(spec, SubgraphNode) and "workflow" in spec.model_fields_set:
            if depth >= MAX_SUBGRAPHS:
                self.problems.append(Problem(path, f"workflows lie at most {MAX_SUBGRAPHS} deep in each other"))
            else:
                inner = self.workflow(spec.workflow, (*path, "workflow"), depth + 1)
        if len(self.problems) > before:
            return None
        return PlannedNode(name, kind, spec, path, each=each, inner=inner)

    def _each(self, name: str, spec: MapNode, path: SettingPath, depth: int) -> PlannedNode | None:
        place = (*path, "do")
        each = self._node(name, spec.do, place, depth)
        if each is None:
            return None
        for wrong, reason in (
            (each.kind == "map", "a map may not hold a map; use a subgraph around it"),
            (each.spec.set is not None, "what an item would set, the next would set again; use set beside over"),
            (
                each.spec.compensate is not None and spec.compensate is not None,
                "compensate stands beside over, for all items together, or in do, for each; not in both",
            ),
        ):
            if wrong:
                self.problems.append(Problem(place, reason))
        return each

    def _check_node(self, spec: Node, path: SettingPath) -> None:
        problems = self.problems
        self._check_retry(spec, path)
        if isinstance(spec, MapNode | SubgraphNode):
            for key in sorted(_OF_ONE_STEP & spec.model_fields_set):
                problems.append(Problem((*path, key), f"belongs to what the {spec.kind} runs, not to the {spec.kind}"))
        if isinstance(spec, PythonNode):
            self._one_of(spec, path, "call", "import")
            if spec.import_ is not None and not self.allow_imports:
                message = "a file may not name code to import; register the function and use call, or allow imports"
                problems.append(Problem((*path, "import"), message))
        elif isinstance(spec, SubgraphNode):
            self._one_of(spec, path, "workflow", "ref")
        elif isinstance(spec, HttpNode):
            self._check_request(spec, path)
        undo = spec.compensate
        if undo is not None:
            self._check_undo(undo, (*path, "compensate"))

    def _check_request(self, spec: HttpNode, path: SettingPath) -> None:
        if not _HOST.match(spec.url):
            message = "should begin with http:// or https:// and a host that is written out, without ${{ }} or user"
            self.problems.append(Problem((*path, "url"), message))
        for name in spec.headers or ():
            if name.lower() in _SECRET_HEADERS:
                message = "is secret, and a step's input is on record; give it in code: Registry.allow_host(headers=)"
                self.problems.append(Problem((*path, "headers", name), message))
            elif name.lower() in _HEADERS_OF_THE_REQUEST:
                self.problems.append(Problem((*path, "headers", name), "is set by the request itself; remove it"))

    def _check_retry(self, spec: Node | CompensationNode, path: SettingPath) -> None:
        if spec.retry is not None and spec.retry.max_attempts > 1 and not spec.idempotent and spec.risk != "read_only":
            message = (
                "a failed attempt may have had its effect; set idempotent: true (or risk: read_only) if doing it twice "
                "is as good as once, or remove retry"
            )
            self.problems.append(Problem((*path, "retry"), message))

    def _check_undo(self, undo: CompensationNode, path: SettingPath) -> None:
        self._check_retry(undo, path)
        own, other = ("call", "tool") if undo.kind == "python" else ("tool", "call")
        if getattr(undo, own) is None:
            self.problems.append(Problem(path, f"kind {undo.kind} needs {own}"))
        if getattr(undo, other) is not None:
            self.problems.append(Problem((*path, other), f"belongs to another kind than {undo.kind}"))

    def _one_of(self, spec: Node, path: SettingPath, one: str, other: str) -> None:
        given = [key for key in (one, other) if {key, f"{key}_"} & spec.model_fields_set]
        if len(given) != 1:
            message = f"needs {one} or {other}" if not given else f"takes {one} or {other}, not both"
            self.problems.append(Problem(path, message))

    def _edges(self, data: Any, root: SettingPath) -> tuple[list[Edge], list[SettingPath]]:
        """Return the edges, a chain taken apart, and where each stands."""
        edges: list[Edge] = []
        places: list[SettingPath] = []
        if data is None:
            return edges, places
        if not isinstance(data, list | tuple):
            self.problems.append(Problem((*root, "edges"), "should be a list"))
            return edges, places
        for number, item in enumerate(data):
            path = (*root, "edges", number)
            if isinstance(item, str):
                names = [name.strip() for name in item.split(_ARROW)]
                if len(names) < 2 or not all(names):
                    self.problems.append(Problem(path, "should be a mapping, or a chain such as a -> b -> c"))
                    continue
                pairs = [{"from": one, "to": two} for one, two in pairwise(names)]
            else:
                pairs = [item]
            for pair in pairs:
                edge = self._part(Edge, pair, path)
                if edge is not None:
                    edges.append(edge)
                    places.append(path)
        return edges, places


def _mapping(document: Document, nodes: Mapping[str, PlannedNode], edges: list[Edge]) -> dict[str, Any]:
    """Return the definition as plain data, in the form in which it is written out."""
    mapping = document.written()
    mapping["nodes"] = {name: node_mapping(node) for name, node in nodes.items()}
    mapping.pop("edges", None)
    if edges:
        mapping["edges"] = [_edge_mapping(edge) for edge in edges]
    output = mapping.pop("output", None)
    if "output" in document.model_fields_set:
        mapping["output"] = output
    return {key: _listed(value) for key, value in mapping.items()}


def node_mapping(node: PlannedNode) -> dict[str, Any]:
    """Return a node as plain data: its kind first, then what only its kind has."""
    written = node.spec.written()
    own = [name for name in field_names(type(node.spec)) if name not in field_names(Node)]
    ordered = {name: written[name] for name in (*own, *written) if name in written}
    if node.each is not None:
        ordered["do"] = node_mapping(node.each)
    if node.inner is not None:
        ordered["workflow"] = dict(node.inner.mapping)
    return {key: _listed(value) for key, value in ordered.items()}


def _edge_mapping(edge: Edge) -> dict[str, Any]:
    written = edge.written()
    for key, names in (("from", edge.source), ("to", edge.target)):
        written[key] = names[0] if len(names) == 1 else list(names)
    return {key: _listed(value) for key, value in written.items()}


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value
