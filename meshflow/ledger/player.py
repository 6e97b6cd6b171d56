"""Run a program again on the outcomes that a run recorded, without a call, up to the first step that differs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from meshflow.decision import Effect
from meshflow.errors import LedgerError
from meshflow.facts import TaintLabels
from meshflow.ledger.format.entry import StoredEntry, principal_from
from meshflow.ledger.format.payload import payload_bytes
from meshflow.ledger.format.steps import labels_on_record, step_dict
from meshflow.ledger.outline import Doubt, doubt_of
from meshflow.record import STATUS_OF_VERDICT, RuntimeOutcome, StageResult, Status, StepRecord, Verdict
from meshflow.stages import GATES
from meshflow.step import NodeInput

_GATES = frozenset(stage.name for stage in GATES)
_BY_IDENTITY = frozenset({"identity_verification", "tenant_scoping"})
_BY_THE_MOMENT = frozenset({"rate_limiting", "budget_check"})
_AS_RECORDED = tuple(
    one.name
    for one in fields(StepRecord)
    if one.name not in {"principal", "verdict", "input", "output", "metadata", "results", "unsafe", "approval_request"}
)


class ReplayStoppedError(LedgerError):
    """A replayed program asked for a step that the run does not have, or that would now differ."""


class Explained(Protocol):
    """What a runtime answers when it is asked what its gates would say."""

    @property
    def status(self) -> Status: ...
    @property
    def code(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def results(self) -> tuple[StageResult, ...]: ...
    @property
    def input(self) -> Any: ...
    @property
    def fingerprint(self) -> str: ...


class Explains(Protocol):
    """What a replay needs of a runtime; StepRuntime has it."""

    async def explain(self, node_input: NodeInput) -> Explained:
        """Return what each gate would say of a step, without executing or counting it."""
        ...


@dataclass(frozen=True, slots=True)
class Difference:
    """A step that would now differ: in its ``decision``, ``input``, ``kind``, ``tool``, ``action``, ``order``.

    Or the program now takes a step that the run does not have (``extra``), or ends before one that it has
    (``missing``), or the ``fingerprint`` is another. ``step_index`` is None for an extra step.
    """

    step_index: int | None
    node_id: str
    what: str
    recorded: Any
    now: Any


@dataclass(slots=True)
class Replay:
    """How far a replay came, and why it stopped.

    ``undecidable`` holds a dict for each step of which the record cannot tell whether it would differ, with the reason
    ``why``: what was erased, withheld or redacted, or what hung on the moment. ``stopped`` says why the replay could
    not go on though nothing differed. ``fingerprints`` are those recorded, in order, and ``fingerprint`` is today's.
    """

    run_id: str
    steps: int
    replayed: int = 0
    differences: list[Difference] = field(default_factory=list)
    undecidable: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""
    error: str = ""
    result: Any = None
    fingerprint: str = ""
    fingerprints: list[str] = field(default_factory=list)

    @property
    def difference(self) -> Difference | None:
        """The first difference, or None."""
        return self.differences[0] if self.differences else None

    @property
    def same(self) -> bool:
        """True when the replay reached the end and found no difference and nothing undecidable."""
        return not (self.differences or self.undecidable or self.stopped)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A step on record, with what of its payloads may be trusted to be what it was."""

    index: int
    entry: StoredEntry
    step: dict[str, Any]

    @classmethod
    def of(cls, index: int, entry: StoredEntry) -> Recorded:
        return cls(entry.step_index if entry.step_index is not None else index, entry, step_dict(entry))

    def doubt(self, name: str) -> Doubt:
        """Return why a payload on record need not be what the step had."""
        if name in self.step["erased"]:
            return Doubt.ERASED
        stored = self.entry.payloads.get(name)
        return doubt_of(stored[1]) if stored is not None else Doubt.NONE

    @property
    def ended_us(self) -> int:
        """Return when the step had ended."""
        return int(self.step["started_us"] + self.step["duration_ns"] // 1_000)


Steps = Callable[["Player"], Awaitable[Any]]


def decision_of(results: Sequence[StageResult | Mapping[str, Any]]) -> tuple[str, str, str]:
    """Return what the gates decided: ``deny`` or ``escalate`` with stage and code, or ``allow``."""
    paused = ("allow", "", "")
    for result in results:
        one = result.to_dict() if isinstance(result, StageResult) else result
        if not one["enforced"] or one["stage"] not in _GATES:
            continue
        if one["effect"] == Effect.DENY.value:
            return "deny", one["stage"], one["code"]
        if one["effect"] == Effect.ESCALATE.value and paused[0] == "allow":
            paused = ("escalate", one["stage"], one["code"])
    return paused


def why_undecidable(step: Mapping[str, Any], then: tuple[str, str, str], now: tuple[str, str, str]) -> str:
    """Return why two decisions may differ that the record does not tell from each other; empty where it does."""
    deciding = {stage for _, stage, _ in (then, now) if stage}
    if then == now:
        return ""
    if step["principal"] is None:
        return "who asked is not on record"
    if deciding & _BY_IDENTITY:
        return "the credential is never on record"
    return "it hung on what had been used by then" if deciding & _BY_THE_MOMENT else ""


async def play(
    run_id: str, entries: Sequence[StoredEntry], steps: Steps, runtime: Explains | None, *,
    fingerprints: bool = False, decided: bool = False,
) -> Replay:  # fmt: skip
    """Run ``steps`` with a player in place of a runtime, and report."""
    player = await asyncio.to_thread(Player, run_id, entries, runtime, fingerprints=fingerprints, decided=decided)
    report = player.report
    try:
        report.result = await steps(player)
    except ReplayStoppedError:
        pass
    except Exception as error:  # the program's own; a recorded denial may well have made it raise then, too
        report.error = f"{type(error).__name__}: {error}"
    player.end()
    return report


class Player:
    """Stands in for a StepRuntime and answers each step with its recorded outcome; handlers are never called.

    With ``decided`` a step that waited for a person is answered with what became of it, as if the decision had been
    there at once: for a program that is run once, whatever the run was resumed.
    """

    def __init__(
        self, run_id: str, entries: Sequence[StoredEntry], runtime: Explains | None, *, fingerprints: bool = False,
        decided: bool = False,
    ) -> None:  # fmt: skip
        self.run_id = run_id
        self._runtime = runtime
        self._fingerprints = fingerprints
        self._decided = decided
        self._recorded = [Recorded.of(index, entry) for index, entry in enumerate(entries)]
        self._taken = [False] * len(self._recorded)
        self._first = 0
        self._by_node: dict[str, list[int]] = {}
        self._by_step: dict[tuple[str, str], list[int]] = {}
        for place in reversed(range(len(self._recorded))):
            step = self._recorded[place].step
            self._by_node.setdefault(step["node_id"], []).append(place)
            self._by_step.setdefault((step["node_id"], step["step_id"]), []).append(place)
        self.report = Replay(run_id, len(self._recorded), fingerprints=_fingerprints(self._recorded))

    async def run(self, node_input: NodeInput) -> RuntimeOutcome:
        """Return the recorded outcome of the step; ReplayStoppedError where the step would now differ."""
        await asyncio.sleep(0)  # as a runtime would, let others go on
        if self.report.differences or self.report.stopped:
            raise ReplayStoppedError("the replay has stopped already")
        recorded = self._take(node_input)
        for name in ("kind", "tool", "action"):
            then, now = recorded.step["node_kind" if name == "kind" else name], getattr(node_input, name)
            if then != now:
                self._differs(recorded, name, then, now)
        await self._compare(recorded, node_input)
        return self._outcome(recorded)

    async def tenant_of(self, node_input: NodeInput) -> str | None:
        """Return the tenant that the run was of."""
        return str(self._recorded[0].step["tenant_id"]) or None

    def labels_of(self, outcome: RuntimeOutcome) -> TaintLabels | None:
        """Return the labels on record of what a step read."""
        return labels_on_record({"origin": outcome.record.origin, "confidentiality": outcome.record.confidentiality})

    def _take(self, step: NodeInput) -> Recorded:
        """Return the next record of the node that nobody has asked for."""
        place = self._next(self._by_step.get((step.node_id, step.step_id or ""), []))
        if place is None:
            place = self._next(self._by_node.get(step.node_id, []))
        if place is None:
            self.report.differences.append(Difference(None, step.node_id, "extra", None, step.node_id))
            raise ReplayStoppedError(f"the run has no further step of node {step.node_id!r}")
        self._taken[place] = True
        recorded = self._recorded[place]
        if self._decided and recorded.step["verdict"] == Verdict.ESCALATE.value:
            later = self._next(self._by_step.get((step.node_id, recorded.step["step_id"]), []))
            if later is not None:
                self._taken[later] = True
                recorded = self._recorded[later]
        while self._first < len(self._taken) and self._taken[self._first]:
            self._first += 1
        if self._first < place and self._recorded[self._first].ended_us <= recorded.step["started_us"]:
            expected = self._recorded[self._first]
            self._differs(expected, "order", expected.step["node_id"], step.node_id)
        return recorded

    def _next(self, places: list[int]) -> int | None:
        """Return the first place that nobody has taken, and drop those before it; the list runs backwards."""
        while places and self._taken[places[-1]]:
            places.pop()
        return places.pop() if places else None

    async def _compare(self, recorded: Recorded, step: NodeInput) -> None:
        now, redacted = step.input, False
        if self._runtime is not None:
            # Under the ids of the record, and without the handler, which nothing may call. What the step reads has no
            # labels in a runtime that has not run it; the record has those that they came to.
            asked = replace(
                step, run_id=self.run_id, step_id=recorded.step["step_id"], attempt=recorded.step["attempt"],
                handler=None, reads=(), labels=labels_on_record(recorded.step) if step.reads else step.labels,
            )  # fmt: skip
            explained = await self._runtime.explain(asked)
            self.report.fingerprint = explained.fingerprint
            if self._fingerprints and explained.fingerprint != recorded.step["fingerprint"]:
                self._differs(recorded, "fingerprint", recorded.step["fingerprint"], explained.fingerprint)
            then, today = decision_of(recorded.step["stages"]), decision_of(explained.results)
            if why := why_undecidable(recorded.step, then, today):
                self._undecidable(recorded, "decision", why)
            elif then != today:
                self._differs(recorded, "decision", then, today)
            now, redacted = explained.input, True
        self._compare_input(recorded, now, redacted)

    def _compare_input(self, recorded: Recorded, now: Any, redacted: bool) -> None:
        stored = recorded.entry.payloads.get("input")
        if (payload_bytes(now) if now is not None else None) == (stored[1] if stored is not None else None):
            return
        doubt = recorded.doubt("input")
        replaced = any(one["replaced"] for one in recorded.step["stages"] if one["stage"] in _GATES)
        if doubt >= Doubt.WITHHELD or (not redacted and (doubt or replaced)):
            why = doubt.label if doubt else "replaced by a stage"
            self._undecidable(recorded, "input", why)
        else:
            self._differs(recorded, "input", recorded.step["input_task"], now)

    def _outcome(self, recorded: Recorded) -> RuntimeOutcome:
        step = recorded.step
        doubt = recorded.doubt("output")
        if doubt >= Doubt.WITHHELD and step["verdict"] == Verdict.COMMIT.value:
            self.report.stopped = f"the output of step {recorded.index} ({step['node_id']}) is {doubt.label}"
            raise ReplayStoppedError(self.report.stopped)
        if doubt:
            self._undecidable(recorded, "output", doubt.label)
        self.report.replayed += 1
        record = record_of(step)
        status = STATUS_OF_VERDICT[record.verdict]
        request = step["approval_request"] or {}
        return RuntimeOutcome(
            status, record.output if status is Status.COMPLETED else None, record, record.code, record.reason,
            approval_id=request.get("approval_id"),
        )  # fmt: skip

    def _differs(self, recorded: Recorded, what: str, then: Any, now: Any) -> None:
        self.report.differences.append(Difference(recorded.index, recorded.step["node_id"], what, then, now))
        raise ReplayStoppedError(f"step {recorded.index} ({recorded.step['node_id']}) differs in its {what}")

    def _undecidable(self, recorded: Recorded, what: str, why: str) -> None:
        self.report.undecidable.append(
            {"step_index": recorded.index, "node_id": recorded.step["node_id"], "what": what, "why": why}
        )

    def end(self) -> None:
        """Report the first step that the program has not come to. What ran inside of another step is not asked for."""
        report = self.report
        if report.differences or report.stopped:
            return
        missing: Recorded | None = None
        running_since: int | None = None
        # Backwards: a step recorded later that had begun earlier was running, and may have asked for this one.
        for one, taken in zip(reversed(self._recorded), reversed(self._taken), strict=True):
            begun = one.step["started_us"]
            if not taken:
                if running_since is None or begun < running_since:
                    missing = one
            elif one.step["executed"] and begun < one.ended_us:
                running_since = begun if running_since is None else min(running_since, begun)
        if missing is not None:
            name = missing.step["node_id"]
            report.differences.append(Difference(missing.index, name, "missing", name, report.error or None))


def _fingerprints(recorded: Sequence[Recorded]) -> list[str]:
    return list(dict.fromkeys(one.step["fingerprint"] for one in recorded))


def record_of(step: Mapping[str, Any]) -> StepRecord:
    """Return the record that a step of ``get_run`` was written from, as far as the ledger has kept it."""
    values = {name: step[name] for name in _AS_RECORDED if name in step}
    principal = step["principal"]
    return StepRecord(
        **values,
        principal=principal_from(principal) if principal is not None else None,
        verdict=Verdict(step["verdict"]),
        input=step["input_task"],
        output=step["output_content"],
        metadata=step["metadata"] or {},
        results=tuple(StageResult(**{**one, "effect": Effect(one["effect"])}) for one in step["stages"]),
        unsafe=tuple(step["unsafe"]),
    )
