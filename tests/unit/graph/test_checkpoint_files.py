"""The file of a checkpoint store, and the files beside it that say which process has which thread."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import meshflow.checkpoint.worker as worker
from meshflow.checkpoint.file_claim import FileClaims
from meshflow.checkpoint.sqlite import THREADS_OF_RUN, SqliteCheckpoints
from meshflow.checkpoint.store import Checkpoint, CheckpointConflictError, CheckpointError, ThreadKey
from meshflow.errors import ConfigError

# Takes a thread, forks, and ends; the child says that it is there, and ends when its standard input does.
FORKS = """
import os, sys
from pathlib import Path
from meshflow.checkpoint.file_claim import FileClaims
claim = FileClaims(Path(sys.argv[1])).take("t", "a")
if os.fork() == 0:
    print("here", flush=True)
    sys.stdin.read()
os._exit(0)
"""


@pytest.mark.parametrize("tenant", [None, "acme"])
async def test_threads_of_a_run_are_found_by_an_index_whatever_the_size_of_the_file(
    tmp_path: Path, tenant: str | None
) -> None:
    store = SqliteCheckpoints(tmp_path / "graphs.db")
    assert await store.threads_of_runs(tenant, ["r"]) == []
    await store.aclose()
    with contextlib.closing(sqlite3.connect(tmp_path / "graphs.db")) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {THREADS_OF_RUN}", {"tenant": tenant, "run": "r"}).fetchall()
    steps = [step for *_, step in plan]
    assert [step for step in steps if step.startswith("SCAN")] == []
    assert sum("USING INDEX" in step for step in steps) == 2


async def test_file_under_two_names_has_one_set_of_claims(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    os.symlink(tmp_path / "graphs.db", tmp_path / "elsewhere" / "link.db")
    one, other = SqliteCheckpoints(tmp_path / "graphs.db"), SqliteCheckpoints(tmp_path / "elsewhere" / "link.db")
    claim = await one.claim("t", "a")
    with pytest.raises(CheckpointConflictError):
        await other.claim("t", "a")
    await claim.release()
    for store in (one, other):
        await store.aclose()


async def test_store_stays_where_it_was_opened_though_the_process_changes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = SqliteCheckpoints("graphs.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    await store.threads("t")
    await store.aclose()
    assert (tmp_path / "graphs.db").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_folder_that_another_process_removes_as_it_closes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims, make = FileClaims(tmp_path / "claims"), Path.mkdir
    removed: list[Path] = []

    def made_and_removed(folder: Path) -> None:
        make(folder, exist_ok=True)
        if len(removed) < 3:
            removed.append(folder)
            FileClaims(folder).close()

    monkeypatch.setattr(Path, "mkdir", lambda folder, **_: made_and_removed(folder))
    await claims.take("t", "a").release()
    assert len(removed) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")
async def test_claim_ends_with_the_process_that_took_it_though_a_child_of_it_lives_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKS, str(tmp_path / "claims")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "here\n"
        assert parent.wait(30) == 0
        await FileClaims(tmp_path / "claims").take("t", "a").release()


@contextlib.contextmanager
def reader(place: Path) -> Any:
    """Somebody who looks at the file of a store, and is not done with it."""
    with contextlib.closing(sqlite3.connect(place, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM checkpoints").fetchone()
        yield


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_erasure_that_leaves_bytes_in_the_log_says_so_and_the_next_one_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PATIENCE_S", 0.2)
    store = SqliteCheckpoints(tmp_path / "graphs.db")
    for name in ("a", "b"):
        await store.put(ThreadKey("t", name), Checkpoint(checkpoint_id="1", body=b"Zwetschge", run_id="r"), {})
    with reader(store.path):
        with pytest.raises(CheckpointError, match="write-ahead log"):
            await store.erase_runs("t", ["r"])
        assert await store.threads("t") == []
        assert b"Zwetschge" in bytes_of(tmp_path)
        with pytest.raises(CheckpointError, match="forget it again"):
            await store.delete_thread("t", "a")
    assert await store.erase_runs("t", ["r"]) == 0
    assert b"Zwetschge" not in bytes_of(tmp_path)
    await store.aclose()


async def test_forgetting_while_somebody_reads_keeps_nobody_else_waiting_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PATIENCE_S", 0.2)
    store = SqliteCheckpoints(tmp_path / "graphs.db")
    await store.put(ThreadKey("t", "a"), Checkpoint(checkpoint_id="1", body=b"", run_id="r"), {})
    with reader(store.path):
        began = time.monotonic()
        forgotten = asyncio.create_task(store.delete_thread("t", "a"))
        puts = [store.put(ThreadKey("t", name), Checkpoint(checkpoint_id="1", body=b""), {}) for name in "bcd"]
        await asyncio.gather(*puts)
        assert time.monotonic() - began < 15
        with pytest.raises(CheckpointError):
            await forgotten
    assert await store.threads("t") == ["b", "c", "d"]
    await store.aclose()


def test_a_store_in_memory_is_asked_for_by_its_own_name() -> None:
    with pytest.raises(ConfigError, match="MemoryCheckpoints"):
        SqliteCheckpoints(":memory:")
