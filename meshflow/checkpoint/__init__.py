"""Checkpoints of runs: the contract of a store, and the stores that there are."""

from meshflow.checkpoint.memory import MemoryCheckpoints
from meshflow.checkpoint.open import open_store
from meshflow.checkpoint.postgres import PostgresCheckpoints
from meshflow.checkpoint.sqlite import SqliteCheckpoints
from meshflow.checkpoint.store import (
    Checkpoint,
    CheckpointConflictError,
    CheckpointError,
    CheckpointStore,
    Saved,
    ThreadKey,
    Write,
)

__all__ = [
    "Checkpoint",
    "CheckpointConflictError",
    "CheckpointError",
    "CheckpointStore",
    "MemoryCheckpoints",
    "PostgresCheckpoints",
    "Saved",
    "SqliteCheckpoints",
    "ThreadKey",
    "Write",
    "open_store",
]
