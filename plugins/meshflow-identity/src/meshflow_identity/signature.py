"""The one place that touches cryptography: public keys and signatures by joserfc. Imported on first use; it is slow."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry, extract_compact, validate_compact

from meshflow_identity.jwk import PUBLIC_MEMBERS

_SMALLEST_RSA_BITS = 2048
_LARGEST_RSA_BITS = 8192


class _Registry(JWSRegistry):
    """Hands out algorithms without a word.

    The library warns about EdDSA by that name, where warnings may be errors; which names are accepted, and all that a
    header may say, the token reader has settled before.
    """

    max_header_length = 65_536

    def get_alg(self, name: str) -> Any:
        return self.algorithms["EdDSA" if name == "Ed25519" else name]

    def check_header(self, header: dict[str, Any]) -> None:
        return


_REGISTRY = _Registry()


def key_from_jwk(jwk: Mapping[str, Any]) -> Key:
    """Return the public key of a JWK that ``jwk.refusal`` accepts; raise ValueError if its numbers are wrong."""
    kty = jwk["kty"]
    members = {"kty": kty, **{name: jwk[name] for name in PUBLIC_MEMBERS[kty]}}
    for name in PUBLIC_MEMBERS[kty]:
        if name != "crv":
            _check_base64url(name, members[name])
    kind: type[Any] = {"OKP": OKPKey, "EC": ECKey, "RSA": RSAKey}[kty]
    if kty == "RSA":
        _check_rsa_bits(len(_decoded(members["n"]).lstrip(b"\0")) * 8)
    try:
        key: ECKey | OKPKey | RSAKey = kind.import_key(members)
        _check_native(key.public_key)
    except (JoseError, UnsupportedAlgorithm) as error:
        raise ValueError(str(error)) from error
    return key


def key_from_pem(pem: bytes) -> tuple[str, Key]:
    """Return the type and the public key of a PEM text; raise ValueError for anything else."""
    if b"PRIVATE KEY" in pem:
        raise ValueError("this is a private key; configure the public half only")
    try:
        native = load_pem_public_key(pem)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from error
    _check_native(native)
    if isinstance(native, Ed25519PublicKey):
        return "OKP", OKPKey.import_key(native)
    if isinstance(native, EllipticCurvePublicKey):
        return "EC", ECKey.import_key(native)
    assert isinstance(native, RSAPublicKey)  # noqa: S101  (for the type checker)
    return "RSA", RSAKey.import_key(native)


def verifies(token: bytes, key: Key) -> bool:
    """Return whether the key made the token's signature by the algorithm in its header."""
    try:
        return validate_compact(extract_compact(token, registry=_REGISTRY), key, registry=_REGISTRY)
    except (JoseError, ValueError, RecursionError):
        return False


def _check_native(native: object) -> None:
    if isinstance(native, RSAPublicKey):
        _check_rsa_bits(native.key_size)
    elif isinstance(native, EllipticCurvePublicKey):
        if not isinstance(native.curve, SECP256R1):
            raise ValueError(f"an EC key must be on P-256, not {native.curve.name}")
    elif not isinstance(native, Ed25519PublicKey):
        raise ValueError("a key must be Ed25519, P-256 or RSA")


def _check_rsa_bits(bits: int) -> None:
    if not _SMALLEST_RSA_BITS <= bits <= _LARGEST_RSA_BITS:
        raise ValueError(f"an RSA key must have {_SMALLEST_RSA_BITS} to {_LARGEST_RSA_BITS} bits, not about {bits}")


def _check_base64url(name: str, text: str) -> None:
    try:
        _decoded(text)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name} is not base64url") from error


def _decoded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
