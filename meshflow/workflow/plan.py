"""A workflow as it runs: checked nodes, compiled templates and conditions, and its shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

import orjson

from meshflow.config.source import SettingPath, Source
from meshflow.workflow.expressions import Expression
from meshflow.workflow.input_schema import InputSchema
from meshflow.workflow.spec import Document, Edge, Limits, Node
from meshflow.workflow.template import Template
from meshflow.workflow.topology import Topology

_NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """One node, with its templates compiled.

    ``texts`` are the further templates of its kind (``over``, ``ask``, ``url``, ``headers``), ``sets`` those of the
    state it leaves. ``each`` is what a map does with an item, ``inner`` the workflow that a subgraph holds in place.
    """

    name: str
    kind: str
    spec: Node
    path: SettingPath
    input: Template | None = None
    texts: Mapping[str, Template] = field(default_factory=dict)
    sets: Mapping[str, Template] = field(default_factory=dict)
    undo: Template | None = None
    each: PlannedNode | None = None
    inner: Plan | None = None


@dataclass(frozen=True)
class Plan:
    """A whole workflow. ``conditions`` are by the number of their edge; ``state`` has the variables' types."""

    document: Document
    nodes: Mapping[str, PlannedNode]
    edges: tuple[Edge, ...]
    shape: Topology
    conditions: Mapping[int, Expression]
    state: Mapping[str, str]
    output: Template | None
    mapping: Mapping[str, Any]
    source: Source = field(compare=False)
    root: SettingPath = ()
    schema: InputSchema | None = None

    @property
    def name(self) -> str:
        """The workflow's name."""
        return self.document.name

    @property
    def limits(self) -> Limits:
        """What a run may use."""
        return self.document.limits or _NO_LIMITS

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical form of the definition, as hex: two files that say the same have the same."""
        return sha256(orjson.dumps(self.mapping, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def where(self, path: SettingPath) -> str:
        """Return file, line and column of a part."""
        return self.source.where(path)
