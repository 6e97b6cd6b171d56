"""The keys of a witness: a file that only its owner may read, one key a line."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from meshflow.errors import LedgerError
from meshflow.ledger.format.cosignatures import ED25519, CosigningKey
from meshflow.ledger.format.notes import NoteError


def make_witness_keys(path: Path, name: str, algorithms: Sequence[int] = (ED25519,)) -> list[CosigningKey]:
    """Write a file with a new key for each algorithm; LedgerError when it is there already."""
    keys = [CosigningKey.generate(name, algorithm) for algorithm in algorithms]
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise LedgerError(f"{path} is there already; a witness that changes its key is another witness") from None
    except OSError as error:
        raise LedgerError(f"the witness's key {path} cannot be made: {error.strerror or error}") from error
    with os.fdopen(handle, "w") as file:
        file.writelines(key.secret() + "\n" for key in keys)
        file.flush()
        os.fsync(file.fileno())
    return keys


def read_witness_keys(path: Path) -> list[CosigningKey]:
    """Return the keys in a file."""
    try:
        mode = path.stat().st_mode
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise LedgerError(f"others may read the witness's key {path}; run chmod 600 on it, or make a new one")
        keys = [CosigningKey.parse(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise LedgerError(f"the witness's key {path} cannot be read: {error}") from None
    except NoteError as error:
        raise LedgerError(f"the witness's key {path}: {error}") from None
    if not keys:
        raise LedgerError(f"the witness's key {path} is empty")
    return keys
