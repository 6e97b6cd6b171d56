"""Take one step of a node through the runtime: what it did before counts, failures are tried again, limits hold."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from meshflow.agent.run import HELD
from meshflow.errors import ConfigError
from meshflow.facts import Confidentiality, Origin, TaintLabels
from meshflow.record import RuntimeOutcome, Status
from meshflow.step import NodeInput, to_micro_usd
from meshflow.workflow.calls import Target, noting, target, undo_target
from meshflow.workflow.plain import NOTHING, NotPlainError, Plain, plain
from meshflow.workflow.plan import PlannedNode
from meshflow.workflow.registry import Registry
from meshflow.workflow.repeat import repeatable
from meshflow.workflow.result import NodeResult, NodeStatus
from meshflow.workflow.run.board import Cell, Halt, Trace
from meshflow.workflow.run.memory import BEGUN, START, Memory, StepMemo, with_handed
from meshflow.workflow.spec import Limits, Node
from meshflow.workflow.spec.nodes import Retry

if TYPE_CHECKING:
    from meshflow.kernel.runtime import StepRuntime

_HALTS = {Status.DENIED: NodeStatus.DENIED, Status.FAILED: NodeStatus.FAILED, Status.PAUSED: NodeStatus.PAUSED}
_ENDED = ("denied", "failed")
_ONCE = Retry(max_attempts=1)
_TRUSTED = TaintLabels()
# Failures that say nothing about the handler: trying again would not help, or would hide them.
_NEVER_AGAIN = ("audit_ledger.", "step.", "output_guardrails.")
_PLAIN_NODE = Node()


class Done(NamedTuple):
    """A step that completed. ``withheld`` says why its value is not here, if it is not."""

    value: Plain
    trace: Trace
    withheld: str = ""


class Stop(NamedTuple):
    """Why a run starts nothing any more."""

    status: NodeStatus
    code: str
    reason: str
    node: str = ""


def _nothing_inside() -> Halt | None:
    return None


@dataclass(frozen=True, slots=True)
class Call:
    """One step to be taken: what it calls, what it is given, and what is set for it.

    ``inside`` says how what its handler runs ended, where that is steps of its own.
    """

    node_id: str
    step_id: str
    target: Target
    given: Plain
    trace: Trace
    spec: Node = _PLAIN_NODE
    ask: str | None = None
    undoing: bool = False
    inside: Callable[[], Halt | None] = _nothing_inside


@dataclass(slots=True)
class Run:
    """What all nodes of a run share: who acts, what governs them, what they may use, and what they have used.

    ``counted`` says that the money and the tokens used before the run was resumed are in the sums already.
    """

    run_id: str
    registry: Registry
    runtimes: Mapping[str | None, StepRuntime]
    memory: Memory
    limits: Limits
    agent_id: str = "local"
    credential: str | None = field(default=None, repr=False)
    tenant: str | None = None
    retry_failed: bool = False
    on_node: Callable[[NodeResult], None] | None = None
    stop: Stop | None = None
    undone: bool = False
    counted: bool = False
    cost_micro_usd: int = 0
    tokens: int = 0
    steps: int = 0
    _held_micro_usd: int = 0
    _held_tokens: int = 0
    _slots: asyncio.Semaphore = field(init=False)
    _targets: dict[int, Target] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._slots = asyncio.Semaphore(self.limits.concurrency)

    @property
    def base(self) -> StepRuntime:
        """The runtime that governs every step."""
        return self.runtimes[None]

    def target(self, node: PlannedNode) -> Target:
        """Return what a node calls, found once."""
        known = self._targets.get(id(node))
        if known is None:
            known = self._targets[id(node)] = target(node, self.registry)
        return known

    def undo_target(self, node: PlannedNode) -> Target:
        """Return what undoes a node."""
        if node.spec.compensate is None:
            raise ConfigError(f"{node.name} has no compensate")
        return undo_target(node.spec.compensate, self.registry)

    async def take(self, call: Call, cell: Cell) -> Done:
        """Take a step and return its output; Halt for one that is denied, paused, fails or may not begin."""
        cell.step_ids.append(call.step_id)
        memo = await self.memory.recall(call.step_id)
        if memo is not None:
            cell.attempts = max(cell.attempts, memo.attempt)
            if memo.status == "completed":
                return self._recalled(call, memo, cell)
            if memo.status in _ENDED and not self._tried_again(call, memo):
                raise Halt(NodeStatus(memo.status), memo.code, memo.reason, executed=memo.executed)
        if self.undone and not call.undoing:
            raise Halt(NodeStatus.FAILED, "workflow.undone", "what the run did was undone, so it is not gone on with")
        policy = call.spec.retry or _ONCE
        attempt = 1 if memo is None else memo.attempt + (memo.status != "paused")
        # A process that died between two tries had used some of them.
        tries = memo.attempt if memo is not None and memo.status == "failed" and not self.retry_failed else 0
        while True:
            tries += 1
            outcome = await self._once(call, memo, attempt, cell)
            if tries >= policy.max_attempts or not self._may_repeat(call, outcome):
                break
            wait_ms = min(policy.backoff_ms << min(tries - 1, 20), policy.max_backoff_ms)
            await asyncio.sleep(wait_ms / 1_000 * (1 - policy.jitter * random.random()))
            memo, attempt = None, attempt + 1
        return await self._ended(call, outcome, memo.approval_id if memo is not None else None)

    def _tried_again(self, call: Call, memo: StepMemo) -> bool:
        """Say whether a step that had ended is tried again: where that is asked for, or its process died between tries.

        What was undone stays as it is, apart from what could not be undone.
        """
        if self.undone and not call.undoing:
            return False
        if self.retry_failed:
            return True
        policy = call.spec.retry or _ONCE
        if call.inside is not _nothing_inside:
            return False  # its record does not say whether what was inside was denied
        return memo.status == "failed" and memo.attempt < policy.max_attempts and _again(policy, memo.code)

    def _may_repeat(self, call: Call, outcome: RuntimeOutcome) -> bool:
        if outcome.status is not Status.FAILED or not outcome.recorded:
            return False
        inside = call.inside()
        if inside is not None and inside.status is NodeStatus.DENIED:
            return False
        return _again(call.spec.retry or _ONCE, outcome.code if inside is None else inside.code)

    async def _once(self, call: Call, memo: StepMemo | None, attempt: int, cell: Cell) -> RuntimeOutcome:
        async with self._slots:
            self._check(call)
            step = self._asked(call, memo, attempt)
            micro_usd, tokens = self._hold(call)
            self.steps += 1
            cell.attempts += 1
            try:
                outcome = await self.base.run(step)
            finally:
                self._held_micro_usd -= micro_usd
                self._held_tokens -= tokens
        record = outcome.record
        cell.cost_micro_usd += record.cost_micro_usd
        cell.tokens += record.tokens
        self.cost_micro_usd += record.cost_micro_usd
        self.tokens += record.tokens
        return outcome

    def _check(self, call: Call) -> None:
        """Halt where nothing may begin any more."""
        if call.undoing:
            return
        if self.stop is not None:
            raise Halt(NodeStatus.CANCELLED, "workflow.run_ended", f"the run ended first: {self.stop.code}")
        if self.steps >= self.limits.max_steps:
            message = f"the run has taken {self.steps:,} steps, its most; see limits.max_steps"
            raise Halt(NodeStatus.LIMIT_REACHED, "workflow.max_steps", message)

    def _hold(self, call: Call) -> tuple[int, int]:
        """Set aside what the step may use; Halt where the run's cap would be passed."""
        usd, tokens = _estimate(call)
        micro_usd = 0 if usd is None else to_micro_usd(usd)
        limits = self.limits
        if not call.undoing:
            for what, cap, used, asked in (
                ("cost_usd", _micro(limits.cost_usd), self.cost_micro_usd + self._held_micro_usd, micro_usd),
                ("tokens", limits.tokens, self.tokens + self._held_tokens, tokens),
            ):
                # What is used up blocks whatever comes next, also a step that has no estimate.
                if cap is not None and (used + asked > cap or used >= cap > 0):
                    message = (
                        f"limits.{what}: {used:,} of {cap:,} are used or set aside, and the step asks for {asked:,}"
                    )
                    raise Halt(NodeStatus.LIMIT_REACHED, "workflow.budget", message)
        self._held_micro_usd += micro_usd
        self._held_tokens += tokens
        return micro_usd, tokens

    def _asked(self, call: Call, memo: StepMemo | None, attempt: int) -> NodeInput:
        """Return the step as it is handed in: what it did before decides whether a person is asked first."""
        ask = call.ask
        if ask is None and call.spec.needs_approval:
            ask = f"the workflow wants a person to approve {call.node_id}"
        if memo is None:
            return self.step(call, attempt, ask=ask)
        if memo.status == BEGUN and not repeatable(call.spec, call.target.tool, self.base):
            ask = f"attempt {memo.attempt} has begun and its end is not on record: it may have had its effect"
        if memo.status != "paused":
            return self.step(call, attempt, ask=ask)
        labels = memo.labels if call.trace.labels is None else call.trace.labels.join(memo.labels)
        return self.step(replace(call, trace=Trace(call.trace.reads, labels)), attempt, ask=ask, resume=True)

    def step(self, call: Call, attempt: int, *, ask: str | None = None, resume: bool = False) -> NodeInput:
        """Return one attempt at a call as the step that a runtime takes."""
        spec, labels = call.spec, call.trace.labels
        if spec.labels is not None:
            least = TaintLabels.named(spec.labels.origin, spec.labels.confidentiality)
            labels = least if labels is None else labels.join(least)
        notes: dict[str, Any] = {}
        usd, tokens = _estimate(call)
        return NodeInput(
            node_id=call.node_id,
            input=call.given.value,
            handler=noting(call.target.handler, notes),
            kind=call.target.kind,
            tool=call.target.tool,
            action=spec.action or call.target.action,
            run_id=self.run_id,
            step_id=call.step_id,
            attempt=attempt,
            agent_id=spec.agent_id or self.agent_id,
            credential=self.credential,
            tenant=self.tenant,
            estimate_usd=usd,
            estimate_tokens=tokens,
            risk=spec.risk,
            idempotent=spec.idempotent,
            labels=_TRUSTED if labels is None and not call.trace.reads and call.node_id[0] != "@" else labels,
            reads=call.trace.reads,
            timeout_ms=spec.timeout_ms,
            ask=ask,
            resume=resume,
            metadata=notes,  # the kernel reads it once the step has ended
        )

    async def _ended(self, call: Call, outcome: RuntimeOutcome, asked: str | None) -> Done:
        """Remember how a step ended and return its output; ``asked`` is the approval that it has waited for before."""
        halt: Halt | None = None
        value = NOTHING
        if outcome.ok:
            try:
                value = plain(outcome.output)
            except NotPlainError as error:
                halt = Halt(NodeStatus.FAILED, "workflow.output_not_plain", str(error), executed=True)
        else:
            approval = outcome.approval_id
            if approval is None and outcome.status is Status.PAUSED:
                approval = asked  # nobody has decided yet
            approvals = (approval,) if approval is not None else ()
            executed = outcome.status is Status.DENIED and outcome.record.executed
            status = NodeStatus.PAUSED if outcome.code == HELD else _HALTS[outcome.status]
            halt = Halt(status, outcome.code, outcome.reason, approvals, executed=executed)
        await self.memory.remember(_memo(call, outcome, value, halt))
        if halt is not None:
            raise halt
        return Done(value, Trace((call.step_id,)))

    def _recalled(self, call: Call, memo: StepMemo, cell: Cell) -> Done:
        """Return what a step put out before this run was resumed; its labels come along, as reads would not."""
        cell.cost_micro_usd += memo.cost_micro_usd
        cell.tokens += memo.tokens
        self.steps += 1
        if not self.counted:
            self.cost_micro_usd += memo.cost_micro_usd
            self.tokens += memo.tokens
        trace = Trace((), self._labels(call, memo))
        if memo.doubt:
            return Done(NOTHING, trace, f"{memo.doubt}, so it cannot be read again")
        try:
            return Done(plain(memo.value), trace)
        except NotPlainError as error:
            raise Halt(NodeStatus.FAILED, "workflow.output_not_plain", str(error), executed=True) from None

    def _labels(self, call: Call, memo: StepMemo) -> TaintLabels:
        """Return the labels of a step's output: those it read, and what its tool or kind adds.

        A taint provider that cannot say what is added may have added anything.
        """
        from meshflow.kernel.runtime import StepRuntime

        runtime = self.base
        labels = memo.labels
        if not isinstance(runtime, StepRuntime):
            return labels
        for choice in runtime.stages():
            if choice.stage.name == "taint_propagation":
                for slot in choice.slots:
                    emits = getattr(slot.provider.plugin, "emits", None)
                    if not callable(emits):
                        return _WORST
                    added = emits(NodeInput(node_id=call.node_id, kind=call.target.kind, tool=call.target.tool))
                    labels = labels.join(added)
        return labels


