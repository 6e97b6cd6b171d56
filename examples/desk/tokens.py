"""Signed tokens for the desk's agent: one a message, since a token belongs to the first run that shows it."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from joserfc import jwt
from joserfc.jwk import ECKey

ISSUER = "https://id.halden.example"
AUDIENCE = "halden-desk"
AGENT = "desk-agent"
LIFETIME_S = 3600


class TokenDesk:
    """Issues tokens with the private key in a folder; ``make_keys`` puts a new pair there."""

    def __init__(self, folder: Path) -> None:
        self._key = ECKey.import_key((folder / "issuer.key.pem").read_bytes())

    def token(self, tenant: str) -> str:
        """Return a token for one run on behalf of a tenant."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "operations-desk",
            "agent_id": AGENT,
            "roles": ["support"],
            "tenant": tenant,
            "jti": secrets.token_hex(8),
            "iat": now,
            "exp": now + LIFETIME_S,
        }
        return jwt.encode({"alg": "ES256", "typ": "JWT"}, claims, self._key)


def make_keys(folder: Path) -> None:
    """Write a new key pair: the issuer's private key, readable by its owner alone, and the public one."""
    key = ECKey.generate_key("P-256", private=True)
    private = folder / "issuer.key.pem"
    private.touch(mode=0o600)
    private.write_bytes(key.as_pem(private=True))
    (folder / "issuer.pub.pem").write_bytes(key.as_pem(private=False))
