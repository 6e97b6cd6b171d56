"""The files of SQLite's write-ahead log, deleted or replaced under a ledger that is open."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger

WRITER = """
import asyncio, json, sys
from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger

async def main():
    async with ReplayLedger(sys.argv[1]) as ledger:
        for number in range(10_000):
            try:
                await ledger.write({"run_id": sys.argv[2], "node_id": "n", "step_id": f"s{number}"})
            except LedgerError as error:
                print(json.dumps({"error": str(error)}), flush=True)
                return
            print(json.dumps({"written": number}), flush=True)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


async def write(ledger: ReplayLedger, count: int, start: int = 0) -> None:
    for number in range(start, start + count):
        await ledger.write({"run_id": "r", "node_id": "n", "step_id": f"s{number}"})


@pytest.mark.parametrize("parts", [("-wal",), ("-wal", "-shm")], ids=["wal", "wal and shm"])
async def test_a_deleted_write_ahead_log_is_noticed_and_nothing_acknowledged_is_lost(
    path: Path, parts: tuple[str, ...]
) -> None:
    async with ReplayLedger(path) as ledger:
        await write(ledger, 50)
        assert len(await ledger.get_run("r")) == 50
        for part in parts:
            Path(f"{path}{part}").unlink()
        for _ in range(2):
            with pytest.raises(LedgerError, match=r"runs\.db-wal.* has been deleted.*has been saved from it"):
                await write(ledger, 1, 50)
    async with ReplayLedger(path) as again:
        assert [step["step_id"] for step in await again.get_run("r")] == [f"s{number}" for number in range(50)]
        await write(again, 1, 50)
        result = await again.verify_ledger()
        assert (result["valid"], result["entries"]) == (True, 51)


async def test_a_deleted_index_of_the_log_is_noticed(path: Path) -> None:
    async with ReplayLedger(path) as ledger:
        await write(ledger, 5)
        Path(f"{path}-shm").unlink()
        with pytest.raises(LedgerError, match=r"runs\.db-shm has been deleted"):
            await write(ledger, 1, 5)
    async with ReplayLedger(path) as again:
        assert len(await again.get_run("r")) == 5
        assert (await again.verify_ledger())["valid"]


async def test_a_replaced_write_ahead_log_is_noticed_and_left_alone(path: Path) -> None:
    async with ReplayLedger(path) as ledger:
        await write(ledger, 5)
        shutil.copy(f"{path}-wal", f"{path}-wal.copy")
        before = Path(f"{path}-wal").read_bytes()
        Path(f"{path}-wal.copy").replace(f"{path}-wal")
        with pytest.raises(LedgerError, match="keep the files as they are"):
            await write(ledger, 1, 5)
        assert Path(f"{path}-wal").read_bytes() == before


async def test_the_file_itself_replaced_is_still_told_apart(path: Path, tmp_path: Path) -> None:
    async with ReplayLedger(path) as ledger:
        await write(ledger, 1)
        shutil.copy(path, tmp_path / "copy")
        (tmp_path / "copy").replace(path)
        with pytest.raises(LedgerError, match="put it back and open the ledger again"):
            await write(ledger, 1, 1)


async def test_a_log_that_sqlite_empties_itself_is_no_alarm(path: Path) -> None:
    async with ReplayLedger(path) as ledger, ReplayLedger(path) as other:
        await write(ledger, 20)
        await ledger.erase_payloads("r", fields=["input"], reason="request", authority="dpo")
        await ledger.write({"run_id": "p", "node_id": "n", "input_task": "x"})
        await ledger.anonymize_run("p", reason="request", authority="dpo")  # empties the log
        await write(ledger, 5, 20)
        await other.write({"run_id": "q", "node_id": "n"})
        await other.aclose()
        await write(ledger, 5, 25)
        assert (await ledger.verify_ledger())["valid"]


@pytest.mark.slow
def test_no_record_that_several_processes_had_acknowledged_is_lost_with_the_log(path: Path) -> None:
    async def make() -> None:
        async with ReplayLedger(path) as ledger:
            await ledger.open()

    asyncio.run(make())
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), f"run-{n}"], stdout=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    said: list[list[dict[str, object]]] = [[], [], []]
    for writer, lines in zip(writers, said, strict=True):
        assert writer.stdout is not None
        lines.extend(json.loads(writer.stdout.readline()) for _ in range(20))
    Path(f"{path}-wal").unlink()
    for writer, lines in zip(writers, said, strict=True):
        assert writer.stdout is not None
        lines.extend(map(json.loads, writer.stdout))
        writer.wait(60)
        writer.stdout.close()
    assert all("error" in lines[-1] for lines in said)

    async def look() -> None:
        async with ReplayLedger(path) as ledger:
            for number, lines in enumerate(said):
                acknowledged = sum("written" in line for line in lines)
                assert len(await ledger.get_run(f"run-{number}")) >= acknowledged
            result = await ledger.verify_ledger()
            assert (result["valid"], result["errors"]) == (True, [])

    asyncio.run(look())
