"""Compile the expressions of a workflow, and check that each reads only what can be there when it is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import quote

from meshflow.config.problems import Problem, unknown
from meshflow.config.source import SettingPath, Source
from meshflow.workflow.expressions import Expression, ExpressionError, Scope, about
from meshflow.workflow.plan import PlannedNode
from meshflow.workflow.spec import Document, Edge
from meshflow.workflow.spec.nodes import HttpNode, HumanNode, MapNode, ModelNode
from meshflow.workflow.template import Compile, Encode, Template, TemplateError
from meshflow.workflow.topology import Topology

_NODE = "nodes."
_ITEM = {"item": "any", "index": "whole"}
_OUTPUT = {"output": "any"}


class Compiler:
    """Compiles what stands at ``root`` of a file under one set of variables."""

    def __init__(
        self, source: Source, problems: list[Problem], document: Document, shape: Topology, root: SettingPath
    ) -> None:
        self._source = source
        self._problems = problems
        self._document = document
        self._shape = shape
        self._root = root
        self.state_types = {name: type_of(value) for name, value in (document.state or {}).items()}

    @cached_property
    def _scope(self) -> Scope:
        return Scope(self._variables())

    @cached_property
    def _item_scope(self) -> Scope:
        return Scope({**self._variables(), **_ITEM})

    @cached_property
    def _undo_scope(self) -> Scope:
        return Scope({**self._variables(), **_OUTPUT})

    @cached_property
    def _item_undo_scope(self) -> Scope:
        return Scope({**self._variables(), **_ITEM, **_OUTPUT})

    def _variables(self) -> dict[str, str]:
        variables = {"input": "any", "run.id": "text", "run.workflow": "text"}
        variables.update({f"state.{name}": kind for name, kind in self.state_types.items()})
        for node in self._shape.order:
            variables[f"nodes.{node}.output"] = "any"
            variables[f"nodes.{node}.status"] = "text"
            variables[f"nodes.{node}.runs"] = "whole"
        return variables

    def node(self, node: PlannedNode, *, item: bool = False) -> PlannedNode:
        """Return the node with its templates compiled; those of what a map does may read ``item`` and ``index``."""
        spec, path = node.spec, node.path
        compile_one: Compile = self._item_scope.compile if item else self._scope.compile
        own = frozenset({node.name})
        given = None
        if "input" in spec.model_fields_set:
            given = self._template(spec.input, (*path, "input"), node.name, compile_one)
        texts = {
            key: self._template(
                data, (*path, key), node.name, compile_one, encode=_in_address if key == "url" else None
            )
            for key, data in _texts(spec).items()
        }
        sets = {name: self._set(name, data, (*path, "set", name), node.name) for name, data in (spec.set or {}).items()}
        undo = None
        if spec.compensate is not None and "input" in spec.compensate.model_fields_set:
            place = (*path, "compensate", "input")
            compile_undo: Compile = self._item_undo_scope.compile if item else self._undo_scope.compile
            undo = self._template(spec.compensate.input, place, node.name, compile_undo, frozenset() if item else own)
        each = None if node.each is None else self.node(node.each, item=True)
        return replace(node, input=given, texts=texts, sets=sets, undo=undo, each=each)

    def conditions(self, edges: Sequence[Edge], places: Sequence[SettingPath]) -> dict[int, Expression]:
        """Return the compiled conditions by the number of their edge."""
        found: dict[int, Expression] = {}
        for number, edge in enumerate(edges):
            if edge.when is None:
                continue
            path = (*places[number], "when")
            try:
                expression = self._scope.condition(edge.when)
            except ExpressionError as error:
                self._note(path, about(edge.when, str(error)), error.line, error.column)
                continue
            for source in edge.source:
                self._check_reads(expression.names, source, path, frozenset({source}))
            found[number] = expression
        return found

    def output(self) -> Template | None:
        """Return the template of what the run gives, if there is one."""
        if "output" not in self._document.model_fields_set:
            return None
        return self._template(self._document.output, (*self._root, "output"), None, self._scope.compile)

    def _set(self, name: str, data: Any, path: SettingPath, node: str) -> Template:
        template = self._template(data, path, node, self._scope.compile, frozenset({node}))
        if name not in self.state_types:
            self._problems.append(Problem(path, unknown("state variable", name, self.state_types)))
        return template

    def _template(
        self, data: Any, path: SettingPath, node: str | None, compile_one: Compile, also: frozenset[str] = frozenset(),
        encode: Encode | None = None,
    ) -> Template:  # fmt: skip
        """Compile a template; ``also`` names nodes that have run by then besides those before ``node``."""
        errors: list[TemplateError] = []
        template = Template(data, compile_one, errors, path, encode)
        for error in errors:
            self._note(error.path, error.message, error.line, error.column)
        if node is not None:
            self._check_reads(template.names, node, path, also)
        return template

    def _check_reads(self, names: Iterable[str], node: str, path: SettingPath, also: frozenset[str]) -> None:
        read = {name.split(".")[1] for name in names if name.startswith(_NODE)} - also
        read -= {arrow.source for arrow in self._shape.reaching.get(node, ())}
        if not read:
            return
        for missing in sorted(one for one in read if not self._shape.precedes(one, node)):
            message = f"reads {missing}, which does not come before {node}; add an edge, or read something else"
            self._problems.append(Problem(path, message))

    def _note(self, path: SettingPath, message: str, line: int, column: int) -> None:
        where = self._source.where_in(path, line, column)
        self._problems.append(Problem(path, message, where))


def _in_address(text: str) -> str:
    """Return text that stays within its part of an address: data adds no path, no parameter and no fragment."""
    return quote(text, safe="")


def type_of(value: Any) -> str:
    """Return the type under which a state variable is declared: that of its first value."""
    kinds = {bool: "truth", int: "whole", float: "number", str: "text"}
    return kinds.get(type(value), "any")


def _texts(spec: Any) -> Mapping[str, Any]:
    """Return the templates that only the kind of a node has."""
    if isinstance(spec, MapNode):
        return {"over": spec.over}
    if isinstance(spec, HumanNode):
        return {"ask": spec.ask}
    if isinstance(spec, ModelNode) and spec.instructions is not None:
        return {"instructions": spec.instructions}
    if isinstance(spec, HttpNode):
        return {"url": spec.url} if spec.headers is None else {"url": spec.url, "headers": spec.headers}
    return {}
