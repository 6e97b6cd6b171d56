"""A reader who goes away while its connection is being opened leaves none behind."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshflow import NodeInput, ReplayLedger, StepRuntime
from meshflow.ledger.sqlite import database
from meshflow.ledger.sqlite.opening import Opening

READS: dict[str, Callable[[ReplayLedger], Any]] = {
    "in the reader's thread": lambda ledger: ledger.get_run("run-1"),
    "in a thread of its own": lambda ledger: ledger.verify_chain("run-1"),
}


def closed(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


@pytest.mark.parametrize("read", READS)
async def test_connection_that_nobody_waits_for_any_more_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    path = tmp_path / "runs.db"
    async with ReplayLedger(path) as ledger, StepRuntime(ledger=ledger) as runtime:
        await runtime.run(NodeInput(node_id="a", input=1, handler=str, run_id="run-1"))
    made: list[sqlite3.Connection] = []
    opening, go_on, opened = threading.Event(), threading.Event(), database.open_reader

    def slow(*arguments: Any) -> sqlite3.Connection:
        opening.set()
        assert go_on.wait(30)
        made.append(opened(*arguments))
        return made[-1]

    monkeypatch.setattr(database, "open_reader", slow)
    async with ReplayLedger(path) as ledger:
        reading = asyncio.ensure_future(READS[read](ledger))
        assert await asyncio.to_thread(opening.wait, 30)
        reading.cancel()
        await asyncio.sleep(0)
        go_on.set()
        assert isinstance((await asyncio.gather(reading, return_exceptions=True))[0], asyncio.CancelledError)
        for _ in range(500):
            if made and closed(made[0]):
                break
            await asyncio.sleep(0.01)
        assert [closed(one) for one in made] == [True]
        assert len(await ledger.get_run("run-1")) == 1


def test_what_is_open_when_it_is_given_up_is_closed_at_once() -> None:
    opening = Opening(lambda: sqlite3.connect(":memory:"))
    made = opening()
    assert not closed(made)
    opening.give_up()
    assert closed(made)
