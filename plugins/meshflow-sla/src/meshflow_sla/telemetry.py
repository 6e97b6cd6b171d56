"""The optional bridge to OpenTelemetry metrics."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from meshflow.plugin import ConfigError, StepRecord
from meshflow_sla.shadows import Comparison


class Telemetry:
    """Records each step with the process's meter provider; without an SDK set up, the API does nothing."""

    def __init__(self) -> None:
        try:
            metrics: Any = import_module("opentelemetry.metrics")
        except ImportError:
            raise ConfigError(
                "opentelemetry is true, and opentelemetry-api is not installed; install it, or set this to false",
                path="plugins.sla.opentelemetry",
            ) from None
        meter = metrics.get_meter("meshflow")
        self._duration = meter.create_histogram(
            "meshflow.step.duration", unit="s", description="Time from the start of a step to its record."
        )
        self._verdicts = meter.create_counter("meshflow.step.verdicts", unit="{step}", description="Steps by verdict.")
        self._shadows = meter.create_counter(
            "meshflow.shadow.answers", unit="{answer}", description="Answers of shadows, beside what was enforced."
        )
        self._breaches = meter.create_counter(
            "meshflow.sla.breaches", unit="{breach}", description="Breaches of objectives that began."
        )

    def record(self, record: StepRecord) -> None:
        """Record a step. Run and step ids stay out: attributes must be few."""
        attributes = {
            "meshflow.node": record.node_id,
            "meshflow.kind": record.node_kind,
            "meshflow.tenant": record.tenant_id,
            "meshflow.verdict": record.verdict.value,
        }
        self._duration.record(max(0, record.duration_ns) / 1e9, attributes)
        self._verdicts.add(1, attributes | ({"meshflow.code": record.code} if record.code else {}))

    def shadow(self, one: Comparison) -> None:
        """Count a shadow's answer; ``meshflow.agrees`` is false where it would have decided otherwise."""
        self._shadows.add(
            1, {"meshflow.plugin": one.plugin, "meshflow.stage": one.stage, "meshflow.agrees": one.agrees}
        )

    def breach(self, objective: str) -> None:
        """Count a breach that begins."""
        self._breaches.add(1, {"meshflow.objective": objective})
