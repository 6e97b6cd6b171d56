"""What earlier attempts at a run have done, so that nothing finished is done again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from meshflow.agent.run import HELD
from meshflow.errors import ConfigError, LedgerError
from meshflow.facts import Confidentiality, Origin, TaintLabels
from meshflow.ledger.format.payload import payload_bytes
from meshflow.ledger.outline import Doubt, doubt_of
from meshflow.ledger.replay import ReplayLedger
from meshflow.stages import STAGE_BY_NAME

if TYPE_CHECKING:
    from meshflow.kernel.runtime import StepRuntime

BEGUN = "begun"
START, UNDO, WITHIN = "@start", "~undo", "~by:"
_STATUS = {"commit": "completed", "reject": "denied", "escalate": "paused", "error": "failed"}
_CUT_OFF = frozenset({"step.cancelled", "step.interrupted"})
_DOUBTS = {
    Doubt.NONE: "",
    Doubt.REDACTED: "is on record only as it was redacted",
    Doubt.UNENCODABLE: "had no form that the ledger can keep",
    Doubt.WITHHELD: "was withheld from the ledger",
}
_OUTPUT_STAGE = STAGE_BY_NAME["output_guardrails"].name


@dataclass(frozen=True, slots=True)
class StepMemo:
    """How the last attempt at a step ended: completed, denied, failed, paused, held, or ``begun`` where nobody knows.

    A step that is held came while its run, agent, tool or tenant was paused, and is handed in again as a new attempt.

    ``doubt`` says why ``value`` is not what the step put out, and is empty where it is. ``labels`` are names of an
    origin and a confidentiality. ``executed`` says that a step which did not complete has had its effect. ``given`` is
    the input of a run's first step, until that has completed. A memo is JSON, for whoever keeps it.
    """

    step_id: str
    status: str
    attempt: int = 1
    value: Any = None
    doubt: str = ""
    code: str = ""
    reason: str = ""
    kind: str = "function"
    approval_id: str | None = None
    cost_micro_usd: int = 0
    tokens: int = 0
    origin: str | None = None
    confidentiality: str | None = None
    executed: bool = False
    given: Any = None
    given_doubt: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form; ``StepMemo(**memo)`` is the way back."""
        return asdict(self)

    @property
    def labels(self) -> TaintLabels:
        """The labels of what the step read; the highest there are where the record has none."""
        if self.origin is None or self.confidentiality is None:
            return TaintLabels(Origin.EXTERNAL, Confidentiality.SECRET, ("unknown",))
        return TaintLabels.named(self.origin, self.confidentiality, f"resumed:{self.step_id}")


class Memory(Protocol):
    """Where a run's steps are remembered beside the ledger, exactly and in time; what durable execution builds on.

    ``recall`` is asked before a step is run, ``remember`` told after it was and before anything follows from it.
    """

    async def recall(self, step_id: str) -> StepMemo | None:
        """Return how the step ended last, or None where it has not begun."""
        ...

    async def remember(self, memo: StepMemo) -> None:
        """Keep how a step ended."""
        ...


class NoMemory:
    """Remembers nothing: for a run that begins."""

    async def recall(self, step_id: str) -> StepMemo | None:
        """Return None."""
        return None

    async def remember(self, memo: StepMemo) -> None:
        """Keep nothing."""


class Spent(NamedTuple):
    """What all attempts at a run's steps have used, those of agents within it too."""

    cost_micro_usd: int = 0
    tokens: int = 0


NOTHING_SPENT = Spent()


class LedgerMemory(NoMemory):
    """Remembers what the ledger holds of a run, read once.

    The ledger keeps outputs as they were redacted. Where that may differ from what the step put out, ``doubt`` says so.
    """

    def __init__(self, memos: Mapping[str, StepMemo], spent: Spent = NOTHING_SPENT) -> None:
        self._memos = memos
        self.spent = spent

    @classmethod
    async def read(cls, ledger: ReplayLedger, run_id: str, tenant: str | None) -> LedgerMemory:
        """Read what the ledger holds of a run."""
        memos: dict[str, StepMemo] = {}
        spent = NOTHING_SPENT
        for step in await ledger.get_run(run_id, tenant=tenant):
            memo = _memo(step)
            if WITHIN not in memo.step_id:  # else the step around it has it all
                spent = Spent(spent.cost_micro_usd + memo.cost_micro_usd, spent.tokens + memo.tokens)
            known = memos.get(memo.step_id)
            # What has completed stays so: a later attempt was somebody's who was refused.
            if known is None or (known.status != "completed" and memo.attempt >= known.attempt):
                memos[memo.step_id] = memo
        for intent in await ledger.unfinished(run_id, tenant=tenant):
            step_id, attempt = intent["step_id"], intent["attempt"]
            known = memos.get(step_id)
            if known is None or (known.status != "completed" and known.attempt < attempt):
                memos[step_id] = StepMemo(step_id, BEGUN, attempt, kind=intent["node_kind"], **_given(intent))
        return cls(memos, spent)

    async def recall(self, step_id: str) -> StepMemo | None:
        """Return how the step ended last, or None where it has not begun."""
        return self._memos.get(step_id)

    @property
    def undone(self) -> bool:
        """Whether anything that the run did has been undone, or begun to be."""
        return any(_undoes(step_id) for step_id in self._memos)

    @property
    def partly_undone(self) -> bool:
        """Whether something was to be undone and could not be."""
        return any(memo.status != "completed" for step_id, memo in self._memos.items() if _undoes(step_id))

    def __len__(self) -> int:
        return len(self._memos)


