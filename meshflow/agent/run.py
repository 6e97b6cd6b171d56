"""One run of an agent: its steps, the labels that they pass on, and what a pause must keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from meshflow.agent.result import AgentStep
from meshflow.facts import Confidentiality, Origin, Principal, TaintLabels
from meshflow.ids import new_id
from meshflow.record import RuntimeOutcome, Status, StepRecord
from meshflow.step import NodeInput

if TYPE_CHECKING:
    from meshflow.kernel.runtime import StepRuntime
    from meshflow.kernel.session import StepStream

HELD = "compliance_profile.paused"
"""The code of a step that a mesh's pause denies, and that is handed in again when the run goes on."""
USER = TaintLabels(Origin.USER, Confidentiality.INTERNAL, ("prompt",))


class RunStopped(Exception):
    """A model call did not complete, so the run cannot go on; carries the outcome."""

    def __init__(self, outcome: RuntimeOutcome) -> None:
        self.outcome = outcome
        super().__init__(outcome.code)


@dataclass(slots=True)
class AgentRun:
    """What the governed model and the governed tools of one run share.

    Step ids are made from ``prefix`` and from what they are the step of, so that a run which goes on after a pause, in
    another process too, hands in the same steps. ``waiting`` are the steps that wait for a person, with the labels of
    what was asked about: under others it would be another question. ``steps`` holds a step once, as it ended last.
    """

    runtime: StepRuntime
    template: NodeInput
    prefix: str
    labels: TaintLabels
    waiting: dict[str, TaintLabels] = field(default_factory=dict)
    steps: dict[str, AgentStep] = field(default_factory=dict)
    stopped: RuntimeOutcome | None = None
    handed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The checkpoints of agents that paused, by the step that handed over to them."""
    held: set[str] = field(default_factory=set)
    """The steps that a mesh's pause kept from running."""
    principal: dict[str, Any] | None = None
    """For whom the run goes on, once a step has said so."""
    answers: int = 0
    """How many answers of the model the conversation holds: providers may use the id of a call again."""
    _reads: list[str] = field(default_factory=list)
    _read_by_model: tuple[str, ...] = ()
    _lasting: TaintLabels = field(default_factory=TaintLabels)

    def read(self, step_ids: tuple[str, ...]) -> None:
        """Have the next model call carry the labels of these steps."""
        self._reads += step_ids

    def model_step(self, number: int, **fields: Any) -> NodeInput:
        """Return the step of the model call after ``number`` answers; it reads all that came since the last one."""
        return self._step(f"{self.prefix}/model-{number}", reads=tuple(self._reads), kind="model", **fields)

    def tool_step(self, call_id: str, **fields: Any) -> NodeInput:
        """Return the step of a tool call; it reads the model call that asked for it."""
        return self._step(f"{self.prefix}/tool-{self.answers}-{call_id}", reads=self._read_by_model, **fields)

    def _step(self, step_id: str, **fields: Any) -> NodeInput:
        if step_id in self.waiting:
            fields |= {"labels": self.waiting[step_id], "reads": (), "resume": True}
        return replace(self.template, **{"step_id": step_id, "labels": self.labels, **fields})

    async def run(self, step: NodeInput) -> RuntimeOutcome:
        """Take a step through the kernel and remember how it ended."""
        if step.step_id in self.held or step.step_id in self.handed:
            self.held.discard(str(step.step_id))
            number = await self.runtime.next_attempt(str(step.run_id), str(step.step_id))
            step = replace(step, attempt=number)
        outcome = await self.runtime.run(step)
        self.ended(outcome)
        return outcome

    def stream(self, step: NodeInput) -> StepStream:
        """Return the step as a stream; ``ended`` is called by whoever reads it."""
        return self.runtime.stream(step)

    def ended(self, outcome: RuntimeOutcome) -> None:
        """Remember how a step ended, and what the next model call will have read."""
        step = AgentStep.of(outcome)
        self.principal = self.principal or _principal_document(outcome.record.principal)
        if outcome.status is Status.PAUSED and step.approval_id is None and step.step_id in self.steps:
            step = replace(step, approval_id=self.steps[step.step_id].approval_id)  # nobody has decided yet
        self.steps[step.step_id] = step
        if outcome.status is Status.PAUSED:
            if outcome.recorded:
                self.waiting[step.step_id] = _input_labels(outcome.record)
        elif outcome.code != HELD:  # held back by a mesh, a step that a person has answered still has its answer
            self.waiting.pop(step.step_id, None)
        if outcome.code == HELD:
            self.held.add(step.step_id)
        if not outcome.ok:
            return
        if step.kind == "model":
            self._reads = [step.step_id]
            self._read_by_model = (step.step_id,)
        else:
            self._reads.append(step.step_id)
        self._lasting = self._lasting.join(self._output_labels(outcome))

    def _output_labels(self, outcome: RuntimeOutcome) -> TaintLabels:
        """Return the labels of what a step put out: of all it read, and what its tool adds."""
        return self.runtime.labels_of(outcome) or TaintLabels()

    def heard(self, outcome: RuntimeOutcome) -> None:
        """Have every later step carry the labels of a tool that did not complete, yet has its own words read."""
        self.labels = self.labels.join(self._output_labels(outcome))

    async def is_anothers(self) -> bool:
        """Return whether who goes on with the run is known and is not who began it."""
        found = _principal_document(await self.runtime.principal_of(self.template))
        return None not in (found, self.principal) and found != self.principal

    def waits(self, step_id: str) -> None:
        """Remember that the agent to which a step handed over waits for a person."""
        self.steps[step_id] = replace(self.steps[step_id], status=Status.PAUSED)

    def all_labels(self) -> TaintLabels:
        """Return the labels of all that the run was given and its steps put out."""
        return self.labels.join(self._lasting)

    def kept(self) -> dict[str, Any]:
        """Return what a checkpoint keeps; a process that goes on has not the labels of this one's steps in memory."""
        labels = self.all_labels()
        return {
            "prefix": self.prefix,
            "principal": self.principal,
            "waiting": {step_id: labels_document(one) for step_id, one in self.waiting.items()},
            "labels": labels_document(labels),
            "handed": self.handed,
            "held": sorted(self.held),
            "steps": [_step_document(step) for step in self.steps.values()],
        }


