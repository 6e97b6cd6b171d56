from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from meshflow import ReplayLedger
from meshflow.clock import ManualClock
from meshflow.errors import EncodingError, LedgerError
from meshflow.ledger.sql import history
from meshflow.record import StepRecord, Verdict

MakeRecord = Callable[..., StepRecord]
START = 1_700_000_000


@pytest.fixture
async def runs(ledger: ReplayLedger, record: MakeRecord) -> ReplayLedger:
    denied = {"verdict": Verdict.REJECT, "code": "budget_check.exhausted"}
    await ledger.write(record(0, run_id="first", node_id="plan", tool="search"))
    await ledger.write(record(1, run_id="second", node_id="plan", started_us=(START + 100) * 1_000_000, **denied))
    await ledger.write(record(2, run_id="third", node_id="act", started_us=(START + 200) * 1_000_000, tool='a"b\u00e9'))
    await ledger.write(record(3, run_id="third", node_id="theirs", tenant_id="globex", tool="pay", **denied))
    return ledger


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({}, ["third", "second", "first"]),
        ({"verdict": "reject"}, ["third", "second"]),
        ({"verdict": "reject", "tenant": "acme"}, ["second"]),
        ({"verdict": "escalate"}, []),
        ({"node": "plan"}, ["second", "first"]),
        ({"node": "theirs"}, ["third"]),
        ({"node": "theirs", "tenant": "acme"}, []),
        ({"tool": "search"}, ["first"]),
        ({"tool": 'a"b\u00e9'}, ["third"]),
        ({"tool": "a"}, []),
        ({"tool": "pay", "tenant": "acme"}, []),
        ({"tool": "pay", "tenant": "globex"}, ["third"]),
        ({"since": START + 50, "tenant": "acme"}, ["third", "second"]),
        ({"until": START + 100, "tenant": "acme"}, ["first"]),
        ({"since": START + 100, "until": START + 101, "tenant": "acme"}, ["second"]),
        ({"since": "2023-11-14T22:14:00Z", "tenant": "acme"}, ["third", "second"]),
        ({"since": datetime(2023, 11, 14, 22, 14, tzinfo=UTC), "tenant": "acme"}, ["third", "second"]),
        ({"node": "plan", "limit": 1}, ["second"]),
        ({"node": "plan", "limit": 1, "offset": 1}, ["first"]),
        ({"node": "plan", "before": "second"}, ["first"]),
        ({"node": "plan", "verdict": "commit"}, ["first"]),
    ],
)
async def test_runs_are_found_by_what_is_in_them(
    runs: ReplayLedger, where: dict[str, object], found: list[str]
) -> None:
    assert await runs.list_runs(**where) == found  # type: ignore[arg-type]


async def test_filters_that_make_no_sense_are_refused(runs: ReplayLedger) -> None:
    with pytest.raises(LedgerError, match="choose one of"):
        await runs.list_runs(verdict="denied")
    with pytest.raises(EncodingError, match="since"):
        await runs.list_runs(since="yesterday")
    with pytest.raises(EncodingError, match="until"):
        await runs.list_runs(until=datetime(2023, 11, 14))
    with pytest.raises(LedgerError, match="not negative"):
        await runs.list_runs(node="plan", limit=-1)


async def test_a_ledger_that_is_not_there_has_nothing(tmp_path: Path) -> None:
    async with ReplayLedger(tmp_path / "nowhere.db") as ledger:
        assert await ledger.list_runs(node="plan") == []
        assert await ledger.get_run("x") == []
        with pytest.raises(LedgerError, match="no run"):
            await ledger.diff("a", "b")
        with pytest.raises(LedgerError, match="no run"):
            await ledger.export_run("a")
    assert not (tmp_path / "nowhere.db").exists()


async def test_a_closed_ledger_answers_nothing_more(runs: ReplayLedger) -> None:
    await runs.aclose()
    with pytest.raises(LedgerError, match="closed"):
        await runs.list_runs(node="plan")
    with pytest.raises(LedgerError, match="closed"):
        await runs.diff("first", "second")
    with pytest.raises(LedgerError, match="closed"):
        await runs.export_run("first")


async def test_no_read_of_a_whole_run_looks_behind_each_entry(runs: ReplayLedger, path: Path) -> None:
    with sqlite3.connect(path) as connection:
        for sql in (
            history._OUTLINE,
            history._OUTPUTS.replace("?", ":run") % ":indexes",
            history._HISTORY,
            history._SPENDING,
        ):
            names = ("run", "start", "stop", "tenant", "indexes", "after")
            plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", dict.fromkeys(names, 1)).fetchall()
            text = "\n".join(row[3] for row in plan)
            assert "SCAN e" not in text, text
            assert "seq>?" not in text, text
            assert "TEMP B-TREE" not in text, text
    connection.close()


async def test_a_page_further_on_costs_no_more(place: str | Path, record: MakeRecord, clock: ManualClock) -> None:
    async with ReplayLedger(place, clock=clock, key=None) as ledger:
        await asyncio.gather(*(ledger.write(record(number)) for number in range(4_000)))
        spent = []
        for count in (1_000, 4_000):
            began = time.process_time()
            steps = ledger.iter_run("run-1")
            for _ in range(count):
                await anext(steps)
            spent.append(time.process_time() - began)
    assert spent[1] < 12 * spent[0]
