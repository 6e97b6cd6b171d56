"""Publishing in the background: in time, again after failures, and never again after a contradiction."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from forgery import Forger

from meshflow.ledger import ReplayLedger
from meshflow.ledger.anchors import Anchor, AnchorError, ContradictionError, FileAnchor, Receipt
from meshflow.ledger.anchors.publisher import Publisher
from meshflow.ledger.format.checkpoints import read_checkpoint


async def write(ledger: ReplayLedger, count: int = 1) -> None:
    for _ in range(count):
        await ledger.write({"run_id": "run-1", "node_id": "n"})


async def until(claim: Any, patience_s: float = 10.0) -> None:
    deadline = time.monotonic() + patience_s
    while not await claim():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.01)


def size_of(note: str | None) -> int:
    return 0 if note is None else read_checkpoint(note).size


class Moody(FileAnchor):
    """Fails, hangs or blocks as long as it is told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.mood: str = ""
        self.asked = 0

    async def publish(self, checkpoint: str, prove: Any = None) -> Receipt:
        self.asked += 1
        if self.mood == "fail":
            raise AnchorError("not today")
        if self.mood == "raise":
            raise ZeroDivisionError("a plugin's own mistake")
        if self.mood == "block":
            time.sleep(0.5)
        while self.mood == "hang":
            await asyncio.sleep(0.01)
        return await super().publish(checkpoint, prove)


async def test_what_is_written_is_published_without_being_waited_for(ledger: ReplayLedger, tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "kept")
    publisher = Publisher(ledger, [anchor], every_s=0.02)
    await publisher.start(patience_s=5)
    assert await anchor.latest() is None
    await write(ledger, 3)

    async def all_there() -> bool:
        return size_of(await anchor.latest()) == 3

    await until(all_there)
    await asyncio.sleep(0.1)
    published = len(await anchor.kept(100))
    await asyncio.sleep(0.1)
    assert len(await anchor.kept(100)) == published  # nothing new, nothing published
    await publisher.aclose(patience_s=5)


async def test_closing_publishes_what_is_new_at_once(ledger: ReplayLedger, tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "kept")
    publisher = Publisher(ledger, [anchor], every_s=3_600)
    await publisher.start(patience_s=5)
    await write(ledger, 2)
    began = time.monotonic()
    await publisher.aclose(patience_s=30)
    assert time.monotonic() - began < 10
    assert size_of(await anchor.latest()) == 2


async def test_an_anchor_that_fails_is_tried_again_and_does_not_hold_up_the_others(
    ledger: ReplayLedger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moody, other = Moody(tmp_path / "moody"), FileAnchor(tmp_path / "other")
    moody.mood = "fail"
    await write(ledger)
    publisher = Publisher(ledger, [moody, other], every_s=0.02)
    with caplog.at_level(logging.WARNING):
        await publisher.start(patience_s=5)
        assert size_of(await other.latest()) == 1
        await until(lambda: _true(moody.asked >= 2))
        assert publisher.contradiction == ""
        moody.mood = "raise"
        asked = moody.asked
        await until(lambda: _true(moody.asked > asked))
        moody.mood = ""

        async def back() -> bool:
            return size_of(await moody.latest()) == 1

        await until(back)
        await publisher.aclose(patience_s=5)
    said = caplog.text
    assert "not today" in said
    assert "ZeroDivisionError" in said
    assert "takes checkpoints again" in said
    assert [one["failing"] for one in await ledger.receipts()] == [None, None]


async def _true(claim: bool) -> bool:
    return claim


@pytest.mark.parametrize("mood", ["hang", "block"])
async def test_a_slow_anchor_holds_up_neither_start_nor_writes_nor_the_loop(
    ledger: ReplayLedger, tmp_path: Path, mood: str, caplog: pytest.LogCaptureFixture
) -> None:
    moody = Moody(tmp_path / "moody")
    moody.mood = mood
    await write(ledger)
    publisher = Publisher(ledger, [moody], every_s=0.02)
    began = time.monotonic()
    await publisher.start(patience_s=0.05)
    worst, last = 0.0, time.monotonic()
    for _ in range(20):
        await write(ledger)
        await asyncio.sleep(0)
        worst, last = max(worst, time.monotonic() - last), time.monotonic()
    assert worst < 0.4
    assert time.monotonic() - began < 5
    moody.mood = ""
    await publisher.aclose(patience_s=10)
    assert size_of(await moody.latest()) == 21


async def test_an_anchor_that_hangs_for_good_does_not_hang_the_end(
    ledger: ReplayLedger, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moody = Moody(tmp_path / "moody")
    moody.mood = "hang"
    await write(ledger)
    publisher = Publisher(ledger, [moody], every_s=0.02)
    await publisher.start(patience_s=0.05)
    began = time.monotonic()
    await publisher.aclose(patience_s=0.2)
    assert time.monotonic() - began < 5
    assert "did not take the last checkpoint" in caplog.text
    moody.mood = ""
    await until(lambda: _true("meshflow-anchors" not in {thread.name for thread in threading.enumerate()}))


async def test_a_contradiction_stops_the_start_and_is_said_loudly(
    ledger: ReplayLedger, tmp_path: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    anchor: Anchor = FileAnchor(tmp_path / "kept")
    await write(ledger, 4)
    await ledger.anchor(anchor)
    await ledger.aclose()
    forger = Forger(path, path.with_name(path.name + ".key"))
    forger.rewrite("run-1", 0, code="changed")
    forger.everything_again()
    forger.db.close()
    async with ReplayLedger(path) as forged:
        publisher = Publisher(forged, [anchor], every_s=0.02)
        with pytest.raises(ContradictionError, match="entries were rewritten"):
            await publisher.start(patience_s=5)
        await write(forged, 1)
        await asyncio.sleep(0.1)
        assert len(await anchor.kept(10)) == 1  # type: ignore[arg-type]
        assert publisher.contradiction
        await publisher.aclose(patience_s=5)
        assert forged is not None
        (standing,) = await forged.receipts()
        assert "entries were rewritten" in standing["failing"]["problem"]
    assert [record.levelname for record in caplog.records if "contradicts" in record.message] == ["CRITICAL"]


async def test_a_publisher_that_is_closed_before_it_began_ends(ledger: ReplayLedger, tmp_path: Path) -> None:
    await write(ledger)
    anchor = FileAnchor(tmp_path / "kept")
    idle = Publisher(ledger, [anchor], every_s=1)
    await idle.aclose(patience_s=1)
    for _ in range(5):
        publisher = Publisher(ledger, [anchor], every_s=3_600)
        await publisher.start(patience_s=0)
        await publisher.aclose(patience_s=10)
    assert size_of(await anchor.latest()) == 1
