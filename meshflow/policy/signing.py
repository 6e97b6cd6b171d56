"""Signed bundles, in the format of OPA: ``.signatures.json`` with one JWT over the hashes of all files.

https://www.openpolicyagent.org/docs/management-bundles#signing: Rego files are hashed as bytes, data files by their
content (see ``opa_form``). The key's kind fixes the algorithm: a token cannot choose a weaker one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Any

import orjson

from meshflow.errors import ConfigError
from meshflow.policy.bundle import read_files
from meshflow.policy.opa_form import opa_form

FILE_NAME = ".signatures.json"
ALGORITHMS = ("EdDSA", "ES256", "RS256")
_HASH = "SHA-256"
_MAX_BYTES = 4 << 20
_SMALLEST_RSA_BITS = 2_048
_HERE = "plugins.rego.verify"


@dataclass(frozen=True, slots=True)
class Verifier:
    """Whose signature a bundle must have: a PEM file with a public key, and, if named, the token's key id and scope."""

    key: Path
    key_id: str | None = None
    scope: str | None = None


def sign_folder(folder: Path, key: Path, *, key_id: str | None = None, scope: str | None = None) -> str:
    """Write ``.signatures.json`` over all that a bundle's folder holds, its tests too; return the algorithm."""
    algorithm, private = _private_key(key)
    payload: dict[str, Any] = {"files": _hashes(read_files(folder, tests=True))}
    if key_id is not None:
        payload["keyid"] = key_id
    if scope is not None:
        payload["scope"] = scope
    header = {"alg": algorithm, "typ": "JWT"} | ({"kid": key_id} if key_id is not None else {})
    token = _serialized(header, orjson.dumps(payload), private)
    (folder / FILE_NAME).write_bytes(orjson.dumps({"signatures": [token]}, option=orjson.OPT_INDENT_2) + b"\n")
    return algorithm


def verify_folder(folder: Path, verifier: Verifier) -> dict[str, bytes]:
    """Return the files of a signed bundle, tests too, as they were verified; ConfigError says what does not hold.

    A file that is not in the signature is refused, and so is one that is missing: a rule taken away denies nothing.
    """
    where = str(folder / FILE_NAME)
    payload, key_id = _verified(_token(folder / FILE_NAME), verifier, where)
    if verifier.key_id is not None and key_id != verifier.key_id:
        raise ConfigError(f"the signature's keyid is not {verifier.key_id!r}", where=where)
    scope = payload.get("scope") or None
    if scope != verifier.scope:
        said, wanted = (repr(one) if one is not None else "none" for one in (scope, verifier.scope))
        raise ConfigError(f"the signature's scope is {said}, and {wanted} is asked for", where=where)
    files = read_files(folder, tests=True)
    signed = _listed(payload, where)
    found = {entry["name"]: entry["hash"] for entry in _hashes(files)}
    for name in sorted(found.keys() | signed.keys()):
        if name not in signed:
            raise ConfigError("is not in the bundle's signature", where=str(folder / name))
        if name not in found:
            raise ConfigError(f"the signature names {name}, which the bundle lacks", where=where)
        if not compare_digest(found[name], signed[name]):
            raise ConfigError("is not the file that was signed", where=str(folder / name))
    return files


def _hashes(files: Mapping[str, bytes]) -> list[dict[str, str]]:
    return [{"name": name, "hash": _hash(name, files[name]), "algorithm": _HASH} for name in sorted(files)]


def _hash(name: str, content: bytes) -> str:
    if name.endswith(".rego"):
        return sha256(content).hexdigest()
    return sha256(opa_form(content, name)).hexdigest()


def _token(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"the bundle must be signed: {error.strerror}", where=str(path)) from None
    try:
        tokens = orjson.loads(content)["signatures"] if len(content) <= _MAX_BYTES else None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        tokens = None
    if not isinstance(tokens, list) or len(tokens) != 1 or not isinstance(tokens[0], str):
        raise ConfigError("is no file of signatures: it must hold one", where=str(path))
    return tokens[0].encode("utf-8", "replace")


