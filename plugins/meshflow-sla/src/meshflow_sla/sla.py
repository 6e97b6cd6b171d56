"""Stage 15: count how long each step took, and watch the objectives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshflow.plugin import Host, Plugin, PluginError, SlaRecorder, StepContext, StepRecord, Verdict, hookimpl
from meshflow_sla.objectives import Watch
from meshflow_sla.settings import SlaSettings
from meshflow_sla.shadows import Shadows, comparisons
from meshflow_sla.sketches import Table
from meshflow_sla.telemetry import Telemetry

_TABLES = ("nodes", "agents", "tenants", "tools", "stages")
_ERROR = Verdict.ERROR


class SlaPlugin(Plugin[SlaSettings]):
    """Keeps p50, p95 and p99 by node, agent, tenant, tool and stage, in memory that does not grow with the steps."""

    settings_type = SlaSettings
    section = "telemetry"

    def __init__(self, settings: SlaSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        self._tables = {name: Table(settings.max_keys, settings.accuracy) for name in _TABLES}
        self._nodes, self._agents, self._tenants, self._tools, self._stages = self._tables.values()
        self._watches = tuple(Watch(objective) for objective in settings.objectives)
        self._verdicts: Counter[str] = Counter()
        self._shadows = Shadows()
        self._telemetry: Telemetry | None = None
        self.on_breach: list[Callable[[str, StepRecord], None]] = []
        """Called with an objective's name and the step with which a breach of it begins."""

    @hookimpl
    async def startup(self) -> None:
        """Find the OpenTelemetry API if the settings ask for it."""
        if self.settings.opentelemetry and self._telemetry is None:
            self._telemetry = Telemetry()

    @hookimpl
    async def record_sla(self, context: StepContext, record: StepRecord) -> None:
        """Count the step in every table. Errors are steps that ran and failed; a denial is an answer, not an error."""
        if context.look_only:
            return
        elapsed_ns, failed = record.duration_ns, record.verdict is _ERROR
        agent = record.principal.agent_id if record.principal is not None else context.step.agent_id
        self._nodes.of(record.node_id).add(elapsed_ns, failed=failed)
        self._agents.of(agent).add(elapsed_ns, failed=failed)
        self._tenants.of(record.tenant_id).add(elapsed_ns, failed=failed)
        if record.tool:
            self._tools.of(record.tool).add(elapsed_ns, failed=failed)
        stages = self._stages
        shadowed = False
        for result in record.results:
            stages.of(result.stage).add(result.elapsed_ns)
            shadowed = shadowed or not result.enforced
        if shadowed:
            self._compare(record)
        self._verdicts[record.verdict.value] += 1
        telemetry = self._telemetry
        if telemetry is not None:
            telemetry.record(record)
        for watch in self._watches:
            if watch.add(record, agent):
                self._breached(watch.objective.name, record)

    def _compare(self, record: StepRecord) -> None:
        for one in comparisons(record.results):
            self._shadows.add(one)
            if self._telemetry is not None:
                self._telemetry.shadow(one)

    def _breached(self, objective: str, record: StepRecord) -> None:
        if self._telemetry is not None:
            self._telemetry.breach(objective)
        for tell in self.on_breach:
            tell(objective, record)

    def snapshot(self) -> dict[str, Any]:
        """Return everything counted so far, as JSON values: tables by key, verdicts, shadows, objectives."""
        return {
            "steps": sum(self._verdicts.values()),
            "verdicts": dict(sorted(self._verdicts.items())),
            **{name: table.to_dict() for name, table in self._tables.items()},
            "shadows": self._shadows.to_dict(),
            "objectives": {watch.objective.name: watch.to_dict() for watch in self._watches},
        }

    def merge(self, other: SlaPlugin) -> None:
        """Count all that another recorder has counted. Windows of objectives stay apart: they depend on order."""
        if other is self:
            raise PluginError("a recorder cannot be merged into itself")
        if other.settings.accuracy != self.settings.accuracy:
            raise PluginError(
                f"recorders of accuracy {self.settings.accuracy} and {other.settings.accuracy} cannot be merged"
            )
        for name, table in self._tables.items():
            table.merge(other._tables[name])
        self._verdicts.update(other._verdicts)
        self._shadows.merge(other._shadows)


if TYPE_CHECKING:
    _: SlaRecorder = SlaPlugin(SlaSettings())
