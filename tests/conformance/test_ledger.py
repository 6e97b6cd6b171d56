"""The ledger plugin keeps the contract of stage 14."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, ClassVar

from meshflow.ledger import ReplayLedger
from meshflow.plugin import Host
from meshflow.testing import RecorderConformance
from meshflow.testing.base import Subject
from meshflow.testing.recorder import RUN
from meshflow_ledger import LedgerPlugin


class TestLedger(RecorderConformance):
    plugin_type = LedgerPlugin
    settings: ClassVar[Mapping[str, Any]] = {"path": "runs.db", "busy_timeout_ms": 100}

    async def stored(self, folder: Path) -> Collection[str]:
        reader = ReplayLedger(folder / "runs.db")
        try:
            return [record["step_id"] for record in await reader.get_run(RUN)]
        finally:
            await reader.aclose()

    def break_storage(self, folder: Path, subject: Subject) -> bool:
        with closing(sqlite3.connect(folder / "runs.db")) as connection:
            tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (name,) in tables:
                if not name.startswith("sqlite_"):
                    connection.execute(f'DROP TABLE "{name}"')
            connection.commit()
        return True


class TestGivenLedger(TestLedger):
    """A ledger that the runtime was given, in the place of the plugin's own: who opened it closes it."""

    def host(self, folder: Path) -> Host:
        return Host(base=folder, ledger=ReplayLedger(folder / "runs.db", busy_timeout_ms=100))

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Subject]:
        async with super().opened(folder) as subject:
            try:
                yield subject
            finally:
                await subject.plugin.ledger.aclose()  # type: ignore[attr-defined]
