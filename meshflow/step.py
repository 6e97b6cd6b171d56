"""A step: what the caller asks, what plugins see of it, and what running it gave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from meshflow.clock import Clock, SystemClock
from meshflow.decision import Obligation
from meshflow.facts import Findings, Principal, RiskTier, TaintLabels, TenantScope

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NOTHING


NODE_KINDS = ("function", "agent", "model", "tool", "mcp", "http", "human", "subgraph")
MAX_MICRO_USD = 2**53 - 1
ACTING_AGENT = "meshflow.acting_agent"
"""Where the metadata of a step has the name of the agent that acts under another's token."""


def to_micro_usd(value: object) -> int:
    """Return a cost in whole micro-USD, rounded up.

    Takes int, float, Decimal or a decimal string in USD. Raises ValueError for anything that is not a finite number
    from 0 to 2^53-1 micro-USD, since a NaN that slips into a comparison lifts every cap.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal, str)):
        raise ValueError(f"a cost must be a number of USD, not {type(value).__name__}")
    try:
        usd = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"a cost must be a number of USD, not {value!r}") from None
    if not usd.is_finite() or usd < 0:
        raise ValueError(f"a cost must be finite and not negative, not {value!r}")
    if usd > MAX_MICRO_USD // 1_000_000:
        raise ValueError(f"a cost of {value!r} USD is beyond what a ledger entry can hold")
    return int((usd * 1_000_000).to_integral_value(rounding="ROUND_CEILING"))


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInput:
    """One step that a caller wants to run.

    ``handler`` takes the step's input, as the gates left it, and returns the output (or a ``Metered`` one); it may be
    sync, async, or return an async iterator of chunks. For a tool call, ``tool`` names it and ``input`` is the mapping
    of its arguments.
    ``estimate_usd`` bounds what the step may cost and is reserved before it runs. ``risk`` may raise the tier that a
    tool declares, never lower it. ``reads`` names earlier steps of the run whose labels the input carries.
    ``ask`` is what a person is asked before the step runs: with it the step waits for an approval, whatever the gates
    say. ``resume`` marks a step that waited for a person and is handed in again.
    """

    node_id: str
    input: Any = None
    handler: Callable[[Any], Any] | None = field(default=None, repr=False)
    kind: str = "function"
    tool: str | None = None
    action: str | None = None
    run_id: str | None = None
    step_id: str | None = None
    attempt: int = 1
    agent_id: str = "local"
    credential: str | None = field(default=None, repr=False)
    tenant: str | None = None
    estimate_usd: int | float | Decimal | str | None = None
    estimate_tokens: int = 0
    risk: RiskTier | str | None = None
    idempotent: bool | None = None
    labels: TaintLabels | None = None
    reads: tuple[str, ...] = ()
    timeout_ms: int | None = None
    ask: str | None = None
    resume: bool = False
    metadata: Mapping[str, Any] = field(default_factory=_nothing)

    def __post_init__(self) -> None:
        if not isinstance(self.node_id, str) or not self.node_id:
            raise ValueError("a step needs a node_id, a non-empty string")
        if self.kind not in NODE_KINDS:
            raise ValueError(f"unknown node kind {self.kind!r}; choose one of {list(NODE_KINDS)}")
        if self.kind == "tool" and not self.tool:
            raise ValueError("a step of kind 'tool' needs the tool's name in tool=")
        if isinstance(self.attempt, bool) or not isinstance(self.attempt, int) or self.attempt < 1:
            raise ValueError(f"attempt counts from 1, not {self.attempt!r}")


@dataclass(frozen=True, slots=True)
class Metered:
    """What a handler returns when it knows its cost: the value, USD, tokens, and the labels of the value.

    A handler that streams yields it for a part, or with the value None for no part: its costs add up.
    """

    value: Any
    cost_usd: int | float | Decimal | str | None = None
    tokens: int = 0
    labels: TaintLabels | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """What stage 12 answers: an output, or a stream of chunks, or a failure; and what it cost.

    ``failure_code`` (``execution.cause``) marks a step that ran and did not succeed; its cost still counts.
    ``cost_micro_usd`` is None where nobody knows, and then the whole reservation is spent. What a stream cost is known
    when it has ended: ``spent``, where it is given, is asked then for micro-USD (or None) and tokens.
    """

    output: Any = None
    stream: AsyncIterator[Any] | None = None
    cost_micro_usd: int | None = None
    tokens: int = 0
    labels: TaintLabels | None = None
    failure_code: str = ""
    failure_reason: str = ""
    tries: int = 1
    spent: Callable[[], tuple[int | None, int]] | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """A person's answer to a step that waited, bound to what they saw.

    ``arguments_digest`` covers the final input under ``salt``; ``fingerprint`` is the pipeline's at the time of asking;
    ``principal`` is who asked, as recorded, ``attempt`` the last one that is recorded of the step, and ``used``
    whether a step has begun on the strength of it. ``held_output`` is set where the output, not the call, was in
    question. ``approvers`` are all who approved, where several had to; ``approver`` is the one who decided. An
    ``edited`` approval is for ``edited_input`` in the place of what was asked, and the digest covers that.
    ``tenant_id``, ``node_id``, ``node_kind``, ``tool`` and ``action`` are those of the step that asked, and ``codes``
    what it was asked about: left out, they match no step. Data of worse ``labels`` is asked about anew.
    """

    approval_id: str
    run_id: str
    step_id: str
    approved: bool
    approver: str
    arguments_digest: str
    salt: str
    fingerprint: str
    expires_at_us: int
    principal: Principal
    reason: str = ""
    attempt: int = 1
    used: bool = False
    holds_output: bool = False
    held_output: Any = None
    approvers: tuple[str, ...] = ()
    edited: bool = False
    edited_input: Any = None
    tenant_id: str = ""
    node_id: str = ""
    node_kind: str = ""
    tool: str | None = None
    action: str | None = None
    codes: tuple[str, ...] = ()
    labels: TaintLabels | None = None


class Purpose(StrEnum):
    """Why a hook is called. Only ``ENFORCE`` may reserve, count or change anything outside the step."""

    ENFORCE = "enforce"
    SHADOW = "shadow"
    EXPLAIN = "explain"
    RECORD = "record"


@dataclass(frozen=True, slots=True)
class StreamState:
    """Where a stream stands when stage 13 sees a part.

    ``released`` is the end of the text that went out before it (as much as is held back), ``released_chars`` how much
    text went out in all, ``final`` whether this is the whole.
    """

    released: str
    final: bool
    released_chars: int = 0


class StepState:
    """All that is known of one step while it runs; written by the kernel alone."""

    __slots__ = (
        "approval", "asking", "attempt", "begun_ns", "clock", "elapsed_ns", "facts", "fingerprint", "handed", "input",
        "intended", "obligations", "purpose", "recorded_input", "run_id", "started_us", "step", "step_id", "stream",
        "touched",
    )  # fmt: skip

    def __init__(
        self, step: NodeInput, run_id: str, step_id: str, clock: Clock, started_us: int, fingerprint: str
    ) -> None:
        self.step = step
        self.run_id = run_id
        self.step_id = step_id
        self.attempt = step.attempt
        self.clock = clock
        self.started_us = started_us
        self.begun_ns = clock.monotonic_ns()
        self.fingerprint = fingerprint
        self.input = step.input
        self.recorded_input: Any = None
        self.facts: dict[str, Any] = {}
        self.obligations: tuple[Obligation, ...] = ()
        self.purpose = Purpose.ENFORCE
        self.approval: Approval | None = None
        self.asking: Any = None
        self.handed: Any = None
        self.intended = False
        self.elapsed_ns = 0
        self.stream: StreamState | None = None
        self.touched = False

    def look(self, purpose: Purpose) -> StepState:
        """Return a copy for a hook that may only look."""
        copy = StepState.__new__(StepState)
        copy.step = self.step
        copy.run_id = self.run_id
        copy.step_id = self.step_id
        copy.attempt = self.attempt
        copy.clock = self.clock
        copy.started_us = self.started_us
        copy.begun_ns = self.begun_ns
        copy.fingerprint = self.fingerprint
        copy.input = self.input
        copy.recorded_input = self.recorded_input
        copy.facts = self.facts.copy()
        copy.obligations = self.obligations
        copy.approval = self.approval
        copy.stream = self.stream
        copy.asking = self.asking
        copy.handed = None
        copy.elapsed_ns = 0
        copy.touched = False
        copy.purpose = purpose
        return copy


class StepContext:
    """The read-only view of a step that plugins get.

    Writing to it raises AttributeError and denies the step, caught or not. Nested values of ``input`` stay mutable in
    Python; the kernel compares the input's digest after each third-party hook.
    """

    __slots__ = ("_state",)
    _state: StepState

    def __init__(self, state: StepState) -> None:
        object.__setattr__(self, "_state", state)

    def __setattr__(self, name: str, value: object) -> None:
        self._state.touched = True
        raise AttributeError(f"the step context is read-only; return a Decision instead of setting {name!r}")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    @property
    def step(self) -> NodeInput:
        """The step as the caller handed it in."""
        return self._state.step

    @property
    def run_id(self) -> str:
        """The run that the step belongs to."""
        return self._state.run_id

    @property
    def step_id(self) -> str:
        """The step's id, unique in its run; all attempts at one step share it."""
        return self._state.step_id

    @property
    def attempt(self) -> int:
        """Which try of the step this is, from 1."""
        return self._state.attempt

    @property
    def input(self) -> Any:
        """The input as the gates so far have left it."""
        return self._state.input

    @property
    def recorded_input(self) -> Any:
        """The input as the ledger may keep it: redacted; set before ``record_intent`` and for recorders."""
        return self._state.recorded_input

    @property
    def facts(self) -> Mapping[str, Any]:
        """What earlier stages found, by stage name."""
        return MappingProxyType(self._state.facts)

    @property
    def principal(self) -> Principal | None:
        """Who asks; None before stage 1 has answered."""
        return self._state.facts.get("identity_verification")

    @property
    def tenant_id(self) -> str | None:
        """The tenant; None before stage 2 has answered."""
        scope: TenantScope | None = self._state.facts.get("tenant_scoping")
        return scope.tenant_id if scope is not None else None

    @property
    def risk(self) -> RiskTier | None:
        """The risk tier; None before stage 9."""
        return self._state.facts.get("risk_classification")

    @property
    def labels(self) -> TaintLabels | None:
        """The taint labels; None before stage 10."""
        return self._state.facts.get("taint_propagation")

    @property
    def findings(self) -> Findings | None:
        """The sensitive data found; None before stage 8."""
        return self._state.facts.get("sensitive_data_scan")

    @property
    def obligations(self) -> tuple[Obligation, ...]:
        """The duties that the stages so far have laid on the step."""
        return self._state.obligations

    @property
    def purpose(self) -> Purpose:
        """Why the hook is called."""
        return self._state.purpose

    @property
    def look_only(self) -> bool:
        """True in shadow, explain and record: reserve nothing, count nothing, change nothing."""
        return self._state.purpose is not Purpose.ENFORCE

    @property
    def approval(self) -> Approval | None:
        """A person's answer, on a step that is resumed."""
        return self._state.approval

    @property
    def stream(self) -> StreamState | None:
        """At stage 13, where a streamed output stands; None for an output that is whole."""
        return self._state.stream

    @property
    def clock(self) -> Clock:
        """The runtime's clock; plugins use no other."""
        return self._state.clock

    @property
    def started_us(self) -> int:
        """When the step began, microseconds since the epoch."""
        return self._state.started_us

    @property
    def fingerprint(self) -> str:
        """The digest of the pipeline that decides this step."""
        return self._state.fingerprint

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this step: what a handler passes to a service that deduplicates."""
        return f"{self._state.run_id}:{self._state.step_id}"


_CURRENT: ContextVar[StepContext | None] = ContextVar("meshflow_current_step", default=None)


def current_step() -> StepContext | None:
    """Return the step whose handler is running, or None outside of one."""
    return _CURRENT.get()


@contextmanager
def entered(context: StepContext) -> Iterator[None]:
    """Make ``context`` the current step while a handler runs."""
    token = _CURRENT.set(context)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def context_for(step: NodeInput, *, clock: Clock | None = None, **facts: Any) -> StepContext:
    """Return a context as a stage would see it, with the facts given by stage name; for tests of plugins."""
    clock = clock or SystemClock()
    state = StepState(step, step.run_id or "run", step.step_id or "step", clock, clock.now_us(), "0" * 64)
    state.facts.update(facts)
    return StepContext(state)
