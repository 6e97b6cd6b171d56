"""A second key that signs each checkpoint beside the first: ML-DSA-44, which withstands quantum computers.

Its signature is a line of the same note, as C2SP tlog-checkpoint advises: a cosignature (0x06) by the log, without
a time. Whoever does not know it passes it over. It lies beside the first key and is not handed over with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from meshflow.errors import LedgerError
from meshflow.ledger.format.checkpoints import log_key, read_checkpoint
from meshflow.ledger.format.cosignatures import ML_DSA_44, Cosigner, CosigningKey
from meshflow.ledger.format.keys import KeyFile, KeySource, KeyVariable, read_secret, write_secret
from meshflow.ledger.format.notes import NoteError, Verifier, open_note

_SUFFIX = ".ml-dsa-44"


class CompanionSource(Protocol):
    """Whatever holds the second key."""

    def load(self, name: str, make: bool) -> CosigningKey:
        """Return the key; with ``make``, make one of that name if there is none. LedgerError when there is none."""
        ...


def companion_of(key: KeySource | None) -> CompanionSource:
    """Return where the second key is: in a file beside the first, or in a variable named after its variable."""
    if isinstance(key, KeyFile):
        return CompanionFile(key.path.with_name(key.path.name + _SUFFIX))
    if isinstance(key, KeyVariable):
        return CompanionVariable(f"{key.variable}_ML_DSA_44")
    raise LedgerError("an ML-DSA-44 key signs beside the signing key; name a file or a variable for that one")


@dataclass(frozen=True, slots=True)
class CompanionFile:
    """The second key in a file that nobody but its owner may read."""

    path: Path

    def load(self, name: str, make: bool) -> CosigningKey:
        """Return the key in the file."""
        if not self.path.exists():
            if not make:
                raise LedgerError(f"the signing key {self.path} is not there; the first checkpoint makes it")
            write_secret(self.path, CosigningKey.generate(name, ML_DSA_44).secret())
        return _parsed(read_secret(self.path), str(self.path), name)


@dataclass(frozen=True, slots=True)
class CompanionVariable:
    """The second key in an environment variable."""

    variable: str

    def load(self, name: str, make: bool) -> CosigningKey:
        """Return the key in the variable; none is ever made."""
        text = os.environ.get(self.variable)
        if not text:
            raise LedgerError(f"the ML-DSA-44 key is expected in the variable {self.variable}, which is not set")
        return _parsed(text, self.variable, name)


def _parsed(text: str, place: str, name: str) -> CosigningKey:
    try:
        key = CosigningKey.parse(text)
    except NoteError as error:
        raise LedgerError(f"the signing key {place}: {error}") from None
    if key.algorithm != ML_DSA_44 or key.name != name:
        raise LedgerError(f"the signing key {place} is not an ML-DSA-44 key of log {name}")
    return key


def split_keys(keys: Iterable[str]) -> tuple[list[Verifier], list[Cosigner]]:
    """Return the Ed25519 keys and the ML-DSA-44 keys among public keys of logs."""
    parsed = [log_key(key) for key in keys]
    return [key for key in parsed if isinstance(key, Verifier)], [key for key in parsed if isinstance(key, Cosigner)]


def signed_by_companion(note: str | None, keys: list[Cosigner]) -> str:
    """Return why none of the ML-DSA-44 keys has signed a checkpoint, or nothing."""
    if note is None:
        return "there is no checkpoint that an ML-DSA-44 key could have signed"
    origin = read_checkpoint(note).origin
    try:
        open_note(note, [key for key in keys if key.name == origin])
    except NoteError as error:
        return f"the newest checkpoint and the ML-DSA-44 keys given: {error}"
    return ""
