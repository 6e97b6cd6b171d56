"""Checkpoint stores that the tests of threads run on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meshflow.checkpoint.memory import MemoryCheckpoints
from meshflow.checkpoint.postgres import PostgresCheckpoints
from meshflow.checkpoint.sqlite import SqliteCheckpoints


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A checkpoint store of each kind."""
    if request.param == "memory":
        yield MemoryCheckpoints()
        return
    if request.param == "sqlite":
        opened: Any = SqliteCheckpoints(tmp_path / "checkpoints.db")
    else:
        opened = PostgresCheckpoints(request.getfixturevalue("postgres_url"))
    yield opened
    opened.close()
