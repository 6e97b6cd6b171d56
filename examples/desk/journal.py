"""The calls that wait for a person, kept by the application: the ledger holds only what redaction left of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Waiting:
    """One paused call, with all that is needed to hand it in again."""

    message_id: str
    run_id: str
    step_id: str
    approval_id: str
    tool: str
    arguments: dict[str, Any]
    metadata: dict[str, Any]


class Journal:
    """A JSON file of waiting calls, written whole and swapped in, readable by its owner alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Waiting]:
        """Return the calls that wait."""
        if not self._path.exists():
            return []
        return [Waiting(**item) for item in json.loads(self._path.read_text(encoding="utf-8"))]

    def write(self, waiting: list[Waiting]) -> None:
        """Keep these calls and no others."""
        fresh = self._path.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps([asdict(item) for item in waiting], ensure_ascii=False), encoding="utf-8")
        fresh.replace(self._path)
