"""Reads a signed token: its shape, its header, its key and its signature (RFC 7515, 7519, 8725). Claims come after."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Any, Final

from meshflow_identity import codes
from meshflow_identity.jwk import ALGORITHM_OF
from meshflow_identity.refused import RefusedError, shown

if TYPE_CHECKING:
    from meshflow_identity.keys import KeyRing, PublicKey

_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", re.ASCII)
_BRINGS_A_KEY: Final = ("jwk", "jku", "x5u", "x5c")
_OF_ONE_CURVE: Final = {"Ed25519": "EdDSA"}
_MOST_TRIES: Final = 8


class TokenReader:
    """Reads tokens by one set of settings."""

    def __init__(self, algorithms: tuple[str, ...], typ: str | None, max_bytes: int) -> None:
        self._algorithms = frozenset(algorithms)
        self._typ = None if typ is None else _media_type(typ)
        self._max_bytes = max_bytes

    def check_size(self, credential: object) -> str:
        """Return the credential if it is a text of no more than the size allowed; raise RefusedError otherwise."""
        if not isinstance(credential, str):
            raise RefusedError(codes.MALFORMED, f"the credential is {type(credential).__name__}, not a JWT as text")
        # UTF-8 takes at least a byte for each character, and a token that has others is refused for them anyway.
        if len(credential) > self._max_bytes:
            raise RefusedError(
                codes.TOO_LARGE, f"the token has {len(credential)} bytes; {self._max_bytes} are the most allowed"
            )
        return credential

    def read(self, token: str, keys: KeyRing) -> dict[str, Any]:
        """Return the claims of a token that a configured key signed; raise RefusedError for any other."""
        if not _SHAPE.fullmatch(token):
            raise RefusedError(codes.MALFORMED, "the credential is not three parts of base64url with dots between")
        head, body, _ = token.split(".")
        header = _json_object(head, "header")
        algorithm = self._check_header(header)
        self._check_signature(token, header, algorithm, keys)
        return _json_object(body, "claims")

    def _check_header(self, header: dict[str, Any]) -> str:
        algorithm = header.get("alg")
        if not isinstance(algorithm, str):
            raise RefusedError(codes.MALFORMED, "the token's header has no alg")
        if algorithm.lower() == "none":
            raise RefusedError(codes.UNSIGNED, "the token is not signed (alg none); sign it with a configured key")
        name = _OF_ONE_CURVE.get(algorithm, algorithm)
        if name not in self._algorithms:
            raise RefusedError(
                codes.ALGORITHM_REFUSED,
                f"alg {shown(algorithm)} is refused; sign with one of {sorted(self._algorithms)}",
            )
        brought = [member for member in _BRINGS_A_KEY if member in header]
        if brought:
            raise RefusedError(codes.EMBEDDED_KEY, f"the token's header has {brought}; only configured keys count")
        if "crit" in header or "b64" in header:
            raise RefusedError(codes.CRITICAL_HEADER, "the token's header has crit or b64, of which none is understood")
        if self._typ is not None and _media_type(header.get("typ")) != self._typ:
            raise RefusedError(codes.WRONG_TYPE, f"the token's typ is not {self._typ!r}")
        return name

    def _check_signature(self, token: str, header: dict[str, Any], algorithm: str, keys: KeyRing) -> None:
        from meshflow_identity.signature import verifies

        raw = token.encode("ascii")
        for key in _candidates(header, algorithm, keys):
            if verifies(raw, key.key):
                return
        raise RefusedError(codes.BAD_SIGNATURE, "no configured key made the token's signature")


def _candidates(header: dict[str, Any], algorithm: str, keys: KeyRing) -> list[PublicKey]:
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise RefusedError(codes.MALFORMED, "the token's kid is not a text")
    found = keys.fitting(kid)
    if not found:
        raise RefusedError(codes.UNKNOWN_KEY, "no configured key has the kid that the token names")
    fitting = [key for key in found if ALGORITHM_OF[key.kty] == algorithm]
    if not fitting:
        kinds = sorted({ALGORITHM_OF[key.kty] for key in found})
        raise RefusedError(codes.ALGORITHM_MISMATCH, f"the token's alg is {algorithm} but its key is for {kinds}")
    if len(fitting) > _MOST_TRIES:
        raise RefusedError(codes.UNKNOWN_KEY, f"{len(fitting)} keys might fit; sign with a kid that names one")
    return fitting


def _json_object(part: str, what: str) -> dict[str, Any]:
    try:
        text = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True).decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (binascii.Error, ValueError, RecursionError):
        # The cause stays out of the reason, since it may quote the token.
        raise RefusedError(codes.MALFORMED, f"the token's {what} cannot be read as JSON in base64url") from None
    if not isinstance(value, dict):
        raise RefusedError(codes.MALFORMED, f"the token's {what} must be a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    # Two readers may each believe another one of two equal names (RFC 8725, section 2.4 warns of the like).
    if len(members) != len(pairs):
        raise ValueError("a name appears twice")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _media_type(value: object) -> str | None:
    # RFC 7515, section 4.1.9: "application/" may be left out, and case does not matter.
    return value.lower().removeprefix("application/") if isinstance(value, str) else None
