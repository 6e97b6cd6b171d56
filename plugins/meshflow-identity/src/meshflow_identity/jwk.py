"""Which JSON Web Keys may verify agent tokens (RFC 7517, 7518, 8037)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
PUBLIC_MEMBERS: Final = {"OKP": ("crv", "x"), "EC": ("crv", "x", "y"), "RSA": ("n", "e")}
CURVES: Final = {"OKP": "Ed25519", "EC": "P-256"}
ALGORITHM_OF: Final = {"OKP": "EdDSA", "EC": "ES256", "RSA": "RS256"}


def secret_member(jwk: Mapping[str, Any]) -> str | None:
    """Return the name of a member that only a private or shared key has."""
    return next((name for name in sorted(PRIVATE_MEMBERS) if name in jwk), None)


def refusal(jwk: Mapping[str, Any]) -> str | None:
    """Return why a key cannot verify tokens; None if it can."""
    secret = secret_member(jwk)
    if secret is not None:
        return f"this is a private or shared key (it has {secret!r}); configure the public half only"
    kty = jwk.get("kty")
    if not isinstance(kty, str) or kty not in PUBLIC_MEMBERS:
        return f"a key must be of type {sorted(PUBLIC_MEMBERS)} in kty"
    if kty in CURVES and jwk.get("crv") != CURVES[kty]:
        return f"a key of type {kty} must have crv {CURVES[kty]!r}"
    missing = [name for name in PUBLIC_MEMBERS[kty] if not isinstance(jwk.get(name), str)]
    if missing:
        return f"a key of type {kty} needs {missing}"
    if jwk.get("use", "sig") != "sig":
        return "a key must be for signatures (use: sig)"
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return "a key must allow verify in key_ops"
    names = ("EdDSA", "Ed25519") if kty == "OKP" else (ALGORITHM_OF[kty],)
    if jwk.get("alg", names[0]) not in names:
        return f"a key of type {kty} verifies {names[0]}, not what its alg says"
    if not isinstance(jwk.get("kid", ""), str):
        return "a kid must be a text"
    return None
