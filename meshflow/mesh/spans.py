"""OpenTelemetry spans of steps, by the semantic conventions for generative AI (extra ``telemetry``)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshflow.errors import ConfigError
from meshflow.mesh.events import Event, MeshEvent
from meshflow.record import StepRecord

if TYPE_CHECKING:
    from meshflow.mesh.mesh import Mesh

_STEPS = (MeshEvent.STEP_COMPLETE, MeshEvent.STEP_DENIED, MeshEvent.STEP_FAILED, MeshEvent.STEP_PAUSED)
_OPERATION = {"model": "chat", "tool": "execute_tool", "mcp": "execute_tool", "agent": "invoke_agent"}


class GenAiSpans:
    """Makes a span of each recorded step: a model call is ``chat``, a tool call ``execute_tool``.

    Inputs and outputs are not in them: the ledger has these, redacted, under the run and step ids that the span names.
    """

    def __init__(self, mesh: Mesh, tracer_provider: Any = None) -> None:
        try:
            trace: Any = import_module("opentelemetry.trace")
        except ImportError:
            raise ConfigError(
                'spans need the OpenTelemetry API: pip install "meshflow[telemetry]"', where="GenAiSpans"
            ) from None
        self._error = trace.Status(trace.StatusCode.ERROR)
        self._tracer = trace.get_tracer("meshflow", tracer_provider=tracer_provider)
        for kind in _STEPS:
            mesh.on(kind, self._span)

    async def _span(self, event: Event) -> None:
        record = event.record
        if record is None:
            return
        started_ns = record.started_us * 1_000
        span = self._tracer.start_span(_name(record), start_time=started_ns, attributes=_attributes(record, event))
        if event.kind is not MeshEvent.STEP_COMPLETE:
            span.set_status(self._error)
        span.end(end_time=started_ns + record.duration_ns)


def _name(record: StepRecord) -> str:
    operation = _OPERATION.get(record.node_kind, record.node_kind)
    return f"{operation} {_model(record) or record.tool or record.node_id}"


def _model(record: StepRecord) -> str:
    """Return the model's name; a model step's action is ``system:model``."""
    return (record.action or "").partition(":")[2] if record.node_kind == "model" else ""


def _attributes(record: StepRecord, event: Event) -> dict[str, Any]:
    known: dict[str, Any] = {
        "gen_ai.operation.name": _OPERATION.get(record.node_kind, record.node_kind),
        "gen_ai.agent.name": event.agent_id,
        "gen_ai.conversation.id": record.run_id,
        "gen_ai.request.model": _model(record),
        "gen_ai.provider.name": (record.action or "").partition(":")[0] if record.node_kind == "model" else "",
        "gen_ai.tool.name": record.tool,
        "error.type": record.code,
        "meshflow.step.id": record.step_id,
        "meshflow.node": record.node_id,
        "meshflow.tenant": record.tenant_id,
        "meshflow.verdict": record.verdict.value,
        "meshflow.tokens": record.tokens,
        "meshflow.cost.micro_usd": record.cost_micro_usd,
    }
    return {name: value for name, value in known.items() if value not in (None, "")}
