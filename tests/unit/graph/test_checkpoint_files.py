"""The file of a checkpoint store, and the files beside it that say which process has which thread."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from meshflow.checkpoint.sqlite import THREADS_OF_RUN, SqliteCheckpoints


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
