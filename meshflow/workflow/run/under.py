"""A node with a runtime of its own: its step passes the run's gates, and inside of it those of that runtime too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from meshflow.agent.run import HELD
from meshflow.errors import ConfigError
from meshflow.record import RuntimeOutcome, Status
from meshflow.step import Metered, NodeInput, current_step
from meshflow.workflow.plain import Plain
from meshflow.workflow.result import NodeStatus
from meshflow.workflow.run.board import Cell, Halt, Trace
from meshflow.workflow.run.memory import WITHIN
from meshflow.workflow.run.steps import Call, Done, Run
from meshflow.workflow.run.within import answer, paused_by, take_within

if TYPE_CHECKING:
    from meshflow.kernel.runtime import StepRuntime

_HALTS = {Status.DENIED: NodeStatus.DENIED, Status.FAILED: NodeStatus.FAILED}


class InnerStepError(Exception):
    """The step inside ended without an output; it has cost what it cost."""

    def __init__(self, outcome: RuntimeOutcome) -> None:
        self.cost_usd = outcome.record.cost_micro_usd / 1_000_000
        self.tokens = outcome.record.tokens
        super().__init__(f"{outcome.code}: {outcome.reason}")


async def take_under(run: Run, call: Call, cell: Cell, runtime: str | None) -> Done:
    """Take a step under the run's runtime, and under another one too where the node names it.

    Both must let it pass, so that a node's runtime tightens what the run enforces and never replaces it. Its cost
    counts under both.
    """
    another = run.runtimes[runtime]
    if another is run.base:
        return await run.take(call, cell)
    made: list[UnderAnother] = []

    def make(waited: Mapping[str, Any] | None) -> UnderAnother:
        made.append(UnderAnother(run, call, another, f"{runtime}", waited))
        return made[-1]

    try:
        return await take_within(run, call, cell, make)
    except Halt as halt:
        if halt.status is NodeStatus.FAILED and not any(one.outcome for one in made):
            raise await _recalled(run, made[-1].step_id) or halt from None
        raise


async def _recalled(run: Run, step_id: str) -> Halt | None:
    """Return the denial on record of the step inside; the record of the one around it says only that it failed."""
    memo = await run.memory.recall(step_id)
    if memo is None or memo.status != "denied":
        return None
    return Halt(NodeStatus.DENIED, memo.code, memo.reason, executed=memo.executed)


@dataclass(slots=True)
class UnderAnother:
    """The step inside, from its beginning or from where it waited for a person."""

    run: Run
    call: Call
    runtime: StepRuntime
    name: str
    waited: Mapping[str, Any] | None = None
    outcome: RuntimeOutcome | None = field(default=None, init=False)

    def handler(self) -> Callable[[Any], Awaitable[Any]]:
        """Return the handler of the step around it."""

        async def pass_on(given: Any) -> Any:
            outcome = self.outcome = await self.runtime.run(await self._step(given))
            if self.paused:
                approval = outcome.approval_id or (self.waited or {}).get("approval") or ""
                waits = {"attempt": outcome.record.attempt, "approval": approval, "held": outcome.code == HELD}
                return Metered(paused_by((approval,) if approval else (), waits), cost_usd=0)
            if not outcome.ok:
                raise InnerStepError(outcome)
            record, labels = outcome.record, self.runtime.labels_of(outcome)
            return Metered(answer(outcome.output), record.cost_micro_usd / 1_000_000, record.tokens, labels)

        return pass_on

    @property
    def paused(self) -> str:
        """The code with which the step inside has just come to wait."""
        outcome = self.outcome
        waits = outcome is not None and (outcome.status is Status.PAUSED or outcome.code == HELD)
        return outcome.code if outcome is not None and waits else ""

    async def undecided(self) -> bool:
        """Say whether nobody has decided on the step inside, by the ledger of its runtime."""
        ledger = self.runtime.ledger
        if self._held:
            return False
        return ledger is not None and await ledger.find_approval(self.run.run_id, self.step_id) is None

    def ended(self) -> Halt | None:
        """Return how the step inside ended, where it did without an output."""
        if self.outcome is None or self.outcome.status not in _HALTS or self.outcome.code == HELD:
            return None
        executed = self.outcome.status is Status.DENIED and self.outcome.record.executed
        return Halt(_HALTS[self.outcome.status], self.outcome.code, self.outcome.reason, executed=executed)

    def settle(self, run: Run, cell: Cell) -> None:
        """Count nothing: the step around it says what it cost."""

    @property
    def _held(self) -> bool:
        """Whether it was no person that it waited for, but the end of a pause."""
        return self.waited is not None and bool(self.waited["held"])

    @property
    def step_id(self) -> str:
        """The id of the step inside."""
        return f"{self.call.step_id}{WITHIN}{self.name}"

    async def _step(self, given: Any) -> NodeInput:
        outer = current_step()
        if outer is None:
            raise ConfigError("a step under another runtime runs within one of the run")
        if self.waited is None or self._held:
            attempt = await self.runtime.next_attempt(self.run.run_id, self.step_id)
        else:
            attempt = self.waited["attempt"]
        handler = self.call.target.handler
        if self.call.target.kind == "human":
            said = await handler(given)  # the person was asked by the step around this one
            handler = _saying(said)
        # Steps of the run are unknown to another runtime, so the labels are said and nothing is read.
        call = replace(
            self.call, step_id=self.step_id, given=Plain(given, 1), trace=Trace((), outer.labels),
            target=replace(self.call.target, handler=handler),
        )  # fmt: skip
        return self.run.step(call, attempt, resume=self.waited is not None and not self._held)


def _saying(value: Any) -> Callable[[Any], Awaitable[Any]]:
    async def say(_: Any) -> Any:
        return value

    return say
