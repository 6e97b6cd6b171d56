"""The SLA recorder keeps the contract of stage 15."""

from __future__ import annotations

from meshflow.testing import RecorderConformance
from meshflow_sla import SlaPlugin


class TestSla(RecorderConformance):
    plugin_type = SlaPlugin
    stage = "sla_record"
