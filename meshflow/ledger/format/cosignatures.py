"""Cosignatures (C2SP tlog-cosignature): by which a witness says that a checkpoint extends all it has seen of a log.

A cosignature is a signature line of a note, over more than the note's text: a time, in seconds since 1970, is signed
with it and stands in front of the signature, as eight bytes. What is signed is

- for Ed25519 (0x04) ``cosignature/v1 LF time SP seconds LF`` and the note's text;
- for ML-DSA-44 (0x06) ``subtree/v1 LF NUL``, the witness's name and the log's origin, each behind a byte of length, and
  between them the time; then 0, the size, each in eight bytes, and the root.

Keys are written as those of notes, with these bytes for the algorithm.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from meshflow.errors import LedgerError
from meshflow.ledger.format.checkpoints import Checkpoint, read_checkpoint
from meshflow.ledger.format.notes import (
    DASH,
    PRIVATE,
    NoteError,
    check_name,
    decode,
    key_id,
    open_note,
    split_note,
)

ED25519 = 0x04
ML_DSA_44 = 0x06
ALGORITHMS = {"ed25519": ED25519, "ml-dsa-44": ML_DSA_44}
_PUBLIC_BYTES = {ED25519: 32, ML_DSA_44: 1_312}
_SIGNATURE_BYTES = {ED25519: 64, ML_DSA_44: 2_420}
_SEED_BYTES = 32


@dataclass(frozen=True, slots=True)
class Cosigner:
    """The public key of a witness with its name."""

    name: str
    algorithm: int
    public: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Cosigner:
        """Return the witness key that a text names; NoteError for another algorithm or a wrong id."""
        name, _, rest = text.strip().partition("+")
        given, _, key_text = rest.partition("+")
        key = decode(key_text, "the key")
        if not key or len(key) - 1 != _PUBLIC_BYTES.get(key[0]):
            raise NoteError(f"the key of {name!r} is not one that cosigns: Ed25519 (0x04) or ML-DSA-44 (0x06)")
        if key_id(check_name(name), key).hex() != given:
            raise NoteError(f"the id of key {name!r} is not {given!r}; the text is damaged")
        return cls(name, key[0], key[1:])

    @property
    def id(self) -> bytes:
        """Return the key's id."""
        return key_id(self.name, bytes([self.algorithm]) + self.public)

    def __str__(self) -> str:
        key = base64.b64encode(bytes([self.algorithm]) + self.public).decode()
        return f"{self.name}+{self.id.hex()}+{key}"

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Say whether the signature, with its time, is the key's over a checkpoint's text."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        if len(signature) != 8 + _SIGNATURE_BYTES[self.algorithm] or signature[0] & 0x80:
            return False
        try:
            signed = signed_bytes(self.name, self.algorithm, message.decode(), int.from_bytes(signature[:8]))
            if self.algorithm == ED25519:
                Ed25519PublicKey.from_public_bytes(self.public).verify(signature[8:], signed)
            else:
                _ml_dsa().MLDSA44PublicKey.from_public_bytes(self.public).verify(signature[8:], signed)
        except (InvalidSignature, ValueError, NoteError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class CosigningKey:
    """The private key of a witness with its name. Its text form is a secret; ``repr`` does not show it."""

    name: str
    algorithm: int
    seed: bytes = field(repr=False)
    _key: Any = field(repr=False, compare=False)

    @classmethod
    def generate(cls, name: str, algorithm: int = ED25519) -> CosigningKey:
        """Make a new key."""
        import secrets

        return cls._of(name, algorithm, secrets.token_bytes(_SEED_BYTES))

    @classmethod
    def parse(cls, text: str) -> CosigningKey:
        """Return the key that a text names; NoteError, which never shows the text, when it is none."""
        text = text.strip()
        parts = text.removeprefix(PRIVATE).split("+", 2)
        if not text.startswith(PRIVATE) or len(parts) != 3:
            raise NoteError("a witness's key is a text that begins with PRIVATE+KEY+")
        key = decode(parts[2], "the witness's key")
        if len(key) != 1 + _SEED_BYTES or key[0] not in _PUBLIC_BYTES:
            raise NoteError("the witness's key is not one that cosigns: Ed25519 (0x04) or ML-DSA-44 (0x06)")
        found = cls._of(parts[0], key[0], key[1:])
        if found.verifier.id.hex() != parts[1]:
            raise NoteError("the witness's key does not have the id that it names; the text is damaged")
        return found

    @classmethod
    def _of(cls, name: str, algorithm: int, seed: bytes) -> CosigningKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        if algorithm == ED25519:
            return cls(check_name(name), algorithm, seed, Ed25519PrivateKey.from_private_bytes(seed))
        return cls(check_name(name), algorithm, seed, _ml_dsa().MLDSA44PrivateKey.from_seed_bytes(seed))

    @property
    def verifier(self) -> Cosigner:
        """Return the public half."""
        return Cosigner(self.name, self.algorithm, self._key.public_key().public_bytes_raw())

    def secret(self) -> str:
        """Return the text form, which is as secret as the key."""
        key = base64.b64encode(bytes([self.algorithm]) + self.seed).decode()
        return f"{PRIVATE}{self.name}+{self.verifier.id.hex()}+{key}"

    def line(self, text: str, at_s: int) -> str:
        """Return the signature line for a checkpoint's text, as of a time."""
        signature = self._key.sign(signed_bytes(self.name, self.algorithm, text, at_s))
        whole = self.verifier.id + at_s.to_bytes(8) + signature
        return f"{DASH}{self.name} {base64.b64encode(whole).decode()}\n"


class Cosignature(NamedTuple):
    """Who cosigned, and when, in seconds since 1970."""

    cosigner: Cosigner
    at_s: int


def signed_bytes(name: str, algorithm: int, text: str, at_s: int) -> bytes:
    """Return what a cosignature of a checkpoint's text signs; NoteError for a text that cannot be cosigned so."""
    if algorithm == ED25519:
        return f"cosignature/v1\ntime {at_s}\n{text}".encode()
    checkpoint = Checkpoint.parse(text)
    return b"".join((
        b"subtree/v1\n\0", _behind_length(name), at_s.to_bytes(8), _behind_length(checkpoint.origin), bytes(8),
        checkpoint.size.to_bytes(8), checkpoint.root,
    ))  # fmt: skip


def _behind_length(name: str) -> bytes:
    data = name.encode()
    if not 0 < len(data) < 256:
        raise NoteError("a name that an ML-DSA-44 cosignature carries has 1 to 255 bytes")
    return bytes([len(data)]) + data


def _ml_dsa() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import mldsa
    except ImportError:
        raise LedgerError("ML-DSA-44 needs a newer cryptography: pip install 'cryptography>=47'") from None
    return mldsa


def cosignatures(note: str, cosigners: Iterable[Cosigner]) -> list[Cosignature]:
    """Return which of the witnesses cosigned a checkpoint; NoteError when a line of one of them is not right.

    A cosignature without a time says nothing of what its witness had seen, and does not count.
    """
    known = {(one.name, one.id): one for one in cosigners}
    signatures = split_note(note)[1]
    if not any((name, hint) in known for name, hint, _ in signatures):
        return []
    read_checkpoint(note)
    _, vouching = open_note(note, known.values())
    times = {(name, hint): int.from_bytes(signature[:8]) for name, hint, signature in reversed(signatures)}
    found = [Cosignature(one, times[one.name, one.id]) for one in vouching]
    return [one for one in found if one.at_s]


def with_lines(note: str, lines: str, cosigners: Iterable[Cosigner]) -> str:
    """Return a note with those of further signature lines that are cosignatures of the witnesses, each once."""
    known = {(one.name, one.id) for one in cosigners}
    text, there = split_note(note)
    have = {(name, hint) for name, hint, _ in there}
    kept = note
    for (name, hint, _), line in zip(split_note(text + "\n" + lines)[1], lines.splitlines(), strict=True):
        if (name, hint) in known - have:
            kept += line + "\n"
            have.add((name, hint))
    cosignatures(kept, cosigners)
    return kept
