"""Claims on threads as locks on files: the system lets go of them when a process ends, however it ends."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
import weakref
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from meshflow.checkpoint.store import CheckpointError, Claim, in_use

_opening = threading.RLock()
_open: weakref.WeakSet[FileIO] = weakref.WeakSet()


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

    def _opened(self, path: Path) -> FileIO:
        for _ in range(100):  # another process, the last to close, may remove the folder that we have just made
            with contextlib.suppress(FileNotFoundError):
                return _opened(path)
            with contextlib.suppress(FileExistsError):
                self._folder.mkdir()
        return _opened(path)

    def close(self) -> None:
        """Remove the folder, if nobody has a claim."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()


class FileClaim:
    """A thread that a run of this process has."""

    lost = False

    def __init__(self, file: FileIO, path: Path) -> None:
        self._file = file
        self._path = path

    async def release(self) -> None:
        """Let go of the thread."""
        if not self._file.closed:
            if sys.platform != "win32":  # there a file that is open cannot be deleted, and another's may not be
                self._path.unlink(missing_ok=True)
            self._file.close()


def _opened(path: Path) -> FileIO:
    with _opening:
        file = path.open("ab", buffering=0)
        _open.add(file)
    return file


def _let_go_in_child() -> None:
    """Close what the parent has open: a lock lasts until nobody has its file open, and it is not the child's."""
    for file in tuple(_open):
        file.close()
    _open.clear()
    _opening.release()


if sys.platform != "win32":
    os.register_at_fork(before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_let_go_in_child)


def _locked(file: FileIO) -> bool:
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


def _is_at(file: FileIO, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(file.fileno()), there)


if TYPE_CHECKING:
    _: type[Claim] = FileClaim
