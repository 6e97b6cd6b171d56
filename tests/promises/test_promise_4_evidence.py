"""Promise 4: what a real run left behind verifies, and any one change to it is found."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meshflow import ReplayLedger
from meshflow.step import Metered

PAY = {"kind": "tool", "tool": "pay", "risk": "irreversible"}


async def _history(desk: Any) -> None:
    """Leave every kind of entry behind: done, denied, failed, paused, approved, resumed, erased, closed."""
    for run in ("run-1", "run-2"):
        assert (await desk.run({"text": "hello"}, run_id=run, handler=lambda _: Metered("fine", "0.01", 7))).ok
        await desk.run(run_id=run, estimate_usd="nonsense")
        await desk.run(run_id=run, handler=lambda _: 1 / 0)
        paused = await desk.run({"to": "x"}, run_id=run, step_id="pay", **PAY)
        await desk.ledger.decide_approval(paused.approval_id, approve=True, approver="boss", reason="fine")
        assert (await desk.run({"to": "x"}, run_id=run, step_id="pay", resume=True, **PAY)).ok
    await desk.ledger.erase_payloads("run-2", fields=["output"], reason="asked for", authority="dpo")
    await desk.ledger.close_run("run-2")


async def _valid(path: Path) -> bool:
    async with ReplayLedger(path) as ledger:
        reports = [await ledger.verify_chain(run) for run in ("run-1", "run-2")]
    return all(report["valid"] and not report["errors"] for report in reports)


@pytest.fixture
async def left(open_desk: Callable[..., Any]) -> Path:
    """Return the ledger of a history, closed."""
    desk = open_desk({"tools": {"approval_from": "irreversible"}})
    await _history(desk)
    await desk.runtime.aclose()
    assert await _valid(desk.path)
    return desk.path


def _cells(path: Path, tables: tuple[str, ...]) -> list[tuple[str, int, str, Any]]:
    with closing(sqlite3.connect(path)) as db:
        return [
            (table, row[0], column[1], value)
            for table in tables
            for column in db.execute(f"PRAGMA table_info({table})").fetchall()
            for row in db.execute(f"SELECT rowid, {column[1]} FROM {table}").fetchall()
            for value in (row[1],)
            if column[1] != "id"
        ]


def _other(value: Any) -> Any:
    if value is None:
        return "x"
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1, *value[1:]]) if value else b"x"
    return value + 1_000_003 if isinstance(value, int) else f"{value}x"


def _copy(path: Path, number: int) -> Path:
    folder = path.parent / f"copy-{number}"
    shutil.copytree(path.parent, folder, ignore=shutil.ignore_patterns("copy-*"))
    copy = folder / path.name
    with closing(sqlite3.connect(copy)) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
    return copy


async def test_any_one_cell_that_is_changed_is_found(left: Path) -> None:
    cells = _cells(left, ("entries", "payloads"))
    missed = []
    for number, (table, rowid, column, value) in enumerate(random.Random(4).sample(cells, 60)):
        copy = _copy(left, number)
        with closing(sqlite3.connect(copy)) as db:
            db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (_other(value), rowid))
            db.commit()
        try:
            found = not await _valid(copy)
        except Exception:  # a ledger that cannot be read any more is found out too
            found = True
        if not found:
            missed.append((table, rowid, column))
    assert missed == []


@pytest.mark.parametrize("table", ["entries", "payloads"])
async def test_any_row_that_is_missing_is_found(left: Path, table: str) -> None:
    with closing(sqlite3.connect(left)) as db:
        rows = [row[0] for row in db.execute(f"SELECT rowid FROM {table}").fetchall()]
    for number, rowid in enumerate(random.Random(5).sample(rows, min(15, len(rows)))):
        copy = _copy(left, number)
        with closing(sqlite3.connect(copy)) as db:
            db.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))
            db.commit()
        assert not await _valid(copy), rowid


async def test_many_runtimes_on_one_file_leave_a_history_that_verifies(open_desk: Callable[..., Any]) -> None:
    desks = [open_desk() for _ in range(3)]
    await asyncio.gather(*(desk.run(run_id="shared") for desk in desks for _ in range(20)))
    report = await desks[0].ledger.verify_chain("shared")
    assert (report["valid"], report["steps_verified"]) == (True, 60)


async def test_an_unknown_run_is_never_valid(open_desk: Callable[..., Any]) -> None:
    desk = open_desk()
    assert (await desk.run()).ok
    for name in ("", "run-2", "RUN-1", "run-1 ", "%", "run_1"):
        assert not (await desk.ledger.verify_chain(name))["valid"]
