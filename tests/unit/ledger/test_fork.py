from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshflow import ReplayLedger
from meshflow.errors import EncodingError, LedgerConflictError, LedgerError
from meshflow.record import StepRecord, Verdict

MakeRecord = Callable[..., StepRecord]


@pytest.fixture
async def parent(ledger: ReplayLedger, record: MakeRecord) -> str:
    for number in range(5):
        await ledger.write(record(number, cost_micro_usd=100 * (number + 1)))
    return "run-1"


async def test_a_fork_shows_what_it_inherits_under_the_ids_of_its_parent(
    ledger: ReplayLedger, parent: str, record: MakeRecord
) -> None:
    fork = await ledger.fork(parent, from_step=3)
    assert isinstance(fork, str)
    await ledger.write(record(9, run_id=fork, node_id="elsewhere"))
    steps = await ledger.get_run(fork)
    assert [(one["step_index"], one["run_id"], one["inherited"]) for one in steps] == [
        (0, parent, True), (1, parent, True), (2, parent, True), (3, fork, False)
    ]  # fmt: skip
    assert [one["entry_hash"] for one in steps[:3]] == [one["entry_hash"] for one in (await ledger.get_run(parent))[:3]]
    assert not any(one["inherited"] for one in await ledger.get_run(parent))


async def test_a_fork_names_parent_place_and_hash_and_both_verify(
    ledger: ReplayLedger, parent: str, record: MakeRecord
) -> None:
    fork = await ledger.fork(parent, from_step=3)
    await ledger.write(record(9, run_id=fork))
    third = (await ledger.get_run(parent))[2]
    (first, second) = await ledger.lineage(fork)
    assert (first["parent_run_id"], first["parent_steps"]) == (parent, 3)
    assert first["parent_entry_hash"] == third["entry_hash"]
    assert (second["run_id"], second["parent_run_id"]) == (parent, None)
    for run_id in (parent, fork):
        assert (await ledger.verify_chain(run_id))["valid"]


async def test_a_fork_counts_its_own_cost_alone(ledger: ReplayLedger, parent: str, record: MakeRecord) -> None:
    fork = await ledger.fork(parent, from_step=4)
    await ledger.write(record(9, run_id=fork, cost_micro_usd=7, tokens=3))
    summary = await ledger.run_summary(fork)
    assert (summary["steps"], summary["total_cost_micro_usd"], summary["total_tokens"]) == (1, 7, 3)
    assert (await ledger.load_state(fork, 4))["cost_so_far_micro_usd"] == 7
    assert (await ledger.load_state(fork, 2))["cost_so_far_micro_usd"] == 0


async def test_a_fork_of_a_fork_reads_through_both(ledger: ReplayLedger, parent: str, record: MakeRecord) -> None:
    child = await ledger.fork(parent, from_step=2)
    await ledger.write(record(10, run_id=child))
    await ledger.write(record(11, run_id=child))
    grandchild = await ledger.fork(child, from_step=3)
    early = await ledger.fork(child, from_step=1)
    assert [one["step_id"] for one in await ledger.get_run(grandchild)] == ["step-0", "step-1", "step-10"]
    assert [one["step_id"] for one in await ledger.get_run(early)] == ["step-0"]
    assert [one["run_id"] for one in await ledger.lineage(grandchild)] == [grandchild, child, parent]
    for run_id in (parent, child, grandchild, early):
        result = await ledger.verify_chain(run_id)
        assert (result["valid"], result["errors"]) == (True, [])


async def test_an_erasure_in_the_parent_shows_in_the_fork(ledger: ReplayLedger, parent: str) -> None:
    fork = await ledger.fork(parent, from_step=3)
    await ledger.erase_payloads(parent, fields=["output"], reason="request", authority="dpo")
    steps = await ledger.get_run(fork)
    assert [one["erased"] for one in steps] == [["output"]] * 3
    assert (await ledger.load_state(fork, 1))["output_content"] is None
    for run_id in (parent, fork):
        assert (await ledger.verify_chain(run_id))["valid"]


async def test_a_fork_goes_on_when_its_parent_does(ledger: ReplayLedger, parent: str, record: MakeRecord) -> None:
    fork = await ledger.fork(parent, from_step=5)
    await ledger.write(record(5))
    await ledger.close_run(parent)
    await ledger.write(record(9, run_id=fork))
    assert [one["step_id"] for one in await ledger.get_run(fork)][-2:] == ["step-4", "step-9"]
    assert await ledger.fork(parent, from_step=6)


async def test_a_fork_from_nothing_is_a_fresh_start(ledger: ReplayLedger, parent: str, record: MakeRecord) -> None:
    fork = await ledger.fork(parent, from_step=0)
    assert await ledger.get_run(fork) == []
    await ledger.write(record(9, run_id=fork))
    assert (await ledger.load_state(fork, 0))["step_id"] == "step-9"
    assert (await ledger.verify_chain(fork))["valid"]


@pytest.mark.parametrize("from_step", [6, 100, 10**30])
async def test_a_fork_from_a_step_that_is_not_there_is_refused(
    ledger: ReplayLedger, parent: str, from_step: int
) -> None:
    with pytest.raises(LedgerError, match="has 5 steps"):
        await ledger.fork(parent, from_step=from_step)


