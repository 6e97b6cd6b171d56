"""The file of a checkpoint store, and the files beside it that say which process has which thread."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from meshflow.checkpoint.file_claim import FileClaims
from meshflow.checkpoint.sqlite import THREADS_OF_RUN, SqliteCheckpoints
from meshflow.checkpoint.store import CheckpointConflictError

# Takes a thread, forks, and ends at once; the child ends when its standard input does.
FORKS = """
import os, sys
from pathlib import Path
from meshflow.checkpoint.file_claim import FileClaims
claim = FileClaims(Path(sys.argv[1])).take("t", "a")
if os.fork() == 0:
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
    with subprocess.Popen(command, stdin=subprocess.PIPE) as parent:
        assert parent.wait(30) == 0
        await FileClaims(tmp_path / "claims").take("t", "a").release()
