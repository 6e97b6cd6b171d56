from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from meshflow import ReplayLedger
from meshflow.mesh import Event, Mesh, MeshEvent


class Heard:
    """Keeps every event that a mesh tells of."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def listen(self, mesh: Mesh) -> Heard:
        for kind in MeshEvent:
            mesh.on(kind, self._hear)
        return self

    async def _hear(self, event: Event) -> None:
        self.events.append(event)

    def kinds(self) -> list[MeshEvent]:
        return [event.kind for event in self.events]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mesh.db"


@pytest.fixture
async def make(path: Path) -> AsyncIterator[Callable[..., Mesh]]:
    made: list[tuple[Mesh, ReplayLedger]] = []

    def mesh(**options: Any) -> Mesh:
        ledger = ReplayLedger(path, key=None)
        made.append((Mesh(ledger=ledger, **options), ledger))
        return made[-1][0]

    yield mesh
    for one, ledger in made:
        await one.aclose()
        await ledger.aclose()


@pytest.fixture
def heard() -> Heard:
    return Heard()
