"""Our checkpoint stores keep the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshflow.checkpoint.memory import MemoryCheckpoints
from meshflow.checkpoint.postgres import PostgresCheckpoints
from meshflow.checkpoint.sqlite import SqliteCheckpoints
from meshflow.checkpoint.store import CheckpointStore
from meshflow.testing.checkpoint import CheckpointStoreConformance


class TestMemoryCheckpoints(CheckpointStoreConformance):
    persistent = False

    def make(self, folder: Path) -> CheckpointStore:
        return MemoryCheckpoints()


class TestSqliteCheckpoints(CheckpointStoreConformance):
    def make(self, folder: Path) -> CheckpointStore:
        return SqliteCheckpoints(folder / "checkpoints.db")


class TestSqliteCheckpointsOfBlockingCallers(CheckpointStoreConformance):
    def make(self, folder: Path) -> CheckpointStore:
        return SqliteCheckpoints(folder / "checkpoints.db").blocking()


class TestPostgresCheckpoints(CheckpointStoreConformance):
    @pytest.fixture(autouse=True)
    def database(self, postgres_url: str) -> None:
        self.url = postgres_url

    def make(self, folder: Path) -> CheckpointStore:
        return PostgresCheckpoints(self.url)


class TestPostgresCheckpointsOfBlockingCallers(TestPostgresCheckpoints):
    def make(self, folder: Path) -> CheckpointStore:
        return PostgresCheckpoints(self.url).blocking()
