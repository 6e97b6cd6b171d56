"""Checkpoints (C2SP tlog-checkpoint): what a log says of itself at a size, as a signed note; proofs against them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from meshflow.errors import LedgerError
from meshflow.ledger.format.chain import entry_hash
from meshflow.ledger.format.merkle import leaf_hash, verify_consistency, verify_inclusion
from meshflow.ledger.format.notes import (
    NoteError,
    NoteVerifier,
    Signer,
    Verifier,
    decode,
    open_note,
    sign_note,
    split_note,
)

ROTATION = "meshflow/rotation/v1"


class Checkpoint(NamedTuple):
    """The origin of a log, its size and its root; written as one line each, the root in base64."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the text of the note."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    def sign(self, *signers: Signer) -> str:
        """Return the signed note."""
        return sign_note(self.text(), *signers)

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Return the checkpoint of a note's text; further lines are extensions, which are passed over."""
        lines = text.split("\n")
        if len(lines) < 4 or lines[-1] or "" in lines[:-1]:
            raise NoteError("a checkpoint has an origin, a size and a root, a line each")
        size, root = lines[1], lines[2]
        if not (size.isascii() and size.isdigit()) or (size[0] == "0" and size != "0") or len(size) > 18:
            raise NoteError("the size of a checkpoint is a decimal number without leading zeros")
        try:
            digest = base64.b64decode(root, validate=True)
        except (binascii.Error, ValueError):
            digest = b""
        if len(digest) != 32:
            raise NoteError("the root of a checkpoint is a hash in base64")
        return cls(lines[0], int(size), digest)


def read_checkpoint(note: str) -> Checkpoint:
    """Return what a note says without asking who signed it."""
    return Checkpoint.parse(split_note(note)[0])


def open_checkpoint(note: str, verifiers: Iterable[NoteVerifier], origin: str | None = None) -> Checkpoint:
    """Return what a note says once one of the verifiers vouches for it; NoteError otherwise, or for another log's."""
    checkpoint = Checkpoint.parse(open_note(note, verifiers)[0])
    if origin is not None and checkpoint.origin != origin:
        raise NoteError(f"the checkpoint is of log {checkpoint.origin!r}, not of {origin!r}")
    return checkpoint


def rotation_text(checkpoint: Checkpoint, old: Verifier, new: Verifier) -> str:
    """Return what the old key signs to hand over to the new one, from the checkpoint's size on."""
    return f"{ROTATION}\n{checkpoint.text()}{old}\n{new}\n"


def open_rotation(note: str, old: Verifier) -> tuple[Checkpoint, Verifier]:
    """Return where the old key handed over, and to which; NoteError unless the old key signed that."""
    lines = open_note(note, [old])[0].split("\n")
    if len(lines) != 7 or lines[0] != ROTATION or lines[4] != str(old) or lines[6]:
        raise NoteError("the note is not the rotation of this key")
    return Checkpoint.parse("\n".join(lines[1:4]) + "\n"), Verifier.parse(lines[5])


def verifiers_of(keys: Iterable[str | Verifier] | None) -> list[Verifier]:
    """Return Ed25519 verifiers from their texts."""
    return [key if isinstance(key, Verifier) else Verifier.parse(key) for key in keys or ()]


def log_key(text: str) -> NoteVerifier:
    """Return the public key of a log from its text: Ed25519, or ML-DSA-44 (see ``companions``)."""
    from meshflow.ledger.format.cosignatures import ML_DSA_44, Cosigner

    algorithm = decode(text.strip().partition("+")[2].partition("+")[2], "the key")[:1]
    return Cosigner.parse(text) if algorithm == bytes([ML_DSA_44]) else Verifier.parse(text)


def log_keys(keys: Iterable[str | NoteVerifier]) -> list[NoteVerifier]:
    """Return the public keys of a log from their texts."""
    return [log_key(key) if isinstance(key, str) else key for key in keys]


def check_inclusion(proof: Mapping[str, Any], keys: Iterable[str | NoteVerifier]) -> Checkpoint:
    """Check what ``ReplayLedger.prove`` returned, with nothing but the keys, and return the checkpoint it leads to.

    LedgerError says what does not hold: the entry's hash, the path to the root, or the signature.
    """
    checkpoint = open_checkpoint(proof["checkpoint"], log_keys(keys), proof["origin"])
    entry = proof["entry"]
    digest = entry_hash(proof["run_id"], proof["seq"], bytes.fromhex(entry["prev_hash"]), entry["body"].encode())
    if digest.hex() != entry["entry_hash"]:
        raise LedgerError("the entry does not have the hash that is proven")
    path = [bytes.fromhex(step) for step in proof["path"]]
    if not verify_inclusion(leaf_hash(digest), proof["leaf_index"], checkpoint.size, path, checkpoint.root):
        raise LedgerError("the path does not lead from the entry to the root of the checkpoint")
    return checkpoint


def check_consistency(old: str, new: str, path: Iterable[str], keys: Iterable[str | NoteVerifier]) -> None:
    """Check that the log of the newer checkpoint begins with that of the older one; LedgerError when not."""
    verifiers = log_keys(keys)
    before = open_checkpoint(old, verifiers)
    after = open_checkpoint(new, verifiers, before.origin)
    steps = [bytes.fromhex(step) for step in path]
    if not verify_consistency(before.size, after.size, before.root, after.root, steps):
        raise LedgerError(f"the log at size {after.size} does not begin with the one at size {before.size}")
