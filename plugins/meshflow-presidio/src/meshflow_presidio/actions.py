"""What takes the place of a piece of sensitive data: a mask, a keyed hash, a sealed token, or a surrogate."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from meshflow.plugin import ConfigError

_SEALED = re.compile(r"<([A-Z][A-Z0-9_]{0,63}):enc:([A-Za-z0-9_-]{38,})>")
_SURROGATE = re.compile(r"<([A-Z][A-Z0-9_]{0,63})_(\d{1,9})>")
_TOKEN = re.compile(r"<[A-Z][A-Z0-9_]{0,79}(?::[0-9a-f]{24}|:enc:[A-Za-z0-9_-]{38,})?>")
MIN_KEY_CHARS = 32


def mask(entity: str) -> str:
    """Return what stands for a value that nobody gets back."""
    return f"<{entity}>"


def is_token(text: str) -> bool:
    """True for what this module puts in place of a value."""
    return _TOKEN.fullmatch(text) is not None


class KeyedTokens:
    """Keyed hashes and authenticated encryption, each bound to the tenant and the entity."""

    def __init__(self, key: str) -> None:
        secret = key.encode()
        self._hash_key = hmac.digest(secret, b"meshflow/presidio/hash/v1", "sha256")
        self._aead = AESGCM(hmac.digest(secret, b"meshflow/presidio/encrypt/v1", "sha256"))

    @classmethod
    def from_environment(cls, name: str | None, environ: Mapping[str, str]) -> KeyedTokens:
        """Return the tokens under the key in an environment variable; raise ConfigError where it is no key."""
        path = "plugins.presidio.key_env"
        if name is None:
            raise ConfigError("hash and encrypt need a key; name the environment variable that holds it", path=path)
        key = environ.get(name, "")
        if len(key) < MIN_KEY_CHARS:
            raise ConfigError(
                f"{name} must hold a key of at least {MIN_KEY_CHARS} characters; it has {len(key)}", path=path
            )
        return cls(key)

    def hashed(self, entity: str, value: str, tenant: str) -> str:
        """Return the same token for the same value of the same tenant, and nothing that leads back to it."""
        message = "\x00".join((tenant, entity, value)).encode("utf-8", "surrogatepass")
        return f"<{entity}:{hmac.new(self._hash_key, message, hashlib.sha256).hexdigest()[:24]}>"

    def sealed(self, entity: str, value: str, tenant: str) -> str:
        """Return the value encrypted (AES-256-GCM, random nonce)."""
        nonce = os.urandom(12)
        box = self._aead.encrypt(nonce, value.encode("utf-8", "surrogatepass"), f"{tenant}\x00{entity}".encode())
        return f"<{entity}:enc:{base64.urlsafe_b64encode(nonce + box).decode().rstrip('=')}>"

    def opened(self, text: str, tenant: str) -> str:
        """Return the text with each token of this tenant decrypted; a token that was changed stays as it is."""

        def open_one(match: re.Match[str]) -> str:
            entity, data = match.groups()
            try:
                raw = base64.urlsafe_b64decode(data + "=" * (-len(data) % 4))
                box = self._aead.decrypt(raw[:12], raw[12:], f"{tenant}\x00{entity}".encode())
            except (InvalidTag, ValueError, binascii.Error):
                return match.group()
            return box.decode("utf-8", "surrogatepass")

        return _SEALED.sub(open_one, text)


class _Run:
    """The surrogates of one run. Numbers begin after ``floor``, so that they never repeat those of a forgotten run."""

    __slots__ = ("by_value", "counts", "floor", "values")

    def __init__(self, floor: int) -> None:
        self.floor = floor
        self.by_value: dict[tuple[str, str], str] = {}
        self.values: dict[str, str] = {}
        self.counts: dict[str, int] = {}


class _Shelf:
    """What several vaults of one process share: after a reload the same value has the same name."""

    __slots__ = ("floor", "lock", "runs")

    def __init__(self) -> None:
        self.runs: OrderedDict[tuple[str, str], _Run] = OrderedDict()
        self.floor = 0
        self.lock = threading.Lock()


class Vault:
    """Surrogates by run: the same value, the same name. Bounded in runs and in values, in memory only.

    One made with ``previous`` goes on with its surrogates.
    """

    def __init__(self, max_runs: int, max_values: int, previous: Vault | None = None) -> None:
        self._max_runs = max_runs
        self._max_values = max_values
        self._shelf: _Shelf = previous._shelf if previous is not None else _Shelf()

    def surrogate(self, run: tuple[str, str], entity: str, value: str, *, look_only: bool) -> str:
        """Return the value's surrogate in the run; with ``look_only`` nothing is remembered."""
        with self._shelf.lock:
            table = self._shelf.runs.get(run) or self._new(run, look_only=look_only)
            known = table.by_value.get((entity, value))
            if known is not None:
                return known
            if len(table.by_value) >= self._max_values:
                return mask(entity)
            count = table.counts.get(entity, 0) + 1
            name = f"<{entity}_{table.floor + count}>"
            if not look_only:
                self._shelf.runs.move_to_end(run)
                table.by_value[entity, value] = name
                table.values[name] = value
                table.counts[entity] = count
            return name

    def _new(self, run: tuple[str, str], *, look_only: bool) -> _Run:
        """Return the table of a run not seen before, or forgotten; remembered unless only looked at."""
        if look_only:
            return _Run(self._shelf.floor)
        while len(self._shelf.runs) >= self._max_runs:
            _, old = self._shelf.runs.popitem(last=False)
            self._shelf.floor = max(self._shelf.floor, old.floor + max(old.counts.values(), default=0))
        table = self._shelf.runs[run] = _Run(self._shelf.floor)
        return table

    def restored(self, text: str, run: tuple[str, str]) -> str:
        """Return the text with the surrogates of this run turned back."""
        with self._shelf.lock:
            table = self._shelf.runs.get(run)
            values = dict(table.values) if table is not None else {}
        return _SURROGATE.sub(lambda match: values.get(match.group(), match.group()), text)
