"""Stage 10: labels of origin and confidentiality follow data from step to step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshflow.plugin import (
    Confidentiality,
    Decision,
    Finding,
    Host,
    NodeInput,
    Origin,
    Plugin,
    Principal,
    Stage,
    StepContext,
    StepRecord,
    TaintLabels,
    TaintPropagator,
    hookimpl,
)
from meshflow.plugin.hookspecs import CallNext
from meshflow_flow.catalogue import Catalogue
from meshflow_flow.memory import LabelMemory, at_least, join
from meshflow_flow.settings import Declassification, FlowSettings

# After these a text no longer says what was found in it.
_HARMLESS_ACTIONS = frozenset({"mask", "hash", "encrypt", "surrogate", "redact", "replace"})
_SECRET_WORDS = ("SECRET", "PASSWORD", "TOKEN", "PRIVATE_KEY", "API_KEY", "ACCESS_KEY", "CREDENTIAL")
_NOT_PERSONAL = {"URL": Confidentiality.PUBLIC, "DATE_TIME": Confidentiality.PUBLIC}


class TaintPlugin(Plugin[FlowSettings]):
    """Joins the labels of all that a step reads, and remembers those of what it puts out (a lattice, Denning 1976)."""

    settings_type = FlowSettings
    section = "tools"

    def __init__(self, settings: FlowSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        self._catalogue = Catalogue(settings)
        self._memory = LabelMemory(settings.max_runs, settings.max_steps)
        first = settings.first_input
        self._first = TaintLabels.named(first.origin, first.confidentiality, "input")
        self._entities = _NOT_PERSONAL | {
            entity: Confidentiality[level.upper()] for entity, level in settings.entities.items()
        }
        self._acts: dict[str, tuple[Declassification, ...]] = {}
        for act in settings.declassify:
            self._acts[act.tool] = (*self._acts.get(act.tool, ()), act)
        self._handed: dict[tuple[str, str, int], TaintLabels] = {}

    def adopt(self, previous: Plugin[Any]) -> None:
        """Go on with the labels of runs under way: forgotten, what they read would count as trusted again."""
        if isinstance(previous, TaintPlugin):
            self._memory = LabelMemory(self.settings.max_runs, self.settings.max_steps, previous._memory)

    @hookimpl
    async def propagate_taint(self, context: StepContext) -> Decision | None:
        """Return the labels of the step's input, or deny where a source is not known."""
        labels = self._input_labels(context)
        if isinstance(labels, Decision):
            return labels
        findings = context.findings
        if findings is not None and findings.items:
            labels = self._raise_by(findings.items, labels)
        evidence: dict[str, Any] = {}
        acts = self._acts.get(context.step.tool or "")
        if acts:
            labels, names = _declassify(acts, context.principal, labels)
            if names:
                evidence["declassified"] = names
        evidence["origin"] = labels.origin.name.lower()
        evidence["confidentiality"] = labels.confidentiality.name.lower()
        if labels.sources:
            evidence["sources"] = list(labels.sources)
        return Decision.allow(fact=labels, evidence=evidence)

    @hookimpl
    def wrap_stage(self, stage: Stage, call_next: CallNext) -> CallNext | None:
        """See the labels that a handler puts on its own result: they are in the Execution and not in the record."""
        if stage.name != "execution":
            return None

        async def execute(context: StepContext, *rest: Any) -> Any:
            answer = await call_next(context, *rest)
            labels = getattr(answer, "labels", None)
            if labels is not None:
                self._handed[context.run_id, context.step_id, context.attempt] = _checked(labels) or _WORST
            return answer

        return execute

    @hookimpl
    async def settle_step(self, context: StepContext, record: StepRecord) -> None:
        """Remember the labels of what the step put out: all that it read, and what its tool adds."""
        handed = self._handed.pop((record.run_id, record.step_id, record.attempt), None) if self._handed else None
        if not record.executed or context.look_only:
            return
        labels = join(context.labels or _WORST, self._catalogue.find(context.step).emits)
        if handed is not None:
            # A handler may add to the labels of its result. Lowering them is a declassification, and has a name.
            labels = join(labels, handed)
        self._memory.remember(context.tenant_id or "", record.run_id, record.step_id, labels)

    def labels_of(self, tenant_id: str, run_id: str, step_id: str) -> TaintLabels | None:
        """Return the labels of what a step put out, while they are remembered."""
        run = self._memory.run(tenant_id, run_id)
        return run.of(step_id) if run is not None else None

    def emits(self, step: NodeInput) -> TaintLabels:
        """Return the labels that the declaration of a step's tool or kind adds to what it reads."""
        return self._catalogue.find(step).emits

    def _input_labels(self, context: StepContext) -> TaintLabels | Decision:
        step = context.step
        run = self._memory.run(context.tenant_id or "", context.run_id)
        labels: TaintLabels | None = None
        if step.labels is not None:
            labels = _checked(step.labels)
            if labels is None:
                return Decision.deny(
                    "taint_propagation.invalid_labels", "NodeInput.labels must be TaintLabels of an Origin and a level"
                )
        for source in step.reads:
            known = run.of(source) if run is not None else None
            if known is None:
                return Decision.deny(
                    "taint_propagation.unknown_source",
                    "the step reads a step of this run that has not executed here; name executed steps in reads, "
                    "or hand in labels",
                    evidence={"reads": len(step.reads), "position": step.reads.index(source)},
                )
            labels = known if labels is None else join(labels, known)
        if labels is not None:
            return labels
        if run is not None and run.mark is not None and self.settings.unlabelled == "run":
            # Nobody says what the input holds, so it may hold anything that the run has produced.
            return join(self._first, run.mark)
        return self._first

    def _raise_by(self, items: tuple[Finding, ...], labels: TaintLabels) -> TaintLabels:
        for item in items:
            if item.action not in _HARMLESS_ACTIONS:
                labels = at_least(labels, self._level(item.entity), f"finding:{item.entity}")
        return labels

    def _level(self, entity: str) -> Confidentiality:
        level = self._entities.get(entity)
        if level is None:
            secret = any(word in entity.upper() for word in _SECRET_WORDS)
            level = Confidentiality.SECRET if secret else Confidentiality.PERSONAL
            if len(self._entities) < 1_000:
                self._entities[entity] = level
        return level


