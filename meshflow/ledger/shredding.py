"""Payloads under data keys of a run or a subject, each wrapped by a key from outside: without its key nothing opens."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from meshflow.errors import ConfigError, LedgerError
from meshflow.ledger.format.chain import SALT_BYTES

SCOPES = ("none", "run", "subject")
KEY_BYTES = 32
_NONCE = 12
_ID = 8
_WRAP_TAG = b"meshflow/wrap/v1\x00"
_SEAL_TAG = b"meshflow/sealed/v1\x00"


class LockedError(LedgerError):
    """Payloads are encrypted, and the key given does not open them, or none was given."""


class WrappingKey:
    """The key that wraps data keys; it lies outside the ledger and its backups."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigError(f"the key has {len(key)} bytes, not {KEY_BYTES}", where="ledger.key_encryption_key")
        self._key = AESGCM(key)
        self.id = sha256(b"meshflow/kek/v1\x00" + key).digest()[:_ID]

    def wrap(self, data_key: bytes, label: bytes) -> bytes:
        """Return a data key encrypted, bound to its label, and marked with who wrapped it."""
        nonce = os.urandom(_NONCE)
        return self.id + nonce + self._key.encrypt(nonce, data_key, _WRAP_TAG + label)

    def unwrap(self, wrapped: bytes, label: bytes) -> bytes:
        """Return the data key; LockedError when another key wrapped it."""
        if wrapped[:_ID] != self.id:
            raise LockedError(
                f"the payloads are under the key-encryption key {wrapped[:_ID].hex()}, the one given is "
                f"{self.id.hex()}; nothing was changed. Give the key that this ledger was written with"
            )
        try:
            return self._key.decrypt(wrapped[_ID : _ID + _NONCE], wrapped[_ID + _NONCE :], _WRAP_TAG + label)
        except InvalidTag:
            raise LockedError("a wrapped data key is damaged; restore the ledger's table of keys") from None


def wrapping_key(source: str, environment: Mapping[str, str] = os.environ) -> WrappingKey:
    """Return the key in ``env:NAME`` or in a file, 32 bytes in base64; ConfigError never shows it."""
    where = "ledger.key_encryption_key"
    if source.startswith("env:"):
        text = environment.get(source[4:], "")
        if not text:
            raise ConfigError(f"variable {source[4:]} is not set", where=where)
    else:
        path = Path(source)
        try:
            if path.stat().st_mode & 0o077:
                raise ConfigError(f"{path} can be read by others; chmod 600 it", where=where)
            text = path.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {type(error).__name__}", where=where) from None
    try:
        return WrappingKey(base64.b64decode(text.strip(), validate=True))
    except binascii.Error:
        raise ConfigError(f"{source} does not hold {KEY_BYTES} bytes in base64", where=where) from None


def seal_payload(data_key: bytes, payload_id: int, salt: bytes, data: bytes) -> bytes:
    """Return salt and data encrypted, bound to the place that they have in the ledger."""
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(data_key).encrypt(nonce, salt + data, _SEAL_TAG + payload_id.to_bytes(8, "big"))


def open_payload(data_key: bytes, payload_id: int, sealed: bytes) -> tuple[bytes, bytes] | None:
    """Return salt and data; None when the bytes are not what was encrypted here under that key."""
    try:
        clear = AESGCM(data_key).decrypt(sealed[:_NONCE], sealed[_NONCE:], _SEAL_TAG + payload_id.to_bytes(8, "big"))
    except (InvalidTag, ValueError):
        return None
    return clear[:SALT_BYTES], clear[SALT_BYTES:]
