"""Prometheus metrics of what a mesh sees (extra ``metrics``)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshflow.errors import ConfigError
from meshflow.mesh.events import Event, MeshEvent

if TYPE_CHECKING:
    from meshflow.mesh.mesh import Mesh

_STEPS = (MeshEvent.STEP_COMPLETE, MeshEvent.STEP_DENIED, MeshEvent.STEP_FAILED, MeshEvent.STEP_PAUSED)
_OTHER = "(other)"
"""What no tenant and no code can be called."""
_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60)


class PrometheusMetrics:
    """Counts steps, refusals, cost, tokens, approvals, breaches and stops in a registry of ``prometheus_client``.

    Run and step ids are never labels, since labels must be few. Tenants and codes come from tokens and policies, so
    that there may be any number: of each the first ``most_values`` have series of their own, and all others share
    ``(other)``. Serve the registry with ``prometheus_client.start_http_server`` or whatever serves the application's
    other metrics.
    """

    def __init__(self, mesh: Mesh, registry: Any = None, *, most_values: int = 200) -> None:
        try:
            client: Any = import_module("prometheus_client")
        except ImportError:
            raise ConfigError(
                'Prometheus metrics need prometheus-client: pip install "meshflow[metrics]"', where="PrometheusMetrics"
            ) from None
        into = {"registry": registry if registry is not None else client.REGISTRY}
        self._steps = client.Counter("meshflow_steps", "Steps by verdict.", ("kind", "verdict", "tenant"), **into)
        self._refused = client.Counter(
            "meshflow_steps_not_completed", "Steps not completed, by code.", ("code",), **into
        )
        self._seconds = client.Histogram(
            "meshflow_step_seconds", "From a step's start to its record.", ("kind",), buckets=_SECONDS, **into
        )
        self._cost = client.Counter("meshflow_cost_usd", "What steps cost, in USD.", ("tenant",), **into)
        self._tokens = client.Counter("meshflow_tokens", "Tokens that steps took.", ("tenant",), **into)
        self._tenants, self._codes = _Few(most_values), _Few(most_values)
        self._events = client.Counter("meshflow_mesh_events", "Events by kind.", ("event",), **into)
        for kind in MeshEvent:
            mesh.on(kind, self._count)

    async def _count(self, event: Event) -> None:
        self._events.labels(event.kind.value).inc()
        record = event.record
        if record is None or event.kind not in _STEPS:
            return
        tenant = self._tenants.of(record.tenant_id)
        self._steps.labels(record.node_kind, record.verdict.value, tenant).inc()
        if record.code:
            self._refused.labels(self._codes.of(record.code)).inc()
        self._seconds.labels(record.node_kind).observe(record.duration_ns / 1e9)
        self._cost.labels(tenant).inc(record.cost_micro_usd / 1e6)
        self._tokens.labels(tenant).inc(record.tokens)


class _Few:
    """The values of a label that have series of their own: the first ones."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """Return the value, or what stands for all that came too late."""
        if value not in self._known:
            if len(self._known) >= self._most:
                return _OTHER
            self._known.add(value)
        return value
