"""Where the key comes from that signs checkpoints: a file of one's own, or an environment variable."""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from meshflow.errors import LedgerError
from meshflow.ledger.format.notes import NoteError, Signer

ENVIRONMENT = "env:"


class KeySource(Protocol):
    """Whatever holds the signing key; a KMS would be another one."""

    def load(self, name: str, make: bool) -> Signer:
        """Return the key; with ``make``, make one of that name if there is none. LedgerError when there is none."""
        ...

    def prepare(self, name: str) -> Signer:
        """Make the key that comes next and keep it aside."""
        ...

    def pending(self) -> Signer | None:
        """Return the key kept aside, if there is one."""
        ...

    def promote(self) -> None:
        """Put the key kept aside in the place of the one in use."""
        ...


def key_source(key: str | Path | None, ledger: Path) -> KeySource | None:
    """Return the source that a setting names.

    ``auto`` is the file beside the ledger, made on first use; ``env:NAME`` is a variable; None signs nothing; all
    else is the path of a file, made if it is not there.
    """
    if key is None:
        return None
    if key == "auto":
        return KeyFile(ledger.with_name(ledger.name + ".key"))
    text = str(key)
    return KeyVariable(text.removeprefix(ENVIRONMENT)) if text.startswith(ENVIRONMENT) else KeyFile(Path(key))


@dataclass(frozen=True, slots=True)
class KeyVariable:
    """A key in an environment variable."""

    variable: str

    def load(self, name: str, make: bool) -> Signer:
        """Return the key in the variable; none is ever made."""
        text = os.environ.get(self.variable)
        if not text:
            raise LedgerError(f"the signing key is expected in the variable {self.variable}, which is not set")
        try:
            return Signer.parse(text)
        except NoteError as error:
            raise LedgerError(f"variable {self.variable}: {error}") from None

    def prepare(self, name: str) -> Signer:
        """Refuse: nothing could be kept."""
        raise LedgerError("a key in a variable cannot be replaced from here; name the new key's file or variable")

    def pending(self) -> Signer | None:
        """Return none."""
        return None

    def promote(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A key in a file that nobody but its owner may read."""

    path: Path

    def load(self, name: str, make: bool) -> Signer:
        """Return the key in the file."""
        if not self.path.exists():
            if not make:
                raise LedgerError(f"the signing key {self.path} is gone; put it back, or name where it is now")
            self._make(self.path, name)
        return self._read(self.path)

    def prepare(self, name: str) -> Signer:
        """Make the next key beside the file."""
        self._next.unlink(missing_ok=True)
        self._make(self._next, name)
        return self._read(self._next)

    def pending(self) -> Signer | None:
        """Return the key that ``prepare`` made."""
        return self._read(self._next) if self._next.exists() else None

    def promote(self) -> None:
        """Move the next key over the old one."""
        self._next.replace(self.path)
        _sync_folder(self.path.parent)

    @property
    def _next(self) -> Path:
        return self.path.with_name(self.path.name + ".next")

    @staticmethod
    def _make(path: Path, name: str) -> None:
        write_secret(path, Signer.generate(name).secret())

    @staticmethod
    def _read(path: Path) -> Signer:
        try:
            return Signer.parse(read_secret(path))
        except NoteError as error:
            raise LedgerError(f"the signing key {path}: {error}") from None


def write_secret(path: Path, secret: str) -> None:
    """Write a new key whole or not at all; when two make one at once, the first stays."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(secret + "\n")
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)
            except FileExistsError:
                return
        finally:
            os.unlink(temporary)
        _sync_folder(path.parent)
    except OSError as error:
        raise LedgerError(f"the signing key {path} cannot be made: {error.strerror or error}") from error


def read_secret(path: Path) -> str:
    """Return a key that only its owner may read."""
    try:
        mode = path.stat().st_mode
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise LedgerError(f"others may read the signing key {path}; run chmod 600 on it, or replace the key")
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"the signing key {path} cannot be read: {error}") from None


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
