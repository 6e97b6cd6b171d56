"""Our checkpoint stores keep the contract."""

from __future__ import annotations

from pathlib import Path

from meshflow.checkpoint.memory import MemoryCheckpoints
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
