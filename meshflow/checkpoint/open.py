"""Find the store that an argument names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meshflow.checkpoint.store import CheckpointStore
from meshflow.errors import ConfigError


def open_store(given: Any) -> CheckpointStore:
    """Return a store: itself, or for ``"memory"``, a path or a ``postgresql://`` URL the one that is meant."""
    if isinstance(given, (str, Path)):
        text = str(given)
        if text == "memory":
            from meshflow.checkpoint.memory import MemoryCheckpoints

            return MemoryCheckpoints()
        if text.startswith(("postgresql://", "postgres://")):
            from meshflow.checkpoint.postgres import PostgresCheckpoints

            return PostgresCheckpoints(text)
        if "://" in text:
            raise ConfigError(
                f"no checkpoint store for {text.partition('://')[0]}://; give a path, or a postgresql:// URL"
            )
        from meshflow.checkpoint.sqlite import SqliteCheckpoints

        return SqliteCheckpoints(text)
    if isinstance(given, CheckpointStore):
        return given
    raise ConfigError(
        f"a checkpointer is a checkpoint store, 'memory', a path or a postgresql:// URL, not a {type(given).__name__}"
    )
