"""The keys that tokens may be signed with, kept up to date with their files."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshflow_identity.files import UnreadableError, WatchedFile
from meshflow_identity.jwk import refusal, secret_member
from meshflow_identity.settings import KeySettings

if TYPE_CHECKING:
    from joserfc.jwk import Key

_MOST_KEYS = 1_000


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key, its id and its type (``OKP``, ``EC`` or ``RSA``)."""

    kid: str | None
    kty: str
    key: Key


class KeyRing:
    """All configured keys. ``generation`` grows with each reading; ``problem`` is why none may be used."""

    def __init__(self, keys: tuple[KeySettings, ...], jwks_file: Path | None, base: Path) -> None:
        self._static = keys
        self._pems = [WatchedFile(base / key.pem) if key.pem is not None else None for key in keys]
        self._jwks = WatchedFile(jwks_file) if jwks_file is not None else None
        self._lock = threading.Lock()
        self._loaded = False
        self._keys: tuple[PublicKey, ...] = ()
        self.generation = 0
        self.problem: str | None = None

    def stale(self) -> bool:
        """Return whether ``refresh`` has something to do, or is at it: nobody goes on with what is being replaced."""
        return self._lock.locked() or self._changed()

    def refresh(self) -> None:
        """Read all keys anew. What cannot be read makes every token fail until it can: an old key may be a bad one."""
        with self._lock:
            if not self._changed():
                return
            try:
                self._keys, self.problem = tuple(self._read()), None
            except UnreadableError as error:
                self._keys, self.problem = (), str(error)
            self._loaded = True
            self.generation += 1

    def fitting(self, kid: str | None) -> list[PublicKey]:
        """Return the keys of that id, or else those without any; all keys for a token that names none."""
        if kid is None:
            return list(self._keys)
        named = [key for key in self._keys if key.kid == kid]
        return named or [key for key in self._keys if key.kid is None]

    def _changed(self) -> bool:
        return not self._loaded or any(file is not None and file.changed() for file in (*self._pems, self._jwks))

    def _read(self) -> list[PublicKey]:
        keys = [self._read_one(key, pem) for key, pem in zip(self._static, self._pems, strict=True)]
        if self._jwks is not None:
            keys.extend(_read_set(self._jwks))
        return keys

    def _read_one(self, settings: KeySettings, pem: WatchedFile | None) -> PublicKey:
        from meshflow_identity.signature import key_from_jwk, key_from_pem

        if pem is None:
            jwk = settings.jwk or {}
            try:
                return PublicKey(jwk.get("kid"), jwk["kty"], key_from_jwk(jwk))
            except ValueError as error:
                raise UnreadableError(f"keys: jwk {jwk.get('kid')!r}: {error}") from error
        content = pem.read()
        try:
            kty, key = key_from_pem(content)
        except ValueError as error:
            raise UnreadableError(f"{pem.path}: {error}") from error
        return PublicKey(settings.kid, kty, key)


def _read_set(file: WatchedFile) -> list[PublicKey]:
    from meshflow_identity.signature import key_from_jwk

    entries = _entries(file)
    keys: list[PublicKey] = []
    for jwk in entries:
        if jwk.get("kty") != "oct" and secret_member(jwk) is not None:
            raise UnreadableError(f"{file.path}: holds a private key; publish the public halves only")
        # Keys that are not understood, or serve another purpose, are passed over (RFC 7517, section 5).
        if refusal(jwk) is not None:
            continue
        try:
            keys.append(PublicKey(jwk.get("kid"), jwk["kty"], key_from_jwk(jwk)))
        except ValueError as error:
            raise UnreadableError(f"{file.path}: {error}") from error
    return keys


def _entries(file: WatchedFile) -> list[dict[str, Any]]:
    content = file.read()
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{file.path}: not JSON") from error
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UnreadableError(f"{file.path}: not a JSON Web Key Set, which is an object with a list of keys")
    if len(entries) > _MOST_KEYS:
        raise UnreadableError(f"{file.path}: more than {_MOST_KEYS} keys")
    return entries
