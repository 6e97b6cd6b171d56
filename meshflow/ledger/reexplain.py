"""Ask a runtime what its gates would now decide of each recorded step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from meshflow.ledger.format.entry import StoredEntry
from meshflow.ledger.format.steps import labels_on_record
from meshflow.ledger.outline import Doubt, is_digest
from meshflow.ledger.player import (
    Difference,
    Explains,
    Recorded,
    Replay,
    decision_of,
    why_undecidable,
)
from meshflow.stages import STAGE_BY_NAME
from meshflow.step import NodeInput

_READS_TEXT_FROM = STAGE_BY_NAME["policy_evaluation"].number


async def decide_again(
    run_id: str, entries: Sequence[StoredEntry], runtime: Explains, *, every: bool = False, fingerprints: bool = False
) -> Replay:
    """Compare what was decided with what would be decided now; stop at the first difference unless ``every``."""
    report = Replay(run_id, len(entries))
    for index, entry in enumerate(entries):
        recorded = Recorded.of(index, entry)
        if (printed := recorded.step["fingerprint"]) not in report.fingerprints:
            report.fingerprints.append(printed)
        explained = await runtime.explain(input_of(recorded))
        report.fingerprint = explained.fingerprint
        report.replayed += 1
        then, now = decision_of(recorded.step["stages"]), decision_of(explained.results)
        if why := _undecidable(recorded, then, now):
            report.undecidable.append({
                "step_index": recorded.index, "node_id": recorded.step["node_id"], "what": "decision", "why": why,
                "recorded": then, "now": now,
            })  # fmt: skip
        elif then != now:
            report.differences.append(Difference(recorded.index, recorded.step["node_id"], "decision", then, now))
        elif fingerprints and printed != explained.fingerprint:
            report.differences.append(
                Difference(recorded.index, recorded.step["node_id"], "fingerprint", printed, explained.fingerprint)
            )
        if report.differences and not every:
            break
    return report


def input_of(recorded: Recorded) -> NodeInput:
    """Return the step as the record has it.

    The record has no credential. Its labels and its tier of risk are what the stages found, so at least what the caller
    had said; a runtime that would now find a lower tier is not noticed.
    """
    step = recorded.step
    principal: dict[str, Any] = step["principal"] or {}
    return NodeInput(
        node_id=step["node_id"],
        input=step["input_task"],
        kind=step["node_kind"],
        tool=step["tool"],
        action=step["action"],
        run_id=step["run_id"],
        step_id=step["step_id"],
        attempt=step["attempt"],
        agent_id=principal.get("agent_id", "local"),
        tenant=step["tenant_id"] or None,
        estimate_usd=Decimal(step["reserved_micro_usd"]) / 1_000_000 if step["reserved_micro_usd"] else None,
        risk=step["risk"],
        labels=labels_on_record(step),
        metadata=step["metadata"] or {},
    )


def _undecidable(recorded: Recorded, then: tuple[str, str, str], now: tuple[str, str, str]) -> str:
    """Return why the record does not tell what would be decided of the step now; empty where it does."""
    if why := why_undecidable(recorded.step, then, now):
        return why
    doubt = max(_doubt(recorded, name) for name in ("input", "metadata"))
    early = now[0] == "deny" and STAGE_BY_NAME[now[1]].number < _READS_TEXT_FROM
    if doubt is Doubt.NONE or (early and then == now):
        return ""
    return f"the input on record is {doubt.label}"


def _doubt(recorded: Recorded, name: str) -> Doubt:
    """Return why the gates cannot be asked with a payload as it is on record; a digest stands for no value."""
    doubt = recorded.doubt(name)
    stored = recorded.entry.payloads.get(name)
    return max(doubt, Doubt.UNENCODABLE) if stored is not None and is_digest(stored[1]) else doubt


def to_dict(report: Replay) -> dict[str, Any]:
    """Return the JSON form of a report."""
    return {
        "run_id": report.run_id,
        "same": report.same,
        "steps": report.steps,
        "replayed": report.replayed,
        "differences": [asdict(one) for one in report.differences],
        "undecidable": report.undecidable,
        "stopped": report.stopped,
        "error": report.error,
        "fingerprint": report.fingerprint,
        "fingerprints": report.fingerprints,
    }
