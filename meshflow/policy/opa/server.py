"""Where an OPA server is, how to trust it, and who puts the bundle there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext, SSLError, create_default_context
from typing import Literal
from urllib.parse import urlsplit

from meshflow.errors import ConfigError

_HERE = "plugins.rego.server"


@dataclass(frozen=True, slots=True)
class OpaServer:
    """An OPA server.

    ``url`` is ``http://host:port`` or ``https://host:port``. ``token`` is ``env:NAME`` or the path of a file, read when
    the engine starts. With ``bundle`` as ``push`` the engine puts the bundle there, under a name made of its digest; as
    ``check`` the server has it already, and reports the digest as the revision of one of its bundles.
    """

    url: str
    token: str | None = None
    ca_file: str | None = None
    client_certificate: str | None = None
    client_key: str | None = None
    timeout_ms: int = 1_000
    connections: int = 64
    bundle: Literal["push", "check"] = "push"
    exclusive: bool = False

    @property
    def address(self) -> tuple[str, int, bool]:
        """Host, port, and whether TLS is spoken; ConfigError for another kind of URL."""
        try:
            parts = urlsplit(self.url)
            port = parts.port
        except ValueError:
            raise ConfigError("not a URL such as https://opa.example:8181", path=f"{_HERE}.url") from None
        extra = parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password
        if parts.scheme not in ("http", "https") or not parts.hostname or extra:
            # What is behind the scheme may be a password, and is not shown.
            raise ConfigError(
                "not the URL of a server such as https://opa.example:8181, without user, path and query",
                path=f"{_HERE}.url",
            )
        secure = parts.scheme == "https"
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return host, port if port is not None else (443 if secure else 80), secure

    def read_token(self, base: Path) -> str | None:
        """Return the bearer token; ConfigError where it is not to be had."""
        if self.token is None:
            return None
        where = f"{_HERE}.token"
        if self.token.startswith("env:"):
            token = os.environ.get(self.token.removeprefix("env:"), "")
        else:
            try:
                token = (base / self.token).read_text("utf-8")
            except (OSError, UnicodeDecodeError):
                raise ConfigError("the token's file cannot be read", path=where) from None
        token = token.strip()
        if not token or not token.isascii() or any(sign.isspace() for sign in token):
            raise ConfigError("holds no token", path=where)
        return token

    def trust(self, base: Path) -> SSLContext | None:
        """Return what verifies the server's certificate; None without TLS."""
        if not self.address[2]:
            if self.ca_file or self.client_certificate:
                raise ConfigError("certificates are of no use with http://", path=f"{_HERE}.url")
            return None
        name = "ca_file"
        try:
            context = create_default_context(cafile=str(base / self.ca_file) if self.ca_file else None)
            if self.client_certificate:
                name = "client_certificate"
                key = str(base / self.client_key) if self.client_key else None
                context.load_cert_chain(str(base / self.client_certificate), key)
        except (OSError, SSLError) as error:
            problem = error.strerror or type(error).__name__
            raise ConfigError(f"cannot be used: {problem}", path=f"{_HERE}.{name}") from None
        return context
