"""Files that are read again when they change."""

from __future__ import annotations

import os
from pathlib import Path

_LARGEST = 16 * 1024 * 1024
Signature = tuple[int, int, int]


class UnreadableError(Exception):
    """A file that a setting names cannot be read or used; the text says which and why."""


class WatchedFile:
    """A small file and what it looked like when it was last read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: Signature | None = None
        self._read = False

    def changed(self) -> bool:
        """Return whether the file is not the one last read: another size, time or inode, or there no more."""
        return not self._read or self._signature() != self._seen

    def read(self) -> bytes:
        """Return the content; raise UnreadableError, also for a file that is unreasonably large."""
        self._read, self._seen = True, None
        try:
            with self.path.open("rb") as file:
                # Taken before reading: a change meanwhile shows as one the next time.
                self._seen = _signature(os.fstat(file.fileno()))
                content = file.read(_LARGEST + 1)
        except OSError as error:
            raise UnreadableError(f"{self.path}: {error.strerror or type(error).__name__}") from error
        if len(content) > _LARGEST:
            raise UnreadableError(f"{self.path}: larger than {_LARGEST} bytes")
        return content

    def _signature(self) -> Signature | None:
        try:
            return _signature(self.path.stat())
        except OSError:
            return None


def _signature(stat: os.stat_result) -> Signature:
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
