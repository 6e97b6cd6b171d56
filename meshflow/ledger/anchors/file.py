"""An anchor in a file that is only appended to: one checkpoint a line, as JSON. Put it where others own the disk."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field

from meshflow.ledger.anchors.contract import Anchor, AnchorError, Prove, Receipt, follows, spread
from meshflow.plugin.base import Settings

_BLOCK = 65_536


class FileAnchorSettings(Settings):
    """Where the file is."""

    path: str = Field(min_length=1, description="file that checkpoints are appended to; its folder must be there")


class FileAnchor(Anchor):
    """Appends to a file; its folder must be there. A line that a crash cut short is passed over."""

    settings_type: ClassVar[type[Settings]] = FileAnchorSettings

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = f"file {self.path}"

    @classmethod
    def from_settings(cls, settings: FileAnchorSettings, base: Path) -> Self:
        """Return the anchor in the file that settings name."""
        return cls(base / settings.path)

    async def publish(self, checkpoint: str, prove: Prove | None = None) -> Receipt:
        """Append the checkpoint and wait until it is on the disk."""
        return await asyncio.to_thread(self._publish, checkpoint)

    async def latest(self, origin: str | None = None) -> str | None:
        """Return the last checkpoint in the file."""
        return await asyncio.to_thread(self._latest)

    async def kept(self, at_most: int, origin: str | None = None) -> list[str]:
        """Return the checkpoints in the file."""
        return await asyncio.to_thread(self._kept, at_most)

    async def check(self) -> None:
        """Read the file, and say whether it could be appended to."""
        await self.latest()
        there = self.path if self.path.exists() else self.path.parent
        if not os.access(there, os.W_OK):
            raise AnchorError(f"{self.name} cannot be written: {there} is not there, or not writable for this user")

    def _publish(self, checkpoint: str) -> Receipt:
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                _lock(handle)  # until it is closed, so that of two processes the slower one sees what the other wrote
                if follows(checkpoint, self._latest(), self.name):
                    # A newline first, in case a line before was cut short.
                    line = ("\n" + json.dumps({"checkpoint": checkpoint}) + "\n").encode()
                    if os.write(handle, line) != len(line):
                        raise AnchorError(f"{self.name} took part of a line only; is the disk full?")
                    os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise AnchorError(f"{self.name} cannot be written: {error.strerror or error}") from error
        return Receipt(self.name)

    def _kept(self, at_most: int) -> list[str]:
        try:
            return spread(list(_checkpoints(self.path.read_bytes().split(b"\n"))), at_most)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise AnchorError(f"{self.name} cannot be read: {error.strerror or error}") from error

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


def _lock(handle: int) -> None:
    """Wait for others who append, where the system has such locks."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)


def _last(data: bytes, *, whole: bool) -> str | None:
    lines = data.split(b"\n")
    return next(_checkpoints(reversed(lines if whole else lines[1:])), None)


def _checkpoints(lines: Iterable[bytes]) -> Iterator[str]:
    """Yield the checkpoints that are whole; a line is a JSON object, or nothing."""
    for line in lines:
        try:
            checkpoint = json.loads(line)["checkpoint"]
        except (ValueError, KeyError, TypeError):
            continue
        if isinstance(checkpoint, str):
            yield checkpoint
