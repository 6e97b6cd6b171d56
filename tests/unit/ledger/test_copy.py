"""A ledger copied between stores is the same ledger: bytes, places, log, checkpoints, erasures, holds and keys."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forgery import look, write_ledger

from meshflow.clock import ManualClock
from meshflow.errors import LedgerError
from meshflow.ledger import ReplayLedger
from meshflow.ledger.copy import copy_ledger
from meshflow.record import StepRecord

MakeRecord = Callable[..., StepRecord]
TABLES = {
    "entries": "*", "payloads": "id, salt, data, key_id", "run_nodes": "*", "run_tools": "*", "log": "*", "tiles": "*",
    "checkpoints": "*", "signers": "*", "keys": "*", "holds": "*", "subject_index": "*", "subjects": "*",
    "receipts": "*", "anchor_failures": "*",
    "runs": "run_id, tenant_id, first_seq, parent_run_id, parent_steps, entries, steps, commits, tokens, last_us",
}  # fmt: skip


def everything(place: str | Path) -> dict[str, list[Any]]:
    found = {
        table: sorted(look(place, f"SELECT {columns} FROM {table}"), key=repr) for table, columns in TABLES.items()
    }
    found["order of runs"] = look(place, "SELECT run_id FROM runs ORDER BY id")
    return found


@pytest.fixture
def target(postgres_url: str, tmp_path: Path, kind: str) -> str | Path:
    """A place of the other kind than ``place``."""
    return tmp_path / "copy.db" if kind == "postgres" else postgres_url.replace("schema=", "schema=copy_")


@pytest.fixture
async def written(place: str | Path) -> dict[str, str]:
    return await write_ledger(place)


def signing_key(place: str | Path, tmp_path: Path) -> Path:
    (found,) = [path for path in tmp_path.glob("*.key") if "copy" not in path.name]
    return found


async def test_a_copy_is_the_same_ledger(
    place: str | Path, target: str | Path, written: dict[str, str], tmp_path: Path, record: MakeRecord
) -> None:
    seen: list[tuple[int, int]] = []
    result = await copy_ledger(place, target, progress=lambda done, total: seen.append((done, total)))
    await asyncio.sleep(0)
    assert (result["verification"]["errors"], result["behind"]) == ([], 0)
    assert result["verification"]["held_size"] is not None
    assert seen[-1] == (result["entries"], result["entries"])
    assert everything(target) == everything(place)
    key = signing_key(place, tmp_path)
    async with ReplayLedger(place, key=key) as old, ReplayLedger(target, key=key) as new:
        for run_id in ("run-1", "run-2", "fork", "many-3"):
            assert await new.get_run(run_id) == await old.get_run(run_id)
            assert await new.run_summary(run_id) == await old.run_summary(run_id)
            assert (await new.verify_chain(run_id, checkpoint=written["late"]))["errors"] == []
        # Both go on from here, and each on its own: a held checkpoint tells them apart.
        one, two = await old.write(record(1_000, "later")), await new.write(record(1_000, "later"))
        assert (one.seq, one.position) == (two.seq, two.position)
        await new.hold("run-2", reason="case", authority="counsel")
        await new.rotate_key()
        since = await new.checkpoint()
        assert (await new.verify_ledger(since=[written["early"], since]))["errors"] == []


async def test_encrypted_payloads_are_copied_as_they_lie(
    place: str | Path, target: str | Path, tmp_path: Path, record: MakeRecord
) -> None:
    kek = tmp_path / "kek"
    kek.write_text(base64.b64encode(b"k" * 32).decode())
    kek.chmod(0o600)
    async with ReplayLedger(place, encrypt="run", key_encryption_key=str(kek), key=None) as ledger:
        for number in range(5):
            await ledger.write(record(number, f"run-{number}"))
        await ledger.delete_run("run-4")
    assert (await copy_ledger(place, target))["verification"]["sealed_payloads"] == 20
    async with ReplayLedger(target, encrypt="run", key_encryption_key=str(kek), key=None) as copy:
        assert (await copy.get_run("run-1"))[0]["input_task"] == {"text": "question 1"}
        await copy.write(record(9, "run-9"))
        assert len({row[0] for row in look(target, "SELECT id FROM keys")}) == 5
        result = await copy.verify_ledger()
        assert (result["errors"], result["sealed_payloads"]) == ([], 0)


async def test_a_tampered_ledger_makes_a_copy_that_does_not_verify(
    place: str | Path, target: str | Path, written: dict[str, str]
) -> None:
    trigger = "DROP TRIGGER entries_update" + ("" if "://" not in str(place) else " ON entries")
    look(place, trigger)
    look(place, "UPDATE entries SET tokens = 99 WHERE run_id = 'run-2' AND seq = 3")
    result = await copy_ledger(place, target)
    assert not result["verification"]["valid"]
    assert "column tokens" in str(result["verification"]["errors"])


async def test_nothing_is_copied_over_a_ledger_or_from_nothing(
    place: str | Path, target: str | Path, written: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(LedgerError, match="holds no ledger to copy"):
        await copy_ledger(target, tmp_path / "third.db")
    with pytest.raises(LedgerError, match="onto itself"):
        await copy_ledger(place, place)
    async with ReplayLedger(target, key=None) as there:
        await there.open()
    with pytest.raises(LedgerError, match="holds a ledger already"):
        await copy_ledger(place, target)
    async with ReplayLedger(target, key=None) as there:
        assert await there.list_runs() == []


async def test_a_copy_that_breaks_off_leaves_an_empty_place(
    place: str | Path, target: str | Path, written: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshflow.ledger.copy._WHOLE", {"no_such_table": ("id", "b")})
    with pytest.raises(LedgerError, match="no_such_table"):
        await copy_ledger(place, target)
    monkeypatch.undo()
    assert look(target, "SELECT count(*) FROM entries") == [(0,)]


async def test_what_is_written_meanwhile_is_told(
    place: str | Path, target: str | Path, written: dict[str, str], tmp_path: Path, record: MakeRecord
) -> None:
    async with ReplayLedger(place, clock=ManualClock(), key=signing_key(place, tmp_path)) as ledger:
        copying = asyncio.create_task(copy_ledger(place, target))
        count = 0
        while not copying.done():
            await ledger.write(record(2_000 + count, "later"))
            count += 1
        result = await copying
    assert result["verification"]["errors"] == []
    assert 0 < result["behind"] <= count
