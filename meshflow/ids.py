"""Ids that the library makes: letters alone, since one with digits may by chance be taken for a card or a licence.

A scan for sensitive data masks what it finds wherever an output tells it, and a masked id names nothing.
"""

from __future__ import annotations

import secrets
from hashlib import sha256

_LETTERS = str.maketrans("0123456789", "ghijklmnop")


def new_id(kind: str, size: int = 8) -> str:
    """Return ``kind-`` and ``size`` random bytes, two letters a byte."""
    return f"{kind}-{secrets.token_hex(size).translate(_LETTERS)}"


def id_of(*parts: str, size: int = 16) -> str:
    """Return an id that is always the same for these parts: ``size`` bytes of their SHA-256, two letters a byte."""
    return sha256("\x1f".join(parts).encode()).hexdigest()[: 2 * size].translate(_LETTERS)


def digest_id(data: bytes) -> str:
    """Return the whole SHA-256 of ``data``, two letters a byte."""
    return sha256(data).hexdigest().translate(_LETTERS)
