from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshflow.clock import ManualClock
from meshflow.errors import ConfigError, EncodingError, LedgerConflictError, LedgerError
from meshflow.ledger import Intent, ReplayLedger
from meshflow.record import StepRecord, Verdict

MakeRecord = Callable[..., StepRecord]


async def test_a_step_reads_back_under_the_names_of_the_api(ledger: ReplayLedger, record: MakeRecord) -> None:
    written = await ledger.write(record())
    (step,) = await ledger.get_run("run-1")
    expected = {
        "run_id": "run-1", "step_id": "step-0", "node_id": "node-0", "node_kind": "function", "verdict": "commit",
        "input_task": {"text": "question 0"}, "output_content": {"answer": 19.99, "nothing": None}, "blocked": False,
        "block_reason": "", "uncertainty": 0.25, "cost_usd": 0.0015, "tokens_used": 12, "carbon_gco2": 0.04,
        "duration_ms": 2.5, "timestamp": "2023-11-14T22:13:20.000000Z", "tenant_id": "acme", "seq": 0, "attempt": 1,
        "metadata": {"source": "test"}, "entry_hash": written.entry_hash, "erased": [], "fingerprint": "f" * 64,
        "labels": {"origin": "user", "confidentiality": "tenant"}, "risk": "internal",
    }  # fmt: skip
    assert {name: step[name] for name in expected} == expected
    assert step["principal"]["subject"] == "alice"
    assert step["stages"][1]["reason"] == "declared"
    assert step["stages"][1]["evidence"] == {"tier": "internal"}
    assert step["stages"][0]["elapsed_ns"] == 1_000


async def test_the_immutable_body_names_no_person_and_holds_no_content(
    ledger: ReplayLedger, record: MakeRecord
) -> None:
    await ledger.write(record(reason="because alice said so"))
    async for entry in ledger._store.entries("run-1", "step"):
        for secret in (b"alice", b"question", b"19.99", b"declared", b"blue", b"source"):
            assert secret not in entry.body


async def test_a_blocked_step_says_why(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record(verdict=Verdict.REJECT, code="budget_check.exhausted", reason="cap reached"))
    await ledger.write(record(1, verdict=Verdict.ERROR, code="execution.crashed"))
    steps = await ledger.get_run("run-1")
    assert [(step["blocked"], step["block_reason"]) for step in steps] == [
        (True, "cap reached"), (True, "execution.crashed")
    ]  # fmt: skip


async def test_a_dict_with_the_names_of_the_api_can_be_written(ledger: ReplayLedger) -> None:
    await ledger.write({
        "run_id": "r", "node_id": "n", "node_kind": "tool", "input_task": {"price": 19.99}, "output_content": "done",
        "blocked": True, "block_reason": "no", "uncertainty": 0.1, "cost_usd": 0.25, "tokens_used": 5,
        "carbon_gco2": 0.5, "duration_ms": 12.5, "timestamp": "2026-01-02T03:04:05Z", "tenant_id": "t",
        "metadata": {"k": 1},
    })  # fmt: skip
    (step,) = await ledger.get_run("r")
    assert step["verdict"] == "reject"
    assert step["input_task"] == {"price": 19.99}
    assert (step["cost_usd"], step["uncertainty"], step["duration_ms"]) == (0.25, 0.1, 12.5)
    assert step["timestamp"] == "2026-01-02T03:04:05.000000Z"
    assert step["step_id"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"cost_usd": math.nan}, "cost_usd"),
        ({"cost_usd": -1}, "cost_usd"),
        ({"uncertainty": math.inf}, "uncertainty"),
        ({"duration_ms": "soon"}, "duration_ms"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": "2026-01-02T03:04:05"}, "timestamp"),
        ({"verdict": "maybe"}, "verdict"),
        ({"verdict": "commit", "blocked": True}, "blocked"),
        ({"colour": "red"}, "colour"),
        ({"run_id": ""}, "run_id"),
        ({"node_id": None}, "node_id"),
        ({"step_id": 7}, "step_id"),
        ({"tokens": 1.5}, "tokens"),
        ({"attempt": None}, "attempt"),
        ({"node_id": "\ud800"}, "node_id"),
        ({"tokens": 2**53}, "tokens"),
        ({"prev_hash": "zz"}, "prev_hash"),
        ({"principal": {"name": "x"}}, "principal"),
    ],
)
async def test_a_wrong_field_is_refused_by_its_name(ledger: ReplayLedger, change: dict[str, Any], path: str) -> None:
    with pytest.raises(EncodingError) as caught:
        await ledger.write({"run_id": "r", "node_id": "n"} | change)
    assert caught.value.path == path
    assert await ledger.list_runs() == []


