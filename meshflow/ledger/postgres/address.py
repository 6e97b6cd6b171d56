"""Where a ledger in PostgreSQL is: its URL, what of it is ours, and a form of it that may be shown."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from meshflow.errors import ConfigError

SCHEMES = ("postgresql", "postgres")
DEFAULT_SCHEMA = "meshflow"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_OURS = ("schema", "pool_size", "pool_timeout_ms")


class Address:
    """A ``postgresql://`` URL taken apart. ``shown`` has no password; ``url`` and ``dsn`` are never shown.

    ``schema``, ``pool_size`` (connections that read) and ``pool_timeout_ms`` (how long a read waits for one) are ours;
    all other parameters go to the driver, and what that does not know becomes a setting of the session.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            parts = urlsplit(url)
            given = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError:
            raise _refusal("not a URL; write postgresql://user:password@host/database") from None
        if parts.fragment:
            raise _refusal("a # in a password or name is written %23 in a URL")
        own = {name: value for name, value in given if name in _OURS}
        self.schema = own.get("schema", DEFAULT_SCHEMA)
        if not _NAME.fullmatch(self.schema):
            raise _refusal("schema: a name of letters, digits and underscores, 63 of them at most")
        self.pool_size = _number(own, "pool_size", 10, least=1)
        self.pool_timeout_ms = _number(own, "pool_timeout_ms", 10_000, least=0)
        rest = urlencode([(name, value) for name, value in given if name not in _OURS])
        self.dsn = urlunsplit((parts.scheme, parts.netloc, parts.path, rest, ""))
        credentials, at, hosts = parts.netloc.rpartition("@")
        user = unquote(credentials.partition(":")[0])
        self.database = unquote(parts.path.lstrip("/"))
        hosts = hosts or next((value for name, value in given if name == "host"), "")
        schema = "" if self.schema == DEFAULT_SCHEMA else f"?schema={self.schema}"
        self.shown = f"postgresql://{user}{at and user and '@'}{hosts}/{self.database}{schema}"

    def __repr__(self) -> str:
        return f"Address({self.shown!r})"

    @property
    def key_base(self) -> Path:
        """Return the path beside which ``key="auto"`` keeps the signing key: in the working directory."""
        schema = "" if self.schema == DEFAULT_SCHEMA else f"-{self.schema}"
        return Path(f"meshflow-{_ODD.sub('_', self.database) or 'postgres'}{schema}")


def is_address(text: str) -> bool:
    """Say whether a location is the URL of a PostgreSQL database."""
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def _number(given: dict[str, str], name: str, default: int, *, least: int) -> int:
    text = given.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise _refusal(f"{name}: a whole number from {least}")
    return int(text)


def _refusal(problem: str) -> ConfigError:
    return ConfigError(problem, where="ReplayLedger")
