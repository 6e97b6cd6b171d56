"""The SLA plugin keeps the contract of stage 15."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from meshflow.testing import RecorderConformance
from meshflow_sla import SlaPlugin


class TestSla(RecorderConformance):
    plugin_type = SlaPlugin
    stage = "sla_record"
    settings: ClassVar[Mapping[str, Any]] = {
        "objectives": [{"name": "fast", "under_ms": 1, "min_steps": 1, "window": 5}],
        "max_keys": 2,
    }
