"""Erasure across processes: killed in the middle, beside a reader, beside writers; and the spec's two lines."""

from __future__ import annotations

import asyncio
import logging
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from meshflow import ReplayLedger
from meshflow.record import StepRecord

STEPS = 40
NEEDLE = "a-very-recognisable-secret"

# Kills itself just before the nth statement of a kind that the erasure runs.
VICTIM = textwrap.dedent(
    """
    import asyncio, os, signal, sys
    from meshflow import ReplayLedger

    path, wanted, count = sys.argv[1], sys.argv[2], int(sys.argv[3])

    async def main():
        ledger = ReplayLedger(path)
        await ledger.open()
        seen = 0

        def look(statement):
            nonlocal seen
            if statement.lstrip().startswith(wanted):
                seen += 1
                if seen == count:
                    os.kill(os.getpid(), signal.SIGKILL)

        ledger._store._appender.open().set_trace_callback(look)
        await ledger.delete_run("run-1", reason="request", authority="dpo")

    asyncio.run(main())
    """
)


async def fill(path: Path) -> None:
    async with ReplayLedger(path) as ledger:
        await asyncio.gather(
            *(
                ledger.write(StepRecord(run_id="run-1", node_id="n", input=NEEDLE * 20, output=NEEDLE))
                for _ in range(STEPS)
            )
        )


@pytest.mark.parametrize(
    ("statement", "count", "gone"),
    [
        ("INSERT INTO entries", 1, False),
        ("DELETE FROM payloads", 1, False),
        ("DELETE FROM payloads", STEPS, False),
        ("COMMIT", 1, False),
        ("PRAGMA wal_checkpoint", 1, True),
    ],
)
async def test_an_erasure_that_is_killed_is_done_or_not_begun(
    tmp_path: Path, statement: str, count: int, gone: bool
) -> None:
    path = tmp_path / "runs.db"
    await fill(path)
    done = subprocess.run(
        [sys.executable, "-c", VICTIM, str(path), statement, str(count)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    async with ReplayLedger(path) as ledger:
        steps = await ledger.get_run("run-1")
        assert len(steps) == (0 if gone else STEPS)
        assert all(step["erased"] == [] for step in steps)
        assert (await ledger.verify_chain("run-1"))["errors"] == []
        assert await ledger.delete_run("run-1") == (0 if gone else 2 * STEPS)
        assert (await ledger.verify_chain("run-1"))["errors"] == []
        assert left(path) == []


def left(path: Path) -> list[str]:
    files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
    return [file.name for file in files if NEEDLE.encode() in file.read_bytes()]


async def test_a_reader_that_holds_the_log_delays_its_end_and_no_longer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshflow.ledger.sqlite.database._TRUNCATE_PATIENCE_S", 0.05)
    path = tmp_path / "runs.db"
    await fill(path)
    reader = sqlite3.connect(path, isolation_level=None)
    async with ReplayLedger(path) as ledger:
        await ledger.write(StepRecord(run_id="run-1", node_id="n", input=NEEDLE))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entries").fetchone()
        with caplog.at_level(logging.WARNING, "meshflow.ledger"):
            assert await ledger.delete_run("run-1") == 2 * STEPS + 1
        assert "write-ahead log" in caplog.text
        reader.execute("ROLLBACK")
        reader.close()
        assert await ledger.delete_run("run-1") == 0
        assert left(path) == []


async def test_the_two_lines_of_the_reference_run_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with ReplayLedger("meshflow_runs.db") as ledger:
        await ledger.write(StepRecord(run_id="run-id", node_id="n", input="a", output="b"))
        n = await ledger.delete_run("run-id")
        assert n == 2
        n = await ledger.anonymize_run("run-id")
        assert n == 0