def _undoes(step_id: str) -> bool:
    return UNDO in step_id and WITHIN not in step_id  # "~undo~2" goes on where "~undo" waited


def _memo(step: Mapping[str, Any]) -> StepMemo:
    status = _STATUS.get(step["verdict"], "failed")
    if step["code"] == HELD:
        status = "held"
    if status == "failed" and step["code"] in _CUT_OFF and step["executed"]:
        status = BEGUN
    request = step["approval_request"] or {}
    labels = step["labels"]
    origin, confidentiality = with_handed(labels["origin"], labels["confidentiality"], step["metadata"] or {})
    return StepMemo(
        step_id=step["step_id"],
        status=status,
        attempt=step["attempt"],
        value=step["output_content"],
        doubt=_doubt(step) if status == "completed" else "",
        code=step["code"],
        reason=step["reason"],
        kind=step["node_kind"],
        approval_id=request.get("approval_id"),
        cost_micro_usd=step["cost_micro_usd"],
        tokens=step["tokens"],
        origin=origin,
        confidentiality=confidentiality,
        executed=status == "denied" and step["executed"],
        **({} if status == "completed" else _given(step)),
    )


def _given(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return the input of a run's first step, and why it may not be what the run was given."""
    if not step["step_id"].startswith(START):
        return {}
    value = step["input_task"]
    doubt = doubt_of(payload_bytes(value)) if value is not None else Doubt.NONE
    return {"given": value, "given_doubt": "was erased" if "input" in step["erased"] else _DOUBTS[doubt]}


def with_handed(
    origin: str | None, confidentiality: str | None, notes: Mapping[str, Any]
) -> tuple[str | None, str | None]:
    """Return the labels of what a step read, raised to those that its handler put on the result; None is unknown."""
    handed = notes.get("labels")
    if handed is None or origin is None or confidentiality is None:
        return origin, confidentiality
    try:
        higher = max(Origin[origin.upper()], Origin[handed[0].upper()])
        secret = max(Confidentiality[confidentiality.upper()], Confidentiality[handed[1].upper()])
    except (KeyError, IndexError, TypeError, AttributeError):
        return None, None  # noted, and no longer legible
    return higher.name.lower(), secret.name.lower()


def _doubt(step: Mapping[str, Any]) -> str:
    """Return why the output on record may not be the one that was put out, or nothing."""
    if "output" in step["erased"]:
        return "was erased"
    value = step["output_content"]
    doubt = doubt_of(payload_bytes(value)) if value is not None else Doubt.NONE
    # What the output guardrails masked was put out masked, and is on record as it was put out.
    masked = any(one["stage"] == _OUTPUT_STAGE and one["replaced"] and one["enforced"] for one in step["stages"])
    return "" if doubt is Doubt.REDACTED and masked else _DOUBTS[doubt]


def ledger_of(runtime: StepRuntime) -> ReplayLedger:
    """Return the ledger that a runtime writes to; ConfigError where its audit provider keeps none that can be read."""
    if runtime.ledger is not None:
        return runtime.ledger
    raise ConfigError("resuming reads the ledger, and this runtime's audit provider keeps none; pass memory=")


async def memory_of(runtime: StepRuntime, run_id: str, tenant: str | None) -> LedgerMemory:
    """Return what the runtime's ledger holds of a run that has begun; LedgerError where there is none.

    What is done again and what is not hangs on it, so a run whose record was altered is not gone on with.
    """
    ledger = ledger_of(runtime)
    checked = await ledger.verify_chain(run_id, tenant=tenant)
    memory = await LedgerMemory.read(ledger, run_id, tenant)
    if len(memory) and not checked["valid"]:
        raise LedgerError(f"run {run_id!r} does not verify, so it is not gone on with; see meshflow ledger verify")
    if not len(memory):
        raise LedgerError(f"the ledger has no run {run_id!r} to go on with")
    return memory
