"""A disk that is really full, a file that may not grow, and pages that rot under a ledger that is written to."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.record import StepRecord

MIB = 1 << 20


def a_step(number: int, size: int = 4_000) -> StepRecord:
    return StepRecord(run_id="r", node_id="n", step_id=f"s{number}", input="x" * size, started_us=number + 1)


async def longest_wait(work: Awaitable[object]) -> float:
    """Return the longest time, in seconds, for which the loop did not turn until the work was done."""
    task, worst, last = asyncio.ensure_future(work), 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        worst, last = max(worst, now - last - 0.001), now
    await task
    return worst


async def fill(ledger: ReplayLedger, first: int, width: int = 16) -> tuple[set[str], list[str]]:
    """Write until writes fail; return what was acknowledged and how the others failed."""
    acknowledged: set[str] = set()
    errors: list[str] = []
    for base in range(first, first + 4_000, width):
        steps = [a_step(number) for number in range(base, base + width)]
        for step, outcome in zip(
            steps, await asyncio.gather(*map(ledger.write, steps), return_exceptions=True), strict=True
        ):
            if isinstance(outcome, LedgerError):
                errors.append(str(outcome))
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                acknowledged.add(step.step_id)
        if errors:
            break
    return acknowledged, errors


async def recorded(ledger: ReplayLedger) -> set[str]:
    return {step["step_id"] for step in await ledger.get_run("r")}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of its own that holds 3 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a filesystem")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


async def test_a_full_filesystem_loses_nothing_acknowledged_and_the_ledger_goes_on_once_there_is_room(
    small_disk: Path,
) -> None:
    path, ballast = small_disk / "runs.db", small_disk / "ballast"
    ballast.write_bytes(bytes(MIB // 2))
    async with ReplayLedger(path) as ledger:
        acknowledged, errors = await fill(ledger, 0)
        assert acknowledged
        assert errors
        assert all("full" in error for error in errors), errors
        assert await recorded(ledger) == acknowledged
        more, again = await fill(ledger, 5_000)  # a full disk stays an error, not a hang
        assert again
        assert await recorded(ledger) == acknowledged | more
        ballast.unlink()
        assert (await ledger.write(a_step(10_000))).step_id == "s10000"
        assert (await ledger.verify_ledger())["errors"] == []
    async with ReplayLedger(path) as ledger:
        assert await recorded(ledger) == acknowledged | more | {"s10000"}


async def test_a_full_filesystem_does_not_block_the_loop(small_disk: Path) -> None:
    path = small_disk / "runs.db"
    async with ReplayLedger(path) as ledger:
        failures = []

        async def refused(first: int) -> None:
            failures.extend((await fill(ledger, first))[1])

        # The machine itself stalls a loop now and then, so the best of a few counts.
        assert min([await longest_wait(refused(first)) for first in range(0, 40_000, 5_000)]) < 0.05
        assert len(failures) >= 8


async def test_opening_on_a_full_filesystem_says_so(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(3 * MIB - 8_192))
    async with ReplayLedger(small_disk / "runs.db") as ledger:
        with pytest.raises(LedgerError, match="full"):
            await ledger.write(a_step(0))
        assert await ledger.list_runs() == []
    (small_disk / "ballast").unlink()
    async with ReplayLedger(small_disk / "runs.db") as ledger:
        await ledger.write(a_step(0))
        assert (await ledger.verify_ledger())["valid"]


def test_a_file_that_may_not_grow_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    script = (
        "import asyncio, resource, sys\n"
        "from tests_disk import fill, recorded\n"
        "from meshflow.ledger import ReplayLedger\n"
        "async def main():\n    async with ReplayLedger(sys.argv[1]) as ledger:\n"
        "        await ledger.open()\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))\n"
        "        acknowledged, errors = await fill(ledger, 0)\n"
        "        assert acknowledged and errors and all('runs.db' in error for error in errors), errors\n"
        "        assert await recorded(ledger) == acknowledged\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "        more, errors = await fill(ledger, 5_000, 4_000)\n"
        "        assert len(more) == 4_000 and not errors\n"
        "        assert await recorded(ledger) == acknowledged | more\n"
        "        assert (await ledger.verify_ledger())['errors'] == []\n"
        "asyncio.run(main())\n"
    ).replace("tests_disk", Path(__file__).stem)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "runs.db")], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("seed", range(4))
async def test_pages_that_rot_under_a_writer_are_errors_that_say_so_and_nothing_else(tmp_path: Path, seed: int) -> None:
    path, chance = tmp_path / "runs.db", random.Random(seed)
    async with ReplayLedger(path) as ledger:
        await asyncio.gather(*(ledger.write(a_step(number, 2_000)) for number in range(300)))
    with sqlite3.connect(path) as db:  # everything is in the file itself
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    db.close()
    data = bytearray(path.read_bytes())
    for _ in range(len(data) // 8_192 // 3):
        at = chance.randrange(8_192, len(data) - 512)
        data[at : at + 512] = chance.randbytes(512)
    path.write_bytes(data)
    damaged: list[BaseException] = []
    async with ReplayLedger(path) as ledger:
        for number in range(300, 340):
            try:
                await ledger.write(a_step(number, 2_000))
            except LedgerError as error:
                damaged.append(error)
        try:
            result = await ledger.verify_ledger()
        except LedgerError as error:
            damaged.append(error)
        else:
            assert not result["valid"]
            damaged += [LedgerError(error) for error in result["errors"]]
    assert damaged


FAULTS: dict[str, Callable[[Path], None]] = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2 // 8_192 * 8_192),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_file_that_is_destroyed_under_a_writer_acknowledges_nothing_that_is_not_there(
    tmp_path: Path, fault: str
) -> None:
    path = tmp_path / "runs.db"
    acknowledged: set[str] = set()
    async with ReplayLedger(path) as ledger:
        await asyncio.gather(*(ledger.write(a_step(number)) for number in range(300)))
        FAULTS[fault](path)
        for number in range(300, 320):
            try:
                await ledger.write(a_step(number))
            except LedgerError:
                continue
            acknowledged.add(f"s{number}")
        if acknowledged:
            assert acknowledged <= await recorded(ledger)