async def test_equal_bytes_are_one_entry_and_others_a_conflict(ledger: ReplayLedger, record: MakeRecord) -> None:
    first = await ledger.write(record())
    assert await ledger.write(record()) == first
    with pytest.raises(LedgerConflictError, match="attempt 1"):
        await ledger.write(record(output="something else"))
    with pytest.raises(LedgerConflictError):
        await ledger.write(record(tokens=13))
    assert (await ledger.write(record(attempt=2))).seq == 1
    assert len(await ledger.get_run("run-1")) == 2


async def test_one_bad_record_fails_only_its_own_writer(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record(5))
    outcomes = await asyncio.gather(
        *(ledger.write(record(number)) for number in range(10)),
        ledger.write(record(5, tokens=99)),
        ledger.write(record(3, tokens=98)),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert len(refused) == 2
    assert all(isinstance(error, LedgerConflictError) for error in refused)
    assert (await ledger.verify_chain("run-1"))["steps_verified"] == 10


async def test_a_prev_hash_is_a_precondition_and_an_entry_hash_is_checked(
    ledger: ReplayLedger, record: MakeRecord
) -> None:
    first = await ledger.write(record())
    step = {"run_id": "run-1", "node_id": "n", "step_id": "next"}
    with pytest.raises(LedgerConflictError, match="stands at"):
        await ledger.write(step | {"prev_hash": "0" * 64})
    with pytest.raises(LedgerConflictError, match="entry_hash"):
        await ledger.write(step | {"entry_hash": "0" * 64})
    assert (await ledger.write(step | {"prev_hash": first.entry_hash})).seq == 1


async def test_a_summary_counts_every_step_once(ledger: ReplayLedger, record: MakeRecord) -> None:
    for number in range(4):
        await ledger.write(record(number, verdict=Verdict.REJECT if number == 3 else Verdict.COMMIT))
    await ledger.write_intent(Intent(run_id="run-1", step_id="step-9", node_id="x"))
    summary = await ledger.run_summary("run-1")
    assert summary["steps"] == 4
    assert summary["nodes"] == ["node-0", "node-1", "node-2"]
    assert summary["total_cost_usd"] == 0.006
    assert summary["total_tokens"] == 48
    assert summary["blocked_steps"] == 1
    assert summary["verdicts"] == {"commit": 3, "reject": 1}
    assert summary["timestamps"]["start"] == "2023-11-14T22:13:20.000000Z"
    assert summary["timestamps"]["end"] == "2023-11-14T22:13:20.002503Z"
    assert (await ledger.run_summary("no such run"))["steps"] == 0


async def test_runs_are_listed_newest_first_and_paged(
    ledger: ReplayLedger, record: MakeRecord, clock: ManualClock
) -> None:
    for number in range(5):
        clock.set_wall(1_000_000 - number)  # a clock that steps back does not change the order
        await ledger.write(record(run_id=f"run-{number}", started_us=0))
    await ledger.write(record(9, run_id="run-0"))
    assert await ledger.list_runs() == ["run-4", "run-3", "run-2", "run-1", "run-0"]
    assert await ledger.list_runs(limit=2) == ["run-4", "run-3"]
    assert await ledger.list_runs(limit=2, before="run-3") == ["run-2", "run-1"]
    assert await ledger.list_runs(offset=4) == ["run-0"]
    assert await ledger.list_runs(before="no such run") == []
    with pytest.raises(LedgerError):
        await ledger.list_runs(limit=-1)


async def test_a_step_index_counts_steps_alone(ledger: ReplayLedger, record: MakeRecord) -> None:
    for number in range(300):
        if number % 100 == 0:
            await ledger.write_intent(Intent(run_id="run-1", step_id=f"step-{number}", node_id="n"))
        await ledger.write(record(number))
    assert (await ledger.load_state("run-1", step_index=2))["step_id"] == "step-2"
    assert (await ledger.load_state("run-1", step_index=-1))["step_id"] == "step-299"
    assert [step["step_id"] for step in await ledger.get_run("run-1")] == [f"step-{number}" for number in range(300)]
    with pytest.raises(LedgerError, match="no step 300"):
        await ledger.load_state("run-1", step_index=300)


async def test_an_intent_without_an_outcome_is_visible(ledger: ReplayLedger, record: MakeRecord) -> None:
    for number in range(3):
        await ledger.write_intent(
            Intent(run_id="run-1", step_id=f"step-{number}", node_id="n", tenant_id="acme", tool="pay")
        )
    await ledger.write(record(0))
    await ledger.write(record(1, attempt=2))
    assert [intent["step_id"] for intent in await ledger.unfinished()] == ["step-1", "step-2"]
    assert [intent["tool"] for intent in await ledger.unfinished("run-1", tenant="acme")] == ["pay", "pay"]
    assert await ledger.unfinished("run-1", tenant="other") == []
    assert await ledger.next_attempt("run-1", "step-1") == 3
    assert await ledger.next_attempt("run-1", "new") == 1
    with pytest.raises(LedgerConflictError):
        await ledger.write_intent(
            Intent(run_id="run-1", step_id="step-2", node_id="n", tenant_id="acme", tool="refund")
        )


async def test_a_tenant_sees_nothing_of_another(ledger: ReplayLedger, record: MakeRecord, place: str | Path) -> None:
    await ledger.write(record(0, run_id="a", tenant_id="acme"))
    await ledger.write(record(0, run_id="b", tenant_id="bolt"))
    await ledger.write(record(1, run_id="a", tenant_id="bolt", cost_micro_usd=7))
    assert await ledger.list_runs(tenant="acme") == ["a"]
    assert await ledger.list_runs(tenant="bolt") == ["a", "b"]
    assert await ledger.list_runs(tenant="") == []
    assert [step["step_id"] for step in await ledger.get_run("a", tenant="bolt")] == ["step-1"]
    assert await ledger.get_run("b", tenant="acme") == []
    assert (await ledger.run_summary("a", tenant="bolt"))["total_cost_micro_usd"] == 7
    assert (await ledger.load_state("a", 0, tenant="bolt"))["step_id"] == "step-1"
    assert (await ledger.verify_chain("b", tenant="acme"))["state"] == "unknown"
    assert (await ledger.verify_chain("a", tenant="bolt"))["steps_verified"] == 1
    with pytest.raises(LedgerError, match="no run"):
        await ledger.close_run("b", tenant="acme")
    with pytest.raises(LedgerError, match="alone"):
        await ledger.close_run("a", tenant="acme")
    with pytest.raises(LedgerError, match="no run"):
        await ledger.erase_payloads("b", reason="r", authority="x", tenant="acme")
    async with ReplayLedger(place, tenant="acme") as scoped:
        assert await scoped.list_runs() == ["a"]
        with pytest.raises(LedgerError, match="alone"):
            await scoped.get_run("b", tenant="bolt")
        with pytest.raises(LedgerError, match="another tenant"):
            await scoped.write(record(2, tenant_id="bolt"))


async def test_a_closed_run_takes_only_erasures(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record())
    closed = await ledger.close_run("run-1")
    assert closed.seq == 1
    assert await ledger.close_run("run-1") == closed
    assert await ledger.write(record()) == await ledger.write(record())
    with pytest.raises(LedgerConflictError, match="closed"):
        await ledger.write(record(1))
    assert await ledger.erase_payloads("run-1", fields=["input"], reason="request", authority="dpo") == 1
    assert (await ledger.verify_chain("run-1"))["state"] == "closed"
    with pytest.raises(LedgerError, match="no run"):
        await ledger.close_run("run-2")


async def test_reading_makes_no_file(path: Path) -> None:
    async with ReplayLedger(path) as ledger:
        assert await ledger.list_runs() == []
        assert await ledger.get_run("r") == []
        assert not (await ledger.verify_chain("r"))["valid"]
    assert not path.exists()


async def test_an_unencodable_output_is_stored_as_a_typed_digest(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record(output={"image": b"\x89PNG", "score": math.nan}))
    (step,) = await ledger.get_run("run-1")
    assert step["output_content"]["image"]["meshflow:unencodable"]["length"] == 4
    assert step["output_content"]["score"]["meshflow:unencodable"]["value"] == "nan"
    assert (await ledger.verify_chain("run-1"))["valid"]


async def test_erased_payloads_leave_the_files(ledger: ReplayLedger, record: MakeRecord, path: Path) -> None:
    await ledger.write(record(input="a-very-recognisable-secret", output="another-recognisable-secret"))
    with pytest.raises(LedgerError, match="no erasable fields"):
        await ledger.erase_payloads("run-1", fields=["verdict"], reason="r", authority="a")
    assert await ledger.erase_payloads("run-1", reason="request 17", authority="dpo") >= 5
    assert await ledger.erase_payloads("run-1", reason="request 17", authority="dpo") == 0
    (step,) = await ledger.get_run("run-1")
    assert step["input_task"] is None
    assert step["erased"] == ["input", "metadata", "output", "principal", "results"]
    assert (await ledger.verify_chain("run-1"))["valid"]
    for file in path.parent.iterdir():
        assert b"recognisable" not in file.read_bytes()


@pytest.mark.parametrize("location", ["mysql://user:hunter2@host/db", "redis://x", ""])
def test_a_location_that_is_not_supported_is_refused_without_its_password(location: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ReplayLedger(location)
    assert "hunter2" not in str(caught.value)
    assert "SQLite" in str(caught.value)


async def test_a_ledger_in_memory_leaves_nothing_behind(record: MakeRecord) -> None:
    async with ReplayLedger(":memory:") as ledger:
        await ledger.write(record())
        assert await ledger.list_runs() == ["run-1"]
        folder = ledger.path.parent
    assert not folder.exists()


async def test_a_closed_ledger_refuses(ledger: ReplayLedger, record: MakeRecord) -> None:
    await ledger.write(record())
    await ledger.aclose()
    await ledger.aclose()
    with pytest.raises(LedgerError, match="closed"):
        await ledger.write(record(1))
    with pytest.raises(LedgerError, match="closed"):
        await ledger.get_run("run-1")


async def test_close_writes_out_what_was_handed_in(place: str | Path, record: MakeRecord) -> None:
    ledger = ReplayLedger(place)
    writes = [asyncio.ensure_future(ledger.write(record(number))) for number in range(100)]
    await asyncio.sleep(0)
    await ledger.aclose()
    assert all(written.seq == number for number, written in enumerate(await asyncio.gather(*writes)))


async def test_loops_in_several_threads_share_one_ledger(ledger: ReplayLedger, record: MakeRecord) -> None:
    async def some(base: int) -> None:
        await asyncio.gather(*(ledger.write(record(base + number)) for number in range(50)))
        assert len(await ledger.get_run("run-1")) >= 50

    threads = [threading.Thread(target=lambda base=base: asyncio.run(some(base))) for base in (0, 100, 200)]
    for thread in threads:
        thread.start()
    await some(300)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert (await ledger.verify_chain("run-1"))["steps_verified"] == 200


async def test_more_writers_than_the_queue_holds_all_get_through(place: str | Path, record: MakeRecord) -> None:
    async with ReplayLedger(place, queue_limit=3) as ledger:
        writes = [asyncio.ensure_future(ledger.write(record(number))) for number in range(60)]
        await asyncio.sleep(0)
        for number in range(10, 50, 2):
            writes[number].cancel()
        await asyncio.wait_for(asyncio.gather(*writes, return_exceptions=True), 20)
        assert (await ledger.verify_chain("run-1"))["steps_verified"] >= 40


async def test_the_minimal_record_is_accepted(ledger: ReplayLedger) -> None:
    written = await ledger.write(StepRecord(run_id="r", node_id="n"))
    assert written.step_id
    (step,) = await ledger.get_run("r")
    assert step["timestamp"] == "2023-11-14T22:13:20.000000Z"
    assert step["principal"] is None


async def test_of_many_attempts_at_once_those_that_are_another_s_are_refused(
    ledger: ReplayLedger, record: MakeRecord
) -> None:
    over, begun = range(0, 150, 3), range(1, 150, 3)
    await asyncio.gather(
        *(ledger.write(record(number, step_id=f"s{number}")) for number in over),
        *(ledger.write_intent(Intent(run_id="run-1", step_id=f"s{number}", node_id="n")) for number in begun),
    )
    intents = await asyncio.gather(
        *(ledger.write_intent(Intent(run_id="run-1", step_id=f"s{number}", node_id="n")) for number in over),
        return_exceptions=True,
    )
    refused = await asyncio.gather(
        *(ledger.write(record(number, step_id=f"s{number}", intended=False)) for number in range(150)),
        return_exceptions=True,
    )
    assert {type(outcome) for outcome in intents} == {LedgerConflictError}
    for number, outcome in enumerate(refused):
        # What is over is another record under the same key; what is begun is another's to end; the rest is free.
        assert isinstance(outcome, LedgerConflictError) is (number in over or number in begun), (number, outcome)
    assert (await ledger.verify_chain("run-1"))["valid"]