def _listed(payload: Mapping[str, Any], where: str) -> dict[str, str]:
    files = payload.get("files")
    signed: dict[str, str] = {}
    for entry in files if isinstance(files, list) else ():
        if not isinstance(entry, dict) or entry.get("algorithm", _HASH) != _HASH:
            raise ConfigError("the signature lists a file without a SHA-256 hash", where=where)
        name, value = entry.get("name"), entry.get("hash")
        if not isinstance(name, str) or not isinstance(value, str) or name in signed:
            raise ConfigError("the signature's list of files is malformed", where=where)
        signed[name] = value
    return {name: value for name, value in signed.items() if name not in (".manifest", f"/{FILE_NAME}", FILE_NAME)}


def _registry() -> Any:
    from joserfc.jws import JWSRegistry

    class Registry(JWSRegistry):
        """Hands out algorithms without the library's warning about EdDSA by that name, which OPA uses."""

        max_header_length = 65_536

        def get_alg(self, name: str) -> Any:
            if name not in ALGORITHMS:
                raise ValueError(name)
            return self.algorithms[name]

        def check_header(self, header: dict[str, Any]) -> None:
            return

    return Registry()


def _serialized(header: dict[str, Any], payload: bytes, key: Any) -> str:
    from joserfc.jws import serialize_compact

    token: str = serialize_compact(header, payload, key, registry=_registry())
    return token


def _verified(token: bytes, verifier: Verifier, where: str) -> tuple[dict[str, Any], Any]:
    """Return what a token says, and its key id: in its header, or where OPA had it before."""
    from joserfc.errors import JoseError
    from joserfc.jws import extract_compact, validate_compact

    algorithm, key = _public_key(verifier.key)
    registry = _registry()
    header: dict[str, Any] = {}
    try:
        extracted = extract_compact(token, registry=registry)
        header = extracted.headers()
        good = header.get("alg") == algorithm and validate_compact(extracted, key, registry=registry)
        payload = orjson.loads(extracted.payload) if good else None
    except (JoseError, ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict):
        raise ConfigError(f"the signature is not one of {verifier.key.name} ({algorithm})", where=where)
    return payload, header.get("kid") or payload.get("keyid")


def _private_key(path: Path) -> tuple[str, Any]:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        native = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"the key cannot be read: {error.strerror}", where=str(path)) from None
    except (ValueError, TypeError):
        raise ConfigError("is no private key in PEM without a password", where=str(path)) from None
    return _jwk(native, path)


def _public_key(path: Path) -> tuple[str, Any]:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        content = path.read_bytes()
        if b"PRIVATE KEY" in content:
            raise ConfigError("is a private key; verify with the public one", where=str(path), path=f"{_HERE}.key")
        native = load_pem_public_key(content)
    except OSError as error:
        problem = f"the key cannot be read: {error.strerror}"
        raise ConfigError(problem, where=str(path), path=f"{_HERE}.key") from None
    except ValueError:
        raise ConfigError("is no public key in PEM", where=str(path), path=f"{_HERE}.key") from None
    return _jwk(native, path)


def _jwk(native: Any, path: Path) -> tuple[str, Any]:
    """Return the one algorithm that a key is for, and the key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    if isinstance(native, (ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey)):
        return "EdDSA", OKPKey.import_key(native)
    if isinstance(native, (ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)):
        if isinstance(native.curve, ec.SECP256R1):
            return "ES256", ECKey.import_key(native)
    elif isinstance(native, (rsa.RSAPrivateKey, rsa.RSAPublicKey)) and native.key_size >= _SMALLEST_RSA_BITS:
        return "RS256", RSAKey.import_key(native)
    raise ConfigError("a key must be Ed25519, on P-256, or RSA of 2048 bits or more", where=str(path))