def new_prefix(agent: str) -> str:
    """Return a name for the steps of one run of an agent, of which a run id may hold several."""
    return new_id(agent, 6)


def steps_from(documents: list[dict[str, Any]]) -> dict[str, AgentStep]:
    """Return the steps that a checkpoint kept."""
    found = [AgentStep(**{**document, "status": Status(document["status"])}) for document in documents]
    return {step.step_id: step for step in found}


def labels_document(labels: TaintLabels) -> dict[str, str]:
    """Return what a checkpoint keeps of labels."""
    return {"origin": labels.origin.name.lower(), "confidentiality": labels.confidentiality.name.lower()}


def labels_from(document: Mapping[str, str]) -> TaintLabels:
    """Return the labels that a checkpoint kept."""
    return TaintLabels.named(document["origin"], document["confidentiality"])


def _input_labels(record: StepRecord) -> TaintLabels:
    """Return the labels of a step's input; the worst where stage 10 gave none."""
    if record.origin is None or record.confidentiality is None:
        return TaintLabels(max(Origin), max(Confidentiality))
    return TaintLabels.named(record.origin, record.confidentiality)


def _principal_document(principal: Principal | None) -> dict[str, Any] | None:
    return principal.identity() if principal is not None else None


def _step_document(step: AgentStep) -> dict[str, Any]:
    return {
        "step_id": step.step_id, "node_id": step.node_id, "kind": step.kind, "status": step.status.value,
        "code": step.code, "cost_usd": step.cost_usd, "tokens": step.tokens, "approval_id": step.approval_id,
    }  # fmt: skip
