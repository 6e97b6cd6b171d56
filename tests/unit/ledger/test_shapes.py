"""What the ledger returns has the names that its users know, on every kind of store."""

from __future__ import annotations

from pathlib import Path

from meshflow.ledger import ReplayLedger
from meshflow.record import Verdict

from .conftest import MakeRecord

STEP = {
    "run_id", "step_id", "node_id", "node_kind", "input_task", "output_content", "verdict", "blocked", "block_reason",
    "uncertainty", "cost_usd", "tokens_used", "carbon_gco2", "duration_ms", "timestamp", "prev_hash", "entry_hash",
    "tenant_id", "metadata",
}  # fmt: skip
SUMMARY = {
    "run_id", "steps", "nodes", "total_cost_usd", "total_tokens", "blocked_steps", "verdicts", "timestamps",
}  # fmt: skip
CHAIN = {"run_id", "valid", "steps_verified", "errors", "checked", "not_checked"}
CHANGED = {"node_id", "verdict_a", "verdict_b", "output_a", "output_b", "cost_delta_usd"}


async def test_steps_summaries_verdicts_and_differences_have_the_names_that_were_promised(
    ledger: ReplayLedger, record: MakeRecord, place: str | Path
) -> None:
    verdicts = (Verdict.COMMIT, Verdict.REJECT, Verdict.ESCALATE, Verdict.ERROR)
    for number, verdict in enumerate(verdicts):
        await ledger.write(record(number, verdict=verdict, reason="why" if number else ""))
        await ledger.write(record(number, run_id="run-2", output=f"other {number}", cost_micro_usd=2_000, tokens=1))
    steps = await ledger.get_run("run-1")
    assert all(step.keys() >= STEP for step in steps)
    assert (await ledger.load_state("run-1", step_index=2)).keys() >= STEP
    assert [step["verdict"] for step in steps] == ["commit", "reject", "escalate", "error"]
    assert [step["blocked"] for step in steps] == [False, True, True, True]
    assert [step["block_reason"] for step in steps] == ["", "why", "why", "why"]
    assert steps[0].items() >= {
        "node_kind": "function", "input_task": {"text": "question 0"}, "uncertainty": 0.25, "cost_usd": 0.0015,
        "tokens_used": 12, "carbon_gco2": 0.04, "duration_ms": 2.5, "timestamp": "2023-11-14T22:13:20.000000Z",
        "tenant_id": "acme", "metadata": {"source": "test"}, "prev_hash": steps[0]["prev_hash"],
    }.items()  # fmt: skip
    assert steps[1]["prev_hash"] == steps[0]["entry_hash"]

    summary = await ledger.run_summary("run-1")
    assert summary.keys() >= SUMMARY
    assert (summary["steps"], summary["blocked_steps"], summary["total_tokens"]) == (4, 3, 48)
    assert summary["verdicts"] == dict.fromkeys(("commit", "reject", "escalate", "error"), 1)
    assert summary["timestamps"].keys() == {"start", "end"}

    chain = await ledger.verify_chain("run-1")
    assert chain.keys() >= CHAIN
    assert (chain["run_id"], chain["valid"], chain["steps_verified"], chain["errors"]) == ("run-1", True, 4, [])

    diff = await ledger.diff("run-1", "run-2")
    assert (diff.only_in_a, diff.only_in_b, diff.common) == ([], [], ["node-0", "node-1", "node-2"])
    assert all(change.keys() >= CHANGED for change in diff.changed)
    assert [(change["node_id"], change["verdict_a"], change["output_b"]) for change in diff.changed] == [
        ("node-0", "commit", "other 0"), ("node-1", "reject", "other 1"), ("node-2", "escalate", "other 2"),
        ("node-0", "error", "other 3"),
    ]  # fmt: skip
    assert (diff.cost_delta_usd, diff.token_delta) == (0.002, -44)


async def test_runs_are_listed_the_newest_first_page_by_page(
    ledger: ReplayLedger, record: MakeRecord, place: str | Path
) -> None:
    for number in range(7):
        await ledger.write(record(number, run_id=f"run-{number}", tenant_id="acme" if number % 2 else "bolt"))
    newest = [f"run-{number}" for number in reversed(range(7))]
    assert await ledger.list_runs() == newest
    assert await ledger.list_runs(limit=3) == newest[:3]
    assert await ledger.list_runs(limit=3, offset=3) == newest[3:6]
    assert await ledger.list_runs(limit=3, before="run-4") == newest[3:6]
    assert await ledger.list_runs(tenant="acme") == ["run-5", "run-3", "run-1"]
    assert await ledger.list_runs(limit=0) == []
    assert await ledger.list_runs(node="node-1") == ["run-4", "run-1"]
    assert await ledger.list_runs(node="node-1", tenant="acme", verdict="commit") == ["run-1"]
