"""The tenancy plugin keeps the contract of stage 2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from meshflow.plugin import NodeInput
from meshflow.testing import StageConformance
from meshflow_tenancy import TenancyPlugin


class TestTenancy(StageConformance):
    plugin_type = TenancyPlugin
    stage = "tenant_scoping"
    settings: ClassVar[Mapping[str, Any]] = {"known": ["default", "acme"], "suspended": ["gone"]}

    def steps(self) -> Iterable[NodeInput]:
        return [NodeInput(node_id="n", tenant=tenant) for tenant in (None, "acme", "gone", "unknown", "")]
