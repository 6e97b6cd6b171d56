"""What disks, locks and clocks do to a ledger: a clear error, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from meshflow.clock import ManualClock
from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.record import StepRecord


def a_step(number: int, size: int = 100, run_id: str = "r") -> StepRecord:
    return StepRecord(run_id=run_id, node_id="n", step_id=f"s{number}", input="x" * size, started_us=number + 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


async def longest_block(work: asyncio.Future[object], *, busy: bool = False) -> float:
    """Return the longest time, in seconds, for which the loop did not turn while the work was under way.

    With ``busy``, a turn counts for no more than the processor time that the process used meanwhile: what holds the
    loop up by computing uses at least that much, and a machine that others keep busy does not count.
    """
    worst, last, used = 0.0, time.perf_counter(), time.process_time()
    while not work.done():
        await asyncio.sleep(0.001)
        now, spent = time.perf_counter(), time.process_time()
        worst = max(worst, min(now - last - 0.001, spent - used) if busy else now - last - 0.001)
        last, used = now, spent
    return worst


async def quietest(path: Path, work: object, *, busy: bool = False) -> float:
    """Return the least of up to eight measurements, since the machine itself stalls a loop now and then."""
    worst = []
    for number in range(8):
        async with ReplayLedger(path.with_suffix(f".{number}.db")) as ledger:
            task = asyncio.ensure_future(work(ledger))  # type: ignore[operator]
            worst.append(await longest_block(task, busy=busy))
            await task
        if worst[-1] < 0.05:
            break
    return min(worst)


def test_the_measure_finds_a_loop_that_is_held_up_by_computing() -> None:
    def hold(seconds: float) -> None:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    async def work() -> None:
        await asyncio.sleep(0.005)
        hold(0.06)

    async def measured() -> float:
        return await longest_block(asyncio.ensure_future(work()), busy=True)

    assert asyncio.run(measured()) >= 0.05


async def test_a_full_disk_fails_the_batch_and_keeps_what_was_acknowledged(path: Path) -> None:
    async with ReplayLedger(path) as ledger:
        await ledger.open()
        connection = ledger._store._appender.open()  # type: ignore[attr-defined]
        connection.execute("PRAGMA max_page_count = 60")
        acknowledged, errors = [], []
        for number in range(200):
            try:
                acknowledged.append(await ledger.write(a_step(number, 8_000)))
            except LedgerError as error:
                errors.append(str(error))
        assert acknowledged
        assert errors
        assert all("full" in error for error in errors)
        assert [step["step_id"] for step in await ledger.get_run("r")] == [written.step_id for written in acknowledged]
        connection.execute("PRAGMA max_page_count = 10000")
        await ledger.write(a_step(1_000))
        assert (await ledger.verify_chain("r"))["valid"]


async def test_a_failing_commit_fails_all_of_its_batch(path: Path) -> None:
    async with ReplayLedger(path) as ledger:
        await ledger.open()
        ledger._store._appender.open().execute("PRAGMA max_page_count = 30")  # type: ignore[attr-defined]
        outcomes = await asyncio.gather(*(ledger.write(a_step(n, 8_000)) for n in range(100)), return_exceptions=True)
        kept = {step["step_id"] for step in await ledger.get_run("r")}
        assert kept == {f"s{n}" for n, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)}
        assert any(isinstance(outcome, LedgerError) for outcome in outcomes)
        assert (await ledger.verify_chain("r"))["valid"] is bool(kept)


async def test_a_read_only_file_reads_and_refuses_to_write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.db"
        async with ReplayLedger(path) as ledger:
            await ledger.write(a_step(0))
        path.chmod(0o444)
        path.parent.chmod(0o555)
        script = (
            "import asyncio, sys\nfrom meshflow.ledger import ReplayLedger\nfrom meshflow.errors import LedgerError\n"
            "async def main():\n    async with ReplayLedger(sys.argv[1]) as ledger:\n"
            "        print(len(await ledger.get_run('r')), (await ledger.verify_chain('r'))['valid'])\n"
            "        try:\n            await ledger.write({'run_id': 'r', 'node_id': 'n'})\n"
            "        except LedgerError as error:\n            print(error)\n"
            "asyncio.run(main())\n"
        )
        if os.geteuid() == 0:
            # Root may write anything; only another user meets the permissions.
            # A first round imports all there is to import, from folders that the other user may not read.
            warm = (
                "async def warm():\n    async with ReplayLedger(':memory:') as ledger:\n"
                "        await ledger.write({'run_id': 'r', 'node_id': 'n'})\n"
                "        await ledger.get_run('r'); await ledger.verify_chain('r')\nasyncio.run(warm())\n"
            )
            drop = "import os\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            script = script.replace("asyncio.run", warm + drop + "asyncio.run")
        done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)
        assert done.stdout.startswith("1 True\n"), done.stderr
        assert "read-only" in done.stdout
        path.parent.chmod(0o755)


async def test_a_lock_held_too_long_is_an_error_and_the_loop_turns_meanwhile(path: Path) -> None:
    async with ReplayLedger(path, busy_timeout_ms=300) as ledger:
        await ledger.write(a_step(0))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        blocked = []
        while len(blocked) < 8 and min(blocked, default=1.0) >= 0.05:  # the machine itself stalls a loop now and then
            write = asyncio.ensure_future(ledger.write(a_step(1)))
            blocked.append(await longest_block(write))
            with pytest.raises(LedgerError, match="another process kept the file locked"):
                await write
        assert min(blocked) < 0.05
        other.execute("ROLLBACK")
        other.close()
        assert (await ledger.write(a_step(1))).seq == 1


async def test_a_lock_held_a_while_is_waited_for(path: Path) -> None:
    async with ReplayLedger(path, busy_timeout_ms=10_000) as ledger:
        await ledger.write(a_step(0))
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
        timer.start()
        assert (await ledger.write(a_step(1))).seq == 1
        timer.join()
        other.close()


@pytest.mark.parametrize("content", [b"not a database at all, but long enough to be looked at" * 40, b"MZ"])
async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    async with ReplayLedger(path) as ledger:
        with pytest.raises(LedgerError, match="not a database"):
            await ledger.write(a_step(0))
        with pytest.raises(LedgerError, match="not a database"):
            await ledger.get_run("r")
    assert path.read_bytes() == content


async def test_another_applications_database_is_refused_and_left_alone(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE things (a)")
    db.commit()
    db.close()
    async with ReplayLedger(path) as ledger:
        with pytest.raises(LedgerError, match="not a meshflow ledger"):
            await ledger.write(a_step(0))
        with pytest.raises(LedgerError, match="not a meshflow ledger"):
            await ledger.list_runs()


async def test_a_newer_schema_is_refused(path: Path) -> None:
    async with ReplayLedger(path) as ledger:
        await ledger.write(a_step(0))
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 999")
    db.close()
    async with ReplayLedger(path) as ledger:
        for call in (ledger.write(a_step(1)), ledger.get_run("r"), ledger.verify_chain("r")):
            with pytest.raises(LedgerError, match="upgrade meshflow"):
                await call


async def test_a_damaged_page_is_an_error_and_not_an_empty_run(path: Path) -> None:
    async with ReplayLedger(path) as ledger:
        await asyncio.gather(*(ledger.write(a_step(number, 2_000)) for number in range(100)))
    data = bytearray(path.read_bytes())
    data[8_192 : len(data) // 2] = os.urandom(len(data) // 2 - 8_192)
    path.write_bytes(data)
    async with ReplayLedger(path) as ledger:
        with pytest.raises(LedgerError):
            await ledger.get_run("r")
        try:
            valid = (await ledger.verify_chain("r"))["valid"]
        except LedgerError:
            valid = False
        assert not valid


async def test_a_clock_that_steps_back_changes_neither_order_nor_proof(path: Path) -> None:
    clock = ManualClock()
    async with ReplayLedger(path, clock=clock) as ledger:
        for number in range(10):
            clock.set_wall(2_000_000_000_000_000 - number * 3_600_000_000)
            await ledger.write({"run_id": "r", "node_id": "n", "step_id": f"s{number}"})
        await ledger.close_run("r")
        assert [step["step_id"] for step in await ledger.get_run("r")] == [f"s{number}" for number in range(10)]
        assert (await ledger.verify_chain("r"))["valid"]


async def test_a_payload_of_10_mb_never_blocks_the_loop(path: Path) -> None:
    text = "word " * 100_000
    value = {"documents": [{"text": text, "score": 0.5, "none": None} for _ in range(20)], "raw": None}

    async def work(ledger: ReplayLedger) -> None:
        await ledger.write(StepRecord(run_id="r", node_id="n", step_id="s", input=value))

    assert await quietest(path, work, busy=True) < 0.05
    async with ReplayLedger(path.with_suffix(".0.db")) as ledger:
        (step,) = await ledger.get_run("r")
        assert step["input_task"] == value
        assert (await ledger.verify_chain("r"))["valid"]


async def test_many_writers_never_block_the_loop(path: Path) -> None:
    async def work(ledger: ReplayLedger) -> None:
        async def writer(base: int) -> None:
            for number in range(20):
                await ledger.write(a_step(base * 100 + number, 1_000, run_id=f"r{base}"))

        await asyncio.gather(*(writer(base) for base in range(64)))

    assert await quietest(path, work) < 0.05


async def test_a_million_nulls_with_a_nan_among_them_never_block_the_loop(path: Path) -> None:
    value = [[None, 1.0] for _ in range(300_000)] + [[float("nan")]]

    async def work(ledger: ReplayLedger) -> None:
        await ledger.write(StepRecord(run_id="r", node_id="n", step_id="s", input=value))

    assert await quietest(path, work, busy=True) < 0.05


async def test_a_long_text_that_is_no_unicode_never_blocks_the_loop(path: Path) -> None:
    async def work(ledger: ReplayLedger) -> None:
        await ledger.write(StepRecord(run_id="r", node_id="n", step_id="s", input={"a": "x" * 20_000_000 + "\ud800"}))

    assert await quietest(path, work, busy=True) < 0.05


def test_a_forgotten_close_does_not_hang_the_process(path: Path) -> None:
    script = (
        "import asyncio, sys\nfrom meshflow.ledger import ReplayLedger\n"
        "ledger = ReplayLedger(sys.argv[1])\n"
        "async def main():\n    await ledger.write({'run_id': 'r', 'node_id': 'n'})\n"
        "    print(len(await ledger.get_run('r')))\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_after_a_fork_is_refused_and_a_ledger_of_its_own_works(path: Path) -> None:
    script = (
        "import asyncio, os, sys\nfrom meshflow.ledger import ReplayLedger\nfrom meshflow.errors import LedgerError\n"
        "step = {'run_id': 'r', 'node_id': 'n'}\n"
        "async def use(ledger):\n    await ledger.write(step)\n"
        "ledger = ReplayLedger(sys.argv[1])\nasyncio.run(use(ledger))\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    try:\n        asyncio.run(use(ledger))\n"
        "    except LedgerError as error:\n        print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.waitpid(pid, 0)\nasyncio.run(use(ledger))\nprint(len(asyncio.run(ledger.get_run('r'))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(path)], capture_output=True, text=True, timeout=30
    )
    assert "before a fork" in done.stdout, done.stderr
    assert done.stdout.endswith("2\n"), done.stderr


async def test_a_cancelled_writer_leaves_a_whole_record_or_none(path: Path) -> None:
    async with ReplayLedger(path) as ledger:
        tasks = [asyncio.ensure_future(ledger.write(a_step(number))) for number in range(50)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        kept = {step["step_id"] for step in await ledger.get_run("r")}
        assert kept >= {f"s{number}" for number in range(1, 50, 2)}
        assert (await ledger.verify_chain("r"))["valid"]
