"""The signing key: where it lies, who may read it, and how it hands over."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.ledger.format.checkpoints import open_checkpoint, read_checkpoint, verifiers_of
from meshflow.ledger.format.keys import KeyFile, key_source
from meshflow.ledger.format.notes import Signer
from meshflow.record import StepRecord

MakeRecord = Callable[..., StepRecord]


async def test_a_key_is_made_beside_the_ledger_for_its_owner_alone(
    ledger: ReplayLedger, record: MakeRecord, path: Path
) -> None:
    await ledger.write(record(0))
    key = path.with_name("runs.db.key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert sorted(entry.name for entry in path.parent.glob("*key*")) == ["runs.db.key"]
    signer = Signer.parse(key.read_text())
    assert await ledger.verifiers() == [str(signer.verifier)]
    note = await ledger.checkpoint()
    assert open_checkpoint(note, [signer.verifier]).size == 1
    assert signer.secret() not in path.read_bytes().decode("latin-1")


async def test_nothing_is_signed_without_a_key(path: Path, record: MakeRecord) -> None:
    async with ReplayLedger(path, key=None) as ledger:
        await ledger.write(record(0))
        assert await ledger.verifiers() == []
        with pytest.raises(LedgerError, match="without a signing key"):
            await ledger.checkpoint()
    assert not path.with_name("runs.db.key").exists()


async def test_a_key_in_a_variable(path: Path, record: MakeRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer.generate("ours")
    async with ReplayLedger(path, key="env:LEDGER_KEY") as ledger:
        with pytest.raises(LedgerError, match="LEDGER_KEY, which is not set"):
            await ledger.write(record(0))
        monkeypatch.setenv("LEDGER_KEY", "nonsense")
        with pytest.raises(LedgerError, match="LEDGER_KEY"):
            await ledger.write(record(0))
        monkeypatch.setenv("LEDGER_KEY", signer.secret())
        await ledger.write(record(0))
        assert open_checkpoint(await ledger.checkpoint(), [signer.verifier]).size == 1
        with pytest.raises(LedgerError, match="cannot be replaced from here"):
            await ledger.rotate_key()


@pytest.mark.skipif(os.name != "posix", reason="needs permission bits")
async def test_a_key_that_others_may_read_is_refused(path: Path, record: MakeRecord) -> None:
    async with ReplayLedger(path) as ledger:
        await ledger.write(record(0))
    path.with_name("runs.db.key").chmod(0o640)
    async with ReplayLedger(path) as ledger:
        for call in (ledger.open(), ledger.write(record(1))):
            with pytest.raises(LedgerError, match="others may read"):
                await call


async def test_another_key_or_none_does_not_take_over_unnoticed(path: Path, record: MakeRecord, tmp_path: Path) -> None:
    async with ReplayLedger(path) as ledger:
        await ledger.write(record(0))
    async with ReplayLedger(path, key=tmp_path / "other.key") as ledger:
        with pytest.raises(LedgerError, match="is gone"):
            await ledger.write(record(1))
        KeyFile(tmp_path / "other.key").load("thief", True)
        with pytest.raises(LedgerError, match="another one"):
            await ledger.write(record(1))
    path.with_name("runs.db.key").unlink()
    async with ReplayLedger(path) as ledger:
        with pytest.raises(LedgerError, match="is gone; put it back"):
            await ledger.write(record(1))
        assert len(await ledger.get_run("run-1")) == 1
    assert not path.with_name("runs.db.key").exists()


def test_two_that_make_a_key_at_once_get_the_same(tmp_path: Path) -> None:
    source = KeyFile(tmp_path / "k")

    async def both() -> list[Signer]:
        return await asyncio.gather(*(asyncio.to_thread(source.load, f"n{number}", True) for number in range(8)))

    assert len(set(asyncio.run(both()))) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["k"]


async def test_a_rotation_hands_over_and_old_checkpoints_stay_good(
    ledger: ReplayLedger, record: MakeRecord, path: Path
) -> None:
    await ledger.write(record(0))
    before = await ledger.checkpoint()
    (old,) = await ledger.verifiers()
    async with ReplayLedger(path) as other:
        await other.write(record(1))
        new = await ledger.rotate_key()
        await other.write(record(2))  # with the key that it loaded before
        assert await other.verifiers() == [old, new]
        after = await other.checkpoint()
    assert open_checkpoint(before, verifiers_of([old])).size == 1
    assert open_checkpoint(after, verifiers_of([new])).size == 3
    assert not path.with_name("runs.db.key.next").exists()


async def test_a_rotation_to_another_source(ledger: ReplayLedger, record: MakeRecord, tmp_path: Path) -> None:
    await ledger.write(record(0))
    new = await ledger.rotate_key(tmp_path / "new.key")
    await ledger.write(record(1))
    assert open_checkpoint(await ledger.checkpoint(), verifiers_of([new])).size == 2


async def test_a_rotation_cut_off_before_the_file_was_replaced_is_finished(
    ledger: ReplayLedger, record: MakeRecord, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledger.write(record(0))
    with monkeypatch.context() as patch:
        patch.setattr(KeyFile, "promote", lambda self: (_ for _ in ()).throw(OSError("cut off")))
        with pytest.raises(OSError, match="cut off"):
            await ledger.rotate_key()
    await ledger.aclose()
    async with ReplayLedger(path) as again:
        await again.write(record(1))
        new = (await again.verifiers())[1]
        assert open_checkpoint(await again.checkpoint(), verifiers_of([new])).size == 2
    assert not path.with_name("runs.db.key.next").exists()


async def test_checkpoints_come_as_often_as_asked(path: Path, record: MakeRecord) -> None:
    async with ReplayLedger(path, checkpoint_every=10, checkpoint_within_ms=60_000) as ledger:
        for number in range(25):
            await ledger.write(record(number))
        rows = await ledger._store._fetch("SELECT size FROM checkpoints ORDER BY size", {})  # type: ignore[attr-defined]
        assert [row[0] for row in rows] == [1, 11, 21]
        assert read_checkpoint(await ledger.checkpoint()).size == 25
        proof = await ledger.prove("run-1", 24)
        assert proof["tree_size"] == 25


def test_sources_by_name(tmp_path: Path) -> None:
    assert key_source(None, tmp_path / "l.db") is None
    assert key_source("auto", tmp_path / "l.db") == KeyFile(tmp_path / "l.db.key")
    assert key_source(tmp_path / "k", tmp_path / "l.db") == KeyFile(tmp_path / "k")


async def sizes(ledger: ReplayLedger) -> list[int]:
    rows = await ledger._store._fetch("SELECT size FROM checkpoints ORDER BY size", {})  # type: ignore[attr-defined]
    return [row[0] for row in rows]


async def test_what_waits_for_a_checkpoint_has_one_in_time_though_nothing_more_is_written(
    path: Path, record: MakeRecord
) -> None:
    async with ReplayLedger(path, checkpoint_every=1_000, checkpoint_within_ms=300) as ledger:
        for number in range(3):
            await ledger.write(record(number))
        began = time.monotonic()
        assert await sizes(ledger) == [1]
        while await sizes(ledger) != [1, 3]:
            assert time.monotonic() < began + 20
            await asyncio.sleep(0.02)
        assert (await ledger.verify_ledger())["uncovered"] == 0


async def test_closing_leaves_nothing_without_a_checkpoint(path: Path, record: MakeRecord) -> None:
    async with ReplayLedger(path, checkpoint_every=1_000, checkpoint_within_ms=60_000) as ledger:
        await asyncio.gather(*(ledger.write(record(number)) for number in range(20)))
    async with ReplayLedger(path) as ledger:
        assert (await sizes(ledger))[-1] == 20


async def test_an_honest_ledger_is_valid_before_so_many_entries_are_there_as_a_checkpoint_is_signed_for(
    place: str | Path, record: MakeRecord
) -> None:
    async with ReplayLedger(place, checkpoint_every=1_000, checkpoint_within_ms=60_000) as ledger:
        for number in range(3):
            await ledger.write(record(number))
            result = await ledger.verify_chain("run-1")
            assert (result["valid"], result["errors"], result["uncovered"]) == (True, [], number)


async def test_a_ledger_that_was_not_signed_is_valid_once_it_has_a_key(place: str | Path, record: MakeRecord) -> None:
    async with ReplayLedger(place, key=None) as ledger:
        await ledger.write(record(0))
    async with ReplayLedger(place, checkpoint_every=1_000, checkpoint_within_ms=60_000) as ledger:
        await ledger.open()
        result = await ledger.verify_chain("run-1")
        assert (result["valid"], result["errors"], result["uncovered"]) == (True, [], 0)


async def test_what_a_killed_process_left_without_a_checkpoint_has_one_soon_after_the_next_begins(path: Path) -> None:
    script = (
        "import asyncio, os, signal, sys\nfrom meshflow.ledger import ReplayLedger\n"
        "async def main():\n    ledger = ReplayLedger(sys.argv[1], checkpoint_every=100, checkpoint_within_ms=60_000)\n"
        "    await ledger.write({'run_id': 'r', 'node_id': 'n', 'step_id': 's'})\n"
        "    await ledger.write({'run_id': 'r', 'node_id': 'n', 'step_id': 't'})\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", script, str(path)], timeout=60)
    async with ReplayLedger(path, checkpoint_every=100, checkpoint_within_ms=100) as ledger:
        assert (await ledger.verify_ledger())["uncovered"] == 1
        await ledger.open()
        began = time.monotonic()
        while await sizes(ledger) != [1, 2]:
            assert time.monotonic() < began + 20
            await asyncio.sleep(0.02)


async def test_without_a_key_nothing_is_put_off(path: Path, record: MakeRecord) -> None:
    async with ReplayLedger(path, key=None, checkpoint_every=1_000, checkpoint_within_ms=1) as ledger:
        await ledger.write(record(0))
        assert ledger._store._appender.due_in() is None  # type: ignore[attr-defined]


async def test_a_checkpoint_that_cannot_be_signed_in_time_is_tried_again(path: Path, record: MakeRecord) -> None:
    async with ReplayLedger(path, checkpoint_every=1_000, checkpoint_within_ms=100, busy_timeout_ms=50) as ledger:
        await ledger.write(record(0))
        await ledger.write(record(1))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(0.4)
        other.execute("ROLLBACK")
        other.close()
        began = time.monotonic()
        while await sizes(ledger) != [1, 2]:
            assert time.monotonic() < began + 20
            await asyncio.sleep(0.02)
        assert (await ledger.write(record(2))).seq == 2
