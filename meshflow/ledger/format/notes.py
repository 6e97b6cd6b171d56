"""Signed notes (C2SP signed-note): a text, and lines by which keys vouch for it.

A note is the text, which ends in a newline, an empty line, and for each signature a line
``U+2014 SP name SP base64(key id || signature) LF``. A key's id is the first four bytes of
``SHA-256(name || 0x0A || 0x01 || public key)``, 0x01 being Ed25519. A verifier is written ``name+id+base64(0x01 ||
public key)``, a signer ``PRIVATE+KEY+name+id+base64(0x01 || seed)``, as Go's ``sumdb/note`` writes them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from meshflow.errors import LedgerError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ED25519 = b"\x01"
DASH = "\N{EM DASH} "
PRIVATE = "PRIVATE+KEY+"
_MAX_NOTE = 1_000_000
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_MAX_SIGNATURES = 100


class NoteError(LedgerError):
    """A note or key that is malformed, or a note that no key given vouches for."""


def key_id(name: str, key: bytes) -> bytes:
    """Return the four bytes that hint at a key; ``key`` begins with the byte of its algorithm."""
    return sha256(name.encode() + b"\n" + key).digest()[:4]


def check_name(name: str) -> str:
    """Return the name of a key; NoteError when it cannot be one."""
    if not name or "+" in name or any(char.isspace() or not char.isprintable() for char in name):
        raise NoteError("a key's name is not empty and has no white space and no plus sign")
    return name


def decode(text: str, what: str) -> bytes:
    """Return what base64 says; NoteError, which does not show it, when it is none."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise NoteError(f"{what} is not base64") from None


class NoteVerifier(Protocol):
    """Whatever can say that a key signed a note's text: of a log, or of a witness (see ``cosignatures``)."""

    @property
    def name(self) -> str:
        """Return the key's name."""
        ...

    @property
    def id(self) -> bytes:
        """Return the four bytes that hint at the key."""
        ...

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Say whether the signature over a note's text is the key's."""
        ...


V = TypeVar("V", bound=NoteVerifier)


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key with its name."""

    name: str
    public: bytes

    @classmethod
    def parse(cls, text: str) -> Verifier:
        """Return the verifier that a text names; NoteError for another algorithm or a wrong id."""
        name, _, rest = text.strip().partition("+")
        given, _, key_text = rest.partition("+")
        key = decode(key_text, "the key")
        if key[:1] != ED25519 or len(key) != 33:
            raise NoteError(f"the key of {name!r} is not an Ed25519 key")
        if key_id(check_name(name), key).hex() != given:
            raise NoteError(f"the id of key {name!r} is not {given!r}; the text is damaged")
        return cls(name, key[1:])

    @property
    def id(self) -> bytes:
        """Return the key's id."""
        return key_id(self.name, ED25519 + self.public)

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """Say whether the signature is the key's."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key with its name. Its text form is a secret; ``repr`` does not show it."""

    name: str
    seed: bytes = field(repr=False)
    _key: Any = field(repr=False, compare=False)
    _id: bytes = field(repr=False, compare=False)

    @classmethod
    def generate(cls, name: str) -> Signer:
        """Make a new key."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls._of(name, Ed25519PrivateKey.generate())

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Return the signer that a text names; NoteError, which never shows the text, when it is none."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        text = text.strip()
        parts = text.removeprefix(PRIVATE).split("+", 2)
        if not text.startswith(PRIVATE) or len(parts) != 3:
            raise NoteError("a signing key is a text that begins with PRIVATE+KEY+")
        key = decode(parts[2], "the signing key")
        if key[:1] != ED25519 or len(key) != 33:
            raise NoteError("the signing key is not an Ed25519 key")
        signer = cls._of(parts[0], Ed25519PrivateKey.from_private_bytes(key[1:]))
        if signer.verifier.id.hex() != parts[1]:
            raise NoteError("the signing key does not have the id that it names; the text is damaged")
        return signer

    @classmethod
    def _of(cls, name: str, key: Ed25519PrivateKey) -> Signer:
        public = key.public_key().public_bytes_raw()
        return cls(check_name(name), key.private_bytes_raw(), key, key_id(name, ED25519 + public))

    @property
    def verifier(self) -> Verifier:
        """Return the public half."""
        return Verifier(self.name, self._key.public_key().public_bytes_raw())

    def secret(self) -> str:
        """Return the text form, which is as secret as the key."""
        key = base64.b64encode(ED25519 + self.seed).decode()
        return f"{PRIVATE}{self.name}+{self._id.hex()}+{key}"

    def line(self, text: str) -> str:
        """Return the signature line for a note's text."""
        signature = self._id + self._key.sign(text.encode())
        return f"{DASH}{self.name} {base64.b64encode(signature).decode()}\n"


def sign_note(text: str, *signers: Signer) -> str:
    """Return the note of a text under the signatures of all signers."""
    if not text.endswith("\n") or _CONTROL.search(text):
        raise NoteError("a note's text ends in a newline and has no other control characters")
    return text + "\n" + "".join(signer.line(text) for signer in signers)


def split_note(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """Return a note's text, and name, key id and signature of each line; NoteError when it is not a note."""
    if len(note) > _MAX_NOTE:
        raise NoteError("the note is too long")
    text, gap, tail = note.rpartition("\n\n")
    if not gap or not tail.endswith("\n"):
        raise NoteError("the note has no signatures")
    lines = tail[:-1].split("\n")
    if len(lines) > _MAX_SIGNATURES:
        raise NoteError("the note has too many signatures")
    found = []
    for line in lines:
        name, space, encoded = line.removeprefix(DASH).partition(" ")
        signature = decode(encoded, "a signature")
        if not line.startswith(DASH) or not space or len(signature) < 5:
            raise NoteError("a line of the note is not a signature")
        found.append((check_name(name), signature[:4], signature[4:]))
    return text + "\n", found


def open_note(note: str, verifiers: Iterable[V]) -> tuple[str, list[V]]:
    """Return a note's text and which of the verifiers vouch for it.

    NoteError unless one does, and also when a line names a key that is given and its signature is wrong; lines of
    keys that are not given are passed over.
    """
    given = {(verifier.name, verifier.id): verifier for verifier in verifiers}
    text, signatures = split_note(note)
    vouching: list[V] = []
    for name, hint, signature in signatures:
        verifier = given.get((name, hint))
        if verifier is None or verifier in vouching:
            continue
        if not verifier.verifies(text.encode(), signature):
            raise NoteError(f"the signature of {name!r} is not right")
        vouching.append(verifier)
    if not vouching:
        raise NoteError("none of the keys given has signed this note")
    return text, vouching
