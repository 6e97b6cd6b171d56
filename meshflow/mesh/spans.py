"""OpenTelemetry spans of steps, by the semantic conventions for generative AI (extra ``telemetry``)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from meshflow.errors import ConfigError
from meshflow.mesh.events import Event, MeshEvent
from meshflow.record import StepRecord

if TYPE_CHECKING:
    from meshflow.mesh.mesh import Mesh

_REMOTE = ("model", "mcp", "http")
_FAILED = (MeshEvent.STEP_DENIED, MeshEvent.STEP_FAILED)
_STEPS = (MeshEvent.STEP_COMPLETE, MeshEvent.STEP_DENIED, MeshEvent.STEP_FAILED, MeshEvent.STEP_PAUSED)
_OPERATION = {
    "model": "chat", "tool": "execute_tool", "mcp": "execute_tool", "agent": "invoke_agent",
    "subgraph": "invoke_workflow",
}  # fmt: skip
_TOOL_TYPE = {"tool": "function", "mcp": "extension"}
# What the conventions call providers that pydantic-ai calls otherwise.
_PROVIDER = {
    "azure": "azure.ai.openai", "bedrock": "aws.bedrock", "google": "gcp.gemini", "google-cloud": "gcp.vertex_ai",
    "mistral": "mistral_ai", "xai": "x_ai",
}  # fmt: skip


class GenAiSpans:
    """Makes a span of each recorded step: a model call is ``chat``, a tool call ``execute_tool``.

    The names are those of the semantic conventions for generative AI, version 1.41, which are still in development; a
    step that they have no name for, such as a person's, has none of their attributes but agent and conversation.
    Inputs and outputs are not in them: the ledger has these, redacted, under the run and step ids that the span names.
    """

    def __init__(self, mesh: Mesh, tracer_provider: Any = None) -> None:
        try:
            trace: Any = import_module("opentelemetry.trace")
        except ImportError:
            raise ConfigError(
                'spans need the OpenTelemetry API: pip install "meshflow[telemetry]"', where="GenAiSpans"
            ) from None
        self._error, self._kinds = trace.StatusCode.ERROR, trace.SpanKind
        self._tracer = trace.get_tracer("meshflow", tracer_provider=tracer_provider)
        for kind in _STEPS:
            mesh.on(kind, self._span)

    async def _span(self, event: Event) -> None:
        record = event.record
        if record is None:
            return
        started_ns = record.started_us * 1_000
        kind = self._kinds.CLIENT if record.node_kind in _REMOTE else self._kinds.INTERNAL
        attributes = _attributes(record, event)
        span = self._tracer.start_span(_name(record), kind=kind, start_time=started_ns, attributes=attributes)
        if event.kind in _FAILED:
            span.set_status(self._error, record.code)
        span.end(end_time=started_ns + record.duration_ns)


def _name(record: StepRecord) -> str:
    operation = _OPERATION.get(record.node_kind, record.node_kind)
    return f"{operation} {_model(record)[1] or record.tool or record.node_id}"


def _model(record: StepRecord) -> tuple[str, str]:
    """Return provider and name of a model; a model step's action is ``provider:model``."""
    provider, _, name = (record.action or "").partition(":") if record.node_kind == "model" else ("", "", "")
    return _PROVIDER.get(provider, provider), name


def _attributes(record: StepRecord, event: Event) -> dict[str, Any]:
    kind, (provider, model), failed = record.node_kind, _model(record), event.kind in _FAILED
    known: dict[str, Any] = {
        "gen_ai.operation.name": _OPERATION.get(kind),
        "gen_ai.agent.name": event.agent_id,
        "gen_ai.conversation.id": record.run_id,
        "gen_ai.request.model": model,
        "gen_ai.provider.name": provider,
        "gen_ai.tool.name": record.tool,
        "gen_ai.tool.type": _TOOL_TYPE.get(kind),
        "gen_ai.workflow.name": record.node_id if kind == "subgraph" else None,
        "error.type": record.code if failed else None,
        "meshflow.step.id": record.step_id,
        "meshflow.node": record.node_id,
        "meshflow.kind": kind,
        "meshflow.tenant": record.tenant_id,
        "meshflow.verdict": record.verdict.value,
        "meshflow.code": record.code,
        "meshflow.tokens": record.tokens,
        "meshflow.cost.micro_usd": record.cost_micro_usd,
    }
    return {name: value for name, value in known.items() if value not in (None, "")}
