from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from meshflow import ReplayLedger, RunDiff
from meshflow.errors import LedgerError
from meshflow.ledger.outline import Doubt, doubt_of
from meshflow.record import StepRecord, Verdict

MakeRecord = Callable[..., StepRecord]


@pytest.fixture
def run(ledger: ReplayLedger, record: MakeRecord) -> Callable[..., Any]:
    """Write a run: of each step a node, and either an output or changes to the record."""

    async def write(run_id: str, *steps: tuple[str, Any]) -> None:
        for number, (node, what) in enumerate(steps):
            changes = what if isinstance(what, dict) else {"output": what}
            await ledger.write(record(number, run_id=run_id, **({"node_id": node} | changes)))

    return write


async def test_nodes_of_one_run_alone_and_of_both_are_told_apart(ledger: ReplayLedger, run: Any) -> None:
    await run("a", ("plan", 1), ("search", 2), ("answer", 3))
    await run("b", ("plan", 1), ("answer", 4), ("check", 5))
    diff = await ledger.diff("a", "b")
    assert isinstance(diff, RunDiff)
    assert (diff.only_in_a, diff.only_in_b, diff.common) == (["search"], ["check"], ["plan", "answer"])
    (changed,) = diff.changed
    assert changed["node_id"] == "answer"
    assert (changed["output_a"], changed["output_b"]) == (3, 4)
    assert (changed["verdict_a"], changed["verdict_b"]) == ("commit", "commit")
    assert (changed["step_index_a"], changed["step_index_b"]) == (2, 1)
    assert not diff.same_path


async def test_costs_and_tokens_are_those_of_b_less_those_of_a(ledger: ReplayLedger, run: Any) -> None:
    await run("a", ("n", {"cost_micro_usd": 500, "tokens": 10, "output": 1}))
    await run("b", ("n", {"cost_micro_usd": 200, "tokens": 4, "output": 2}))
    diff = await ledger.diff("a", "b")
    assert (diff.cost_delta_usd, diff.cost_delta_micro_usd, diff.token_delta) == (-0.0003, -300, -6)
    assert (diff.changed[0]["cost_delta_usd"], diff.changed[0]["token_delta"]) == (-0.0003, -6)


async def test_repeated_nodes_are_compared_time_for_time(ledger: ReplayLedger, run: Any) -> None:
    await run("a", ("loop", 1), ("loop", 2), ("loop", 3))
    await run("b", ("loop", 1), ("loop", 9), ("loop", 3))
    diff = await ledger.diff("a", "b")
    assert [(one["occurrence"], one["output_a"], one["output_b"]) for one in diff.changed] == [(1, 2, 9)]
    assert diff.common == ["loop"]


async def test_a_retry_more_is_an_extra_step_and_changes_no_other(ledger: ReplayLedger, run: Any) -> None:
    failed = {"verdict": Verdict.ERROR, "code": "execution.failed", "output": None}
    await run("a", ("fetch", failed), ("fetch", "page"), ("write", "done"))
    await run("b", ("fetch", "page"), ("write", "done"))
    diff = await ledger.diff("a", "b")
    assert diff.changed == []
    assert diff.extra_in_a == [{"node_id": "fetch", "occurrence": 0, "step_index": 0}]
    assert diff.extra_in_b == []
    assert not diff.same_path


async def test_another_verdict_or_code_is_a_change_with_the_same_output(ledger: ReplayLedger, run: Any) -> None:
    denied = {"verdict": Verdict.REJECT, "code": "budget_check.exhausted", "output": None}
    await run("a", ("x", denied), ("y", denied))
    await run("b", ("x", {**denied, "code": "policy_evaluation.denied"}), ("y", 1))
    diff = await ledger.diff("a", "b")
    assert [(one["verdict_a"], one["verdict_b"], one["code_a"], one["code_b"]) for one in diff.changed] == [
        ("reject", "reject", "budget_check.exhausted", "policy_evaluation.denied"),
        ("reject", "commit", "budget_check.exhausted", ""),
    ]


async def test_equal_runs_are_identical_though_their_salts_differ(ledger: ReplayLedger, run: Any) -> None:
    for name in ("a", "b"):
        await run(name, ("x", {"output": {"k": [1, 2.5, None]}}), ("y", {"output": None}))
    diff = await ledger.diff("a", "b")
    assert diff.identical
    assert diff.to_dict()["changed"] == []


