"""Claims on threads as locks on files: the system lets go of them when a process ends, however it ends."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from meshflow.checkpoint.store import CheckpointError, Claim, in_use


class FileClaims:
    """Claims of the processes that share a folder. Each has a file while it lasts; a claim never waits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, tenant: str, thread_id: str) -> FileClaim:
        """Claim a thread; CheckpointConflictError if somebody has it."""
        name = hashlib.sha256(f"{len(tenant)}:{tenant}{thread_id}".encode("utf-8", "surrogatepass")).hexdigest()[:40]
        path = self._folder / name
        try:
            while True:
                file = self._opened(path)
                if not _locked(file):
                    file.close()
                    raise in_use(thread_id)
                if _is_at(file, path):
                    return FileClaim(file, path)
                file.close()  # whoever had it deleted it between our opening and our locking
        except OSError as error:
            raise CheckpointError(f"cannot claim a thread in {self._folder}: {error.strerror or error}") from error

    def _opened(self, path: Path) -> BinaryIO:
        try:
            return path.open("ab")
        except FileNotFoundError:
            self._folder.mkdir(exist_ok=True)
            return path.open("ab")

    def close(self) -> None:
        """Remove the folder, if nobody has a claim."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()


class FileClaim:
    """A thread that a run of this process has."""

    lost = False

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path

    async def release(self) -> None:
        """Let go of the thread."""
        if not self._file.closed:
            if sys.platform != "win32":  # there a file that is open cannot be deleted, and another's may not be
                self._path.unlink(missing_ok=True)
            self._file.close()


def _locked(file: BinaryIO) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, (BlockingIOError, PermissionError)):
            return False
        raise
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file.fileno()), there)


if TYPE_CHECKING:
    _: type[Claim] = FileClaim