def _declassify(
    acts: tuple[Declassification, ...], principal: Principal | None, labels: TaintLabels
) -> tuple[TaintLabels, list[str]]:
    names: list[str] = []
    for act in acts:
        if principal is None or (act.verified and not principal.verified):
            continue
        if not any(role in act.roles for role in principal.roles):
            continue
        lowered = _lowered(labels, act)
        if lowered is not labels:
            labels = lowered
            names.append(act.name)
    return labels, names


def _lowered(labels: TaintLabels, act: Declassification) -> TaintLabels:
    origin, confidentiality = labels.origin, labels.confidentiality
    if act.to.origin is not None:
        origin = min(origin, Origin[act.to.origin.upper()])
    if act.to.confidentiality is not None:
        confidentiality = min(confidentiality, Confidentiality[act.to.confidentiality.upper()])
    if origin is labels.origin and confidentiality is labels.confidentiality:
        return labels
    return join(
        TaintLabels(origin, confidentiality, labels.sources), TaintLabels(sources=(f"declassified:{act.name}",))
    )


def _checked(labels: object) -> TaintLabels | None:
    """Return the labels with true members of both scales, or None where they are not labels."""
    if not isinstance(labels, TaintLabels):
        return None
    if isinstance(labels.origin, Origin) and isinstance(labels.confidentiality, Confidentiality):
        return labels
    return None


_WORST = TaintLabels(Origin.EXTERNAL, Confidentiality.SECRET, ("unknown",))

if TYPE_CHECKING:
    _: TaintPropagator = TaintPlugin(FlowSettings())