_WORST = TaintLabels(Origin.EXTERNAL, Confidentiality.SECRET, ("unknown",))


def _memo(call: Call, outcome: RuntimeOutcome, value: Plain, halt: Halt | None) -> StepMemo:
    record = outcome.record
    origin, confidentiality = with_handed(record.origin, record.confidentiality, record.metadata)
    return StepMemo(
        step_id=call.step_id,
        status="completed" if halt is None else "held" if halt.code == HELD else halt.status.value,
        attempt=record.attempt,
        value=value.value,
        code=halt.code if halt is not None else "",
        reason=halt.reason if halt is not None else "",
        kind=record.node_kind,
        approval_id=halt.approvals[0] if halt is not None and halt.approvals else None,
        cost_micro_usd=record.cost_micro_usd,
        tokens=record.tokens,
        origin=origin,
        confidentiality=confidentiality,
        executed=halt is not None and halt.executed,
        given=call.given.value if halt is not None and call.node_id == START else None,
    )


def _again(policy: Retry, code: str) -> bool:
    return not code.startswith(_NEVER_AGAIN) and (policy.codes is None or code in policy.codes)


def _estimate(call: Call) -> tuple[Decimal | float | None, int]:
    """Return what a step may cost: what the file says, and never less than what its target says."""
    usd: Decimal | float | None = call.spec.estimate_usd
    tokens = call.spec.estimate_tokens or 0
    if call.target.estimate is None:
        return usd, tokens
    least_usd, least_tokens = call.target.estimate(call.given.value)
    return max(least_usd, Decimal(str(usd or 0))), max(least_tokens, tokens)


def _micro(usd: float | None) -> int | None:
    return None if usd is None else to_micro_usd(usd)