async def test_an_erased_output_is_not_compared_and_says_so(ledger: ReplayLedger, run: Any) -> None:
    await run("a", ("x", 1), ("y", 2))
    await run("b", ("x", 1), ("y", 3))
    await ledger.erase_payloads("a", fields=["output"], reason="request", authority="dpo")
    diff = await ledger.diff("a", "b")
    assert diff.changed == []
    assert [(one["node_id"], one["what"], one["why_a"], one["why_b"]) for one in diff.not_compared] == [
        ("x", "output", "erased", "none"), ("y", "output", "erased", "none")
    ]  # fmt: skip
    assert diff.same_path
    assert not diff.identical


async def test_an_erased_output_under_another_verdict_is_a_change_all_the_same(ledger: ReplayLedger, run: Any) -> None:
    await run("a", ("x", 1))
    await run("b", ("x", {"verdict": Verdict.ERROR, "code": "execution.failed", "output": "part"}))
    await ledger.erase_payloads("a", fields=["output"], reason="request", authority="dpo")
    diff = await ledger.diff("a", "b")
    assert [(one["output_a"], one["output_b"]) for one in diff.changed] == [(None, "part")]
    assert len(diff.not_compared) == 1


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("call <PHONE_NUMBER>", "redacted"),
        ({"meshflow:withheld": {"type": "str", "cause": "stage_error"}}, "withheld"),
        (object(), "unencodable"),
    ],
)
async def test_what_looks_the_same_on_record_need_not_have_been(
    ledger: ReplayLedger, run: Any, output: Any, why: str
) -> None:
    await run("a", ("x", {"output": output}))
    await run("b", ("x", {"output": output}))
    diff = await ledger.diff("a", "b")
    assert diff.changed == []
    assert [one["why_a"] for one in diff.not_compared] == [why]


async def test_masks_that_differ_are_a_change(ledger: ReplayLedger, run: Any) -> None:
    await run("a", ("x", "<PERSON> paid 5"))
    await run("b", ("x", "<PERSON> paid 6"))
    diff = await ledger.diff("a", "b")
    assert len(diff.changed) == 1
    assert diff.not_compared == []


@pytest.mark.parametrize(
    ("data", "doubt"),
    [
        (b'"plain"', Doubt.NONE),
        (b'"a < b and <b>bold</b>"', Doubt.NONE),
        (b'"<PERSON_1> and <PERSON:0123456789abcdef01234567>"', Doubt.NONE),
        (b'"<EMAIL_ADDRESS>"', Doubt.REDACTED),
        (b'{"meshflow:unencodable":{"type":"builtins.bytes","length":1,"sha256":"00"}}', Doubt.NONE),
        (b'{"meshflow:unencodable":{"type":"builtins.object"}}', Doubt.UNENCODABLE),
        (b'"\\"meshflow:withheld\\""', Doubt.NONE),
    ],
)
def test_doubts_are_told_from_the_bytes(data: bytes, doubt: Doubt) -> None:
    assert doubt_of(data) is doubt


async def test_a_fork_is_compared_with_what_it_inherits_and_costs_its_own(
    ledger: ReplayLedger, run: Any, record: MakeRecord
) -> None:
    await run("a", ("x", 1), ("y", 2), ("z", 3))
    fork = await ledger.fork("a", from_step=2)
    await ledger.write(record(9, run_id=fork, node_id="z", output=4))
    diff = await ledger.diff("a", fork)
    assert diff.common == ["x", "y", "z"]
    assert [(one["node_id"], one["output_a"], one["output_b"]) for one in diff.changed] == [("z", 3, 4)]
    summaries = [await ledger.run_summary(one) for one in ("a", fork)]
    assert diff.cost_delta_micro_usd == summaries[1]["total_cost_micro_usd"] - summaries[0]["total_cost_micro_usd"]
    assert diff.token_delta == -24


async def test_unknown_runs_and_those_of_other_tenants_are_refused(ledger: ReplayLedger, run: Any) -> None:
    await run("a", ("x", 1))
    await run("b", ("x", {"tenant_id": "globex"}))
    with pytest.raises(LedgerError, match="no run 'nowhere'"):
        await ledger.diff("a", "nowhere")
    with pytest.raises(LedgerError, match="no run 'b'"):
        await ledger.diff("a", "b", tenant="acme")


async def test_a_deleted_run_shows_no_steps(ledger: ReplayLedger, run: Any) -> None:
    await run("a", ("x", 1))
    await run("b", ("x", 1))
    await ledger.delete_run("a")
    diff = await ledger.diff("a", "b")
    assert (diff.only_in_b, diff.common) == (["x"], [])


def test_a_diff_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        RunDiff("a", "b").token_delta = 1  # type: ignore[misc]
