"""Promise 2: no side effect without an intent on disk, no outcome without its record."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pytest

from meshflow.errors import StepDeniedError

CALL = {"kind": "tool", "tool": "send_thing", "risk": "external_io"}
PAY = {"kind": "tool", "tool": "pay", "risk": "irreversible"}


def _lock(path: Any) -> sqlite3.Connection:
    held = sqlite3.connect(path, isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    return held


async def test_a_ledger_that_is_locked_before_the_intent_keeps_the_handler_from_running(
    open_desk: Callable[..., Any],
) -> None:
    desk = open_desk({"ledger": {"busy_timeout_ms": 50}})
    await desk.runtime.start()
    held = _lock(desk.path)
    outcome = await desk.run({}, **CALL)
    held.close()
    assert (outcome.status.value, outcome.recorded, outcome.output, desk.ran) == ("failed", False, None, [])
    assert (await desk.run({}, **CALL)).ok


async def test_a_ledger_that_is_locked_after_the_intent_withholds_the_output(open_desk: Callable[..., Any]) -> None:
    desk = open_desk({"ledger": {"busy_timeout_ms": 50}})
    await desk.runtime.start()
    held: list[sqlite3.Connection] = []

    async def handler(_: Any) -> str:
        held.append(_lock(desk.path))
        return "secret of the world"

    outcome = await desk.run({}, step_id="s", handler=handler, **CALL)
    held[0].close()
    assert (outcome.code, outcome.recorded, outcome.output) == ("audit_ledger.record_failed", False, None)
    with pytest.raises(StepDeniedError):
        outcome.unwrap()
    # The step that may have run is not forgotten.
    assert [one["step_id"] for one in await desk.ledger.unfinished("run-1")] == ["s"]


@pytest.mark.parametrize("way", ["deleted", "moved", "replaced"])
async def test_a_ledger_that_is_taken_away_stops_steps_with_effects(open_desk: Callable[..., Any], way: str) -> None:
    desk = open_desk()
    assert (await desk.run({}, **CALL)).ok
    desk.ran.clear()
    files = [path for path in desk.path.parent.iterdir() if path.name.startswith("ledger.db")]
    for path in files:
        if way == "deleted":
            path.unlink()
        else:
            path.rename(path.with_name(f"old-{path.name}"))
    if way == "replaced":
        (desk.path.parent / "old-ledger.db").with_name("ledger.db").write_bytes(b"")
    # What goes into a file that no path leads to any more is not on record.
    outcome = await desk.run({}, **CALL)
    assert (outcome.ok, outcome.recorded, desk.ran) == (False, False, [])


@pytest.mark.parametrize("when", ["before", "between"])
async def test_a_full_disk_fails_closed_on_both_sides_of_the_handler(open_desk: Callable[..., Any], when: str) -> None:
    desk = open_desk()
    assert (await desk.run()).ok
    desk.ran.clear()
    writer = desk.ledger._store._appender.open()

    def fill() -> None:
        pages = writer.execute("PRAGMA page_count").fetchone()[0]
        writer.execute(f"PRAGMA max_page_count = {pages}")

    if when == "before":
        fill()

    async def handler(_: Any) -> str:
        desk.ran.append(1)
        if when == "between":
            fill()
        return "x" * 100_000

    outcome = await desk.run({"text": "y" * 100_000}, handler=handler, step_id="s", **CALL)
    assert (outcome.ok, outcome.recorded, outcome.output) == (False, False, None)
    assert desk.ran == ([] if when == "before" else [1])
    writer.execute("PRAGMA max_page_count = 1073741823")
    assert (await desk.run({}, **CALL)).ok
    assert (await desk.ledger.verify_chain("run-1"))["valid"]
    assert len(await desk.ledger.unfinished("run-1")) == (0 if when == "before" else 1)


@pytest.mark.parametrize(
    "fields",
    [
        {"run_id": "\ud800"}, {"step_id": "\ud800"}, {"node_id": "\ud800"}, {"tool": "\ud800"}, {"run_id": 5},
        {"step_id": 5}, {"attempt": 2**80}, {"action": "\ud800"},
    ],
    ids=str,
)  # fmt: skip
async def test_a_step_whose_name_no_ledger_can_hold_never_runs(
    open_desk: Callable[..., Any], kernel_log: list[str], fields: dict[str, Any]
) -> None:
    desk = open_desk()
    try:
        outcome = await desk.run({}, **{**CALL, **fields})
    except ValueError:
        pass  # refused when it was made
    else:
        assert (outcome.ok, outcome.output) == (False, None)
    assert desk.ran == []


@pytest.mark.parametrize("name", ["a\nb\r\x00\x1b[31m[red]", "../../etc", "x" * 1_000_000, "\u202e", "'; DROP TABLE"])
async def test_a_hostile_name_is_kept_letter_by_letter(open_desk: Callable[..., Any], name: str) -> None:
    desk = open_desk()
    fields = {"run_id": name, "step_id": name, "node_id": name, "kind": "tool", "tool": name, "risk": "internal"}
    assert (await desk.run({}, **fields)).recorded
    [step] = await desk.ledger.get_run(name)
    assert (step["run_id"], step["step_id"], step["node_id"], step["tool"]) == (name,) * 4
    assert (await desk.ledger.verify_chain(name))["valid"]


async def test_two_steps_under_one_key_run_at_most_once_where_they_have_effects(open_desk: Callable[..., Any]) -> None:
    desk = open_desk()

    async def slow(_: Any) -> str:
        desk.ran.append(1)
        await asyncio.sleep(0.01)
        return "done"

    outcomes = await asyncio.gather(*(desk.run({}, step_id="same", handler=slow, **CALL) for _ in range(20)))
    assert len(desk.ran) == 1
    assert sum(outcome.ok for outcome in outcomes) <= 1
    assert all(outcome.output is None for outcome in outcomes if not outcome.ok)


async def test_a_retry_under_the_number_of_a_denied_attempt_does_not_run(open_desk: Callable[..., Any]) -> None:
    desk = open_desk()
    assert not (await desk.run({}, step_id="s", estimate_usd="nonsense", **CALL)).ok
    outcome = await desk.run({}, step_id="s", **CALL)
    assert (outcome.ok, desk.ran) == (False, [])


@pytest.mark.parametrize("attempts", [(None, None, None), (None, 3, 4), (7, 8, 9)])
async def test_one_approval_is_good_for_one_run(
    open_desk: Callable[..., Any], attempts: tuple[int | None, ...]
) -> None:
    desk = open_desk({"tools": {"approval_from": "irreversible"}})
    paused = await desk.run({"to": "x"}, step_id="s", **PAY)
    assert paused.approval_id is not None
    await desk.ledger.decide_approval(paused.approval_id, approve=True, approver="boss")
    for attempt in attempts:
        again = {"attempt": attempt} if attempt is not None else {}
        await desk.run({"to": "x"}, step_id="s", resume=True, **again, **PAY)
    assert len(desk.ran) == 1


async def test_a_resumed_step_that_was_refused_for_a_while_can_be_resumed_again(
    open_desk: Callable[..., Any],
) -> None:
    rates = [{"name": "r", "per": ["agent"], "match": {"tool": ["other"]}, "rate": "1/1h"}]
    caps = [{"name": "c", "per": ["global"], "usd": "1.00"}]
    desk = open_desk({"tools": {"approval_from": "irreversible"}, "limits": {"rates": rates, "caps": caps}})
    paused = await desk.run({"to": "x"}, step_id="s", **PAY)
    await desk.ledger.decide_approval(paused.approval_id, approve=True, approver="boss")
    refused = await desk.run({"to": "x"}, step_id="s", resume=True, estimate_usd="5.00", **PAY)
    assert refused.code == "budget_check.exhausted"
    again = await desk.run({"to": "x"}, step_id="s", resume=True, **PAY)
    assert (again.ok, len(desk.ran)) == (True, 1), again.code


@pytest.mark.parametrize("ending", ["break", "raise", "cancel", "end"])
async def test_what_a_stream_released_is_recorded_however_it_ends(open_desk: Callable[..., Any], ending: str) -> None:
    desk = open_desk()
    released: list[str] = []

    async def chunks(_: Any) -> AsyncIterator[str]:
        for number in range(400):
            yield f"word {number} "
            await asyncio.sleep(0)
        if ending == "raise":
            raise RuntimeError("gone")

    async def read() -> None:
        async with desk.runtime.stream(desk.step({}, handler=chunks, **CALL)) as stream:
            async for part in stream:
                released.append(part)
                if ending == "break":
                    break
                if ending == "cancel":
                    await asyncio.sleep(60)

    task = asyncio.create_task(read())
    if ending == "cancel":
        while not released:
            await asyncio.sleep(0.01)
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    [step] = await desk.ledger.get_run("run-1")
    assert step["verdict"] == ("commit" if ending == "end" else "error")
    assert step["output_content"] == "".join(released)


async def test_metadata_that_cannot_be_read_does_not_lose_the_record(open_desk: Callable[..., Any]) -> None:
    class Broken(Mapping[str, Any]):
        reads = 0

        def __getitem__(self, key: str) -> Any:
            return 1

        def __iter__(self) -> Iterator[str]:
            # The gates can read it; whoever comes after the handler cannot.
            if desk.ran:
                raise RuntimeError("gone")
            return iter(("k",))

        def __len__(self) -> int:
            return 1

    desk = open_desk()
    outcome = await desk.run({}, metadata=Broken(), **CALL)
    assert len(desk.ran) == len(await desk.ledger.get_run("run-1")) == 1
    assert outcome.recorded


@pytest.mark.parametrize("hostile", ["length", "class", "base"])
async def test_an_output_that_fights_back_does_not_lose_the_record(open_desk: Callable[..., Any], hostile: str) -> None:
    class FatalError(BaseException):
        pass

    class NoLength(list[Any]):
        def __len__(self) -> int:
            raise RuntimeError("no length")

    class NoClass:
        @property
        def __class__(self) -> Any:  # type: ignore[override]
            raise RuntimeError("no class")

    class Base(dict[str, Any]):
        def __len__(self) -> int:
            raise FatalError

        __bool__ = __iter__ = keys = items = values = __len__  # type: ignore[assignment]

    output = {"length": NoLength, "class": NoClass, "base": Base}[hostile]()
    desk = open_desk()
    outcome = await desk.run({}, handler=lambda _: output, **CALL)
    assert len(await desk.ledger.get_run("run-1")) == 1
    assert outcome.recorded