@pytest.mark.parametrize("from_step", [-1, True, 1.5, "2", None])
async def test_a_fork_begins_at_a_whole_number(ledger: ReplayLedger, parent: str, from_step: Any) -> None:
    with pytest.raises(LedgerError, match="step index"):
        await ledger.fork(parent, from_step=from_step)


async def test_a_fork_of_an_unknown_run_is_refused_and_makes_no_run(ledger: ReplayLedger, parent: str) -> None:
    with pytest.raises(LedgerError, match="no run 'nowhere'"):
        await ledger.fork("nowhere", from_step=0)
    assert await ledger.list_runs() == [parent]


@pytest.mark.parametrize("fields", [["output"], ["input"], ["input", "output"]])
async def test_a_fork_that_would_go_on_from_an_erased_step_is_refused(
    ledger: ReplayLedger, parent: str, fields: list[str]
) -> None:
    await ledger.erase_payloads(parent, fields=fields, reason="request", authority="dpo")
    with pytest.raises(LedgerError, match=f"{' and '.join(fields)} of step 2 is erased"):
        await ledger.fork(parent, from_step=3)


async def test_a_deleted_run_is_not_forked(ledger: ReplayLedger, parent: str) -> None:
    await ledger.delete_run(parent)
    with pytest.raises(LedgerError, match="deleted"):
        await ledger.fork(parent, from_step=3)


async def test_a_fork_takes_an_id_of_its_own(ledger: ReplayLedger, parent: str) -> None:
    assert await ledger.fork(parent, from_step=1, new_run_id="mine") == "mine"
    with pytest.raises(LedgerConflictError):
        await ledger.fork(parent, from_step=2, new_run_id="mine")
    with pytest.raises(EncodingError):
        await ledger.fork(parent, from_step=2, new_run_id="")


async def test_a_tenant_forks_its_own_runs_alone(place: str | Path, ledger: ReplayLedger, parent: str) -> None:
    async with ReplayLedger(place, tenant="globex") as other:
        with pytest.raises(LedgerError, match="no run"):
            await other.fork(parent, from_step=1)
    async with ReplayLedger(place, tenant="acme") as own:
        fork = await own.fork(parent, from_step=1)
        assert len(await own.get_run(fork)) == 1
    assert (await ledger.load_state(fork, 0, tenant="acme"))["run_id"] == parent
    assert await ledger.get_run(fork, tenant="globex") == []


async def test_rewinding_leaves_what_was_recorded(ledger: ReplayLedger, parent: str) -> None:
    again = await ledger.rewind(parent, 2)
    assert [one["step_id"] for one in await ledger.get_run(again)] == ["step-0", "step-1"]
    assert len(await ledger.get_run(parent)) == 5
    last = await ledger.rewind(parent, -1)
    assert len(await ledger.get_run(last)) == 4


async def test_the_state_at_a_step_has_what_is_needed_to_go_on(
    ledger: ReplayLedger, parent: str, record: MakeRecord
) -> None:
    state = await ledger.load_state(parent, step_index=2)
    assert (state["step_index"], state["attempt"], state["step_id"]) == (2, 1, "step-2")
    assert state["input_task"] == {"text": "question 2"}
    assert state["output_content"] == {"answer": 19.99, "nothing": None}
    assert state["labels"] == {"origin": "user", "confidentiality": "tenant"}
    assert (state["cost_so_far_micro_usd"], state["cost_so_far_usd"], state["tokens_so_far"]) == (600, 0.0006, 36)
    assert state["facts"]["identity_verification"]["subject"] == "alice"
    assert state["facts"]["risk_classification"] == "internal"
    assert state["facts"]["taint_propagation"] == state["labels"]
    assert state["facts"]["tenant_scoping"] == {"tenant_id": "acme"}
    assert (await ledger.load_state(parent, -1))["cost_so_far_micro_usd"] == 1500
    await ledger.write(record(5, cost_micro_usd=1, verdict=Verdict.REJECT, code="budget_check.exhausted"))
    assert (await ledger.load_state(parent, 5))["cost_so_far_micro_usd"] == 1501
    assert (await ledger.load_state(parent, 0))["cost_so_far_micro_usd"] == 100


@pytest.mark.parametrize("index", [5, -6, 10**30])
async def test_a_state_that_is_not_there_is_refused(ledger: ReplayLedger, parent: str, index: int) -> None:
    with pytest.raises(LedgerError, match="no step"):
        await ledger.load_state(parent, index)


@pytest.mark.parametrize("index", [True, 1.0, "1", None])
async def test_a_state_has_a_whole_number(ledger: ReplayLedger, parent: str, index: Any) -> None:
    with pytest.raises(LedgerError, match="whole number"):
        await ledger.load_state(parent, index)


async def test_intents_between_steps_do_not_count(ledger: ReplayLedger, record: MakeRecord) -> None:
    from meshflow.ledger import Intent

    for number in range(3):
        await ledger.write_intent(Intent(run_id="r", step_id=f"step-{number}", node_id="n", tenant_id="acme"))
        await ledger.write(record(number, run_id="r"))
    assert [(await ledger.load_state("r", index))["step_id"] for index in range(3)] == ["step-0", "step-1", "step-2"]
