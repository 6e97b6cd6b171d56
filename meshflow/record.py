"""What is written of a step, and what its caller gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple

from meshflow.decision import Effect
from meshflow.errors import StepDeniedError
from meshflow.facts import Principal
from meshflow.frozen import opened

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NOTHING


class Verdict(StrEnum):
    """How a step ended, in the ledger's words."""

    COMMIT = "commit"
    REJECT = "reject"
    ESCALATE = "escalate"
    ERROR = "error"


class Status(StrEnum):
    """How a step ended, in the caller's words."""

    COMPLETED = "completed"
    DENIED = "denied"
    PAUSED = "paused"
    FAILED = "failed"


STATUS_OF_VERDICT: Mapping[Verdict, Status] = MappingProxyType(
    {
        Verdict.COMMIT: Status.COMPLETED,
        Verdict.REJECT: Status.DENIED,
        Verdict.ESCALATE: Status.PAUSED,
        Verdict.ERROR: Status.FAILED,
    }
)


class StageResult(NamedTuple):
    """One provider's answer at one stage, bound to the provider's name when the pipeline was compiled.

    ``enforced`` is False for a shadow. ``replaced`` says that the answer changed the input or the output.
    A tuple, not a dataclass: fifteen are made for each step.
    """

    stage: str
    plugin: str
    effect: Effect
    code: str = ""
    reason: str = ""
    enforced: bool = True
    elapsed_ns: int = 0
    replaced: bool = False
    evidence: Mapping[str, Any] = _NOTHING

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "stage": self.stage,
            "plugin": self.plugin,
            "effect": self.effect.value,
            "code": self.code,
            "reason": self.reason,
            "enforced": self.enforced,
            "elapsed_ns": self.elapsed_ns,
            "replaced": self.replaced,
            "evidence": dict(self.evidence),
        }


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """What a paused step asks of a person: bound to the final arguments by a salted digest, until it expires."""

    approval_id: str
    arguments_digest: str
    salt: str
    expires_at_us: int
    codes: tuple[str, ...]
    holds_output: bool = False
    required: int = 1
    """How many different people must approve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """Everything the ledger keeps of one attempt at a step.

    Money is whole micro-USD, times are microseconds since the epoch, durations nanoseconds. ``input``, ``output``,
    ``metadata``, ``reason`` and what the results say have been redacted. ``cost_micro_usd`` is what was spent,
    ``reserved_micro_usd`` what stage 4 had set aside; more spent than set aside is an over-run. ``intended`` is False
    for a step that ended before its own intent was written, and so may not take the place of an attempt that runs.
    """

    run_id: str
    node_id: str
    step_id: str = ""
    attempt: int = 1
    node_kind: str = "function"
    tool: str | None = None
    action: str | None = None
    tenant_id: str = "default"
    principal: Principal | None = None
    verdict: Verdict = Verdict.COMMIT
    code: str = ""
    reason: str = ""
    input: Any = None
    output: Any = None
    metadata: Mapping[str, Any] = field(default_factory=_nothing)
    results: tuple[StageResult, ...] = ()
    executed: bool = False
    intended: bool = True
    cost_micro_usd: int = 0
    reserved_micro_usd: int = 0
    tokens: int = 0
    risk: str | None = None
    origin: str | None = None
    confidentiality: str | None = None
    uncertainty_ppm: int | None = None
    carbon_mg_co2: int | None = None
    started_us: int = 0
    duration_ns: int = 0
    fingerprint: str = ""
    redaction: str = "stage"
    unsafe: tuple[str, ...] = ()
    approval_request: ApprovalRequest | None = None
    approval_id: str | None = None

    @property
    def blocked(self) -> bool:
        """True unless the step did all that was asked."""
        return self.verdict is not Verdict.COMMIT

    @property
    def overrun_micro_usd(self) -> int:
        """What was spent beyond the reservation."""
        return max(0, self.cost_micro_usd - self.reserved_micro_usd)


@dataclass(frozen=True, slots=True)
class RuntimeOutcome:
    """What ``StepRuntime.run`` returns.

    ``output`` is None unless the step completed. ``code`` and ``reason`` say why it did not. ``approval_id`` is set
    on a paused step. ``recorded`` is False only where the ledger failed, and such a step never counts as completed.
    """

    status: Status
    output: Any
    record: StepRecord
    code: str = ""
    reason: str = ""
    recorded: bool = True
    approval_id: str | None = None

    @property
    def ok(self) -> bool:
        """True when the step completed and its record is written."""
        return self.status is Status.COMPLETED

    @property
    def run_id(self) -> str:
        """The run that the step belongs to."""
        return self.record.run_id

    @property
    def step_id(self) -> str:
        """The step's id."""
        return self.record.step_id

    @property
    def results(self) -> tuple[StageResult, ...]:
        """Every stage's answers, in the order they were given."""
        return self.record.results

    @property
    def cost_usd(self) -> float:
        """What the step cost, in USD."""
        return self.record.cost_micro_usd / 1_000_000

    def unwrap(self) -> Any:
        """Return the output of a completed step; raise StepDeniedError, with the code, for any other."""
        if self.ok:
            return self.output
        raise StepDeniedError(f"{self.code or self.status.value}: {self.reason}", self)

    def failed(self, code: str, reason: str, *, recorded: bool) -> RuntimeOutcome:
        """Return this outcome turned into a failure without an output."""
        return replace(self, status=Status.FAILED, output=None, code=code, reason=reason, recorded=recorded)


OpenRecord = opened(StepRecord)
OpenOutcome = opened(RuntimeOutcome)
"""What the kernel fills in and then closes: see ``frozen``."""
