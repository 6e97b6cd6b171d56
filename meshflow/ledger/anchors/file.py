"""An anchor in a file that is only appended to: one checkpoint a line, as JSON. Put it where others own the disk."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from meshflow.ledger.anchors.contract import Anchor, AnchorError, follows

_BLOCK = 65_536


class FileAnchor:
    """Appends to a file; its folder must be there. A line that a crash cut short is passed over."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = f"file {self.path}"

    async def publish(self, checkpoint: str) -> str:
        """Append the checkpoint and wait until it is on the disk."""
        return await asyncio.to_thread(self._publish, checkpoint)

    async def latest(self) -> str | None:
        """Return the last checkpoint in the file."""
        return await asyncio.to_thread(self._latest)

    def _publish(self, checkpoint: str) -> str:
        if follows(checkpoint, self._latest(), self.name):
            # A newline first, in case a line before was cut short.
            line = "\n" + json.dumps({"checkpoint": checkpoint}) + "\n"
            try:
                handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                try:
                    os.write(handle, line.encode())
                    os.fsync(handle)
                finally:
                    os.close(handle)
            except OSError as error:
                raise AnchorError(f"{self.name} cannot be written: {error.strerror or error}") from error
        return self.name

    def _latest(self) -> str | None:
        try:
            with self.path.open("rb") as file:
                at, data = file.seek(0, os.SEEK_END), b""
                while at > 0:
                    start = max(0, at - _BLOCK)
                    file.seek(start)
                    data, at = file.read(at - start) + data, start
                    if (found := _last(data, whole=at == 0)) is not None:
                        return found
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AnchorError(f"{self.name} cannot be read: {error.strerror or error}") from error
        return None


def _last(data: bytes, *, whole: bool) -> str | None:
    lines = data.split(b"\n")
    for line in reversed(lines if whole else lines[1:]):
        try:
            found = json.loads(line)["checkpoint"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(found, str):
            return found
    return None


if TYPE_CHECKING:
    _: Anchor = FileAnchor("checkpoints.jsonl")
