"""Keys and revocations in files: read again when they change, and never trusted when they are wrong."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import ValidationError
from token_keys import Signer, algorithm, b64, jwk, sign

from meshflow.clock import ManualClock
from meshflow.plugin import ConfigError, Effect, Host, NodeInput, context_for
from meshflow_identity import CODES, IdentityPlugin, IdentitySettings, KeySettings

NOW_S = 1_700_000_000
FIRST, SECOND = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def token(key: Signer, jti: str = "t1") -> str:
    claims = {"iss": "i", "aud": "a", "sub": "alice", "exp": NOW_S + 300, "jti": jti}
    signed = ".".join(b64(json.dumps(part).encode()) for part in ({"alg": algorithm(key)}, claims))
    return f"{signed}.{b64(sign(key, signed.encode()))}"


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def write(path: Path, value: object) -> None:
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())


class Gate:
    def __init__(self, base: Path, **values: Any) -> None:
        self.clock = ManualClock(NOW_S * 1_000_000)
        settings = IdentitySettings.model_validate({"issuer": "i", "audience": "a", **values})
        self.plugin = IdentityPlugin(settings, Host(clock=self.clock, base=base))

    async def code(self, credential: str | None) -> str:
        context = context_for(NodeInput(node_id="n", credential=credential), clock=self.clock)
        decision = await self.plugin.verify_identity(context)
        if decision.effect is Effect.ALLOW:
            return "allow"
        assert decision.code in CODES
        return decision.code.removeprefix("identity_verification.")


async def test_a_key_set_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    write(file, {"keys": [jwk(FIRST)]})
    gate = Gate(tmp_path, jwks_file="jwks.json")
    assert await gate.code(token(FIRST)) == "allow"
    write(file, {"keys": [jwk(SECOND), {"kty": "oct", "k": "AAAA"}]})
    assert await gate.code(token(FIRST)) == "bad_signature"
    assert await gate.code(token(SECOND)) == "allow"


async def test_a_key_set_replaced_by_one_of_the_same_size_is_seen_by_its_time(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    write(file, {"keys": [jwk(FIRST)]})
    gate = Gate(tmp_path, jwks_file="jwks.json")
    assert await gate.code(token(FIRST)) == "allow"
    write(file, {"keys": [jwk(SECOND)]})
    os.utime(file, ns=(1, 1))
    assert await gate.code(token(FIRST)) == "bad_signature"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"{}", b"[" * 100_000, {"keys": {}}, {"keys": [7]},
        {"keys": [{**jwk(FIRST), "d": "AAAA"}]}, {"keys": [jwk(FIRST)] * 1001}, {"keys": [{**jwk(FIRST), "x": "AAAA"}]},
        {"keys": [{**jwk(FIRST), "x": "\u00e9"}]}, {"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]},
    ],
    ids=range(12),
)  # fmt: skip
async def test_a_key_set_that_is_wrong_is_not_trusted_and_recovers(content: object, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    write(file, {"keys": [jwk(FIRST)]})
    gate = Gate(tmp_path, jwks_file="jwks.json")
    assert await gate.code(token(FIRST)) == "allow"
    write(file, content)
    assert await gate.code(token(FIRST)) == "keys_unavailable"
    with pytest.raises(ConfigError, match=r"jwks\.json"):
        await gate.plugin.startup()
    file.unlink()
    assert await gate.code(token(FIRST)) == "keys_unavailable"
    write(file, {"keys": [jwk(FIRST)]})
    assert await gate.code(token(FIRST)) == "allow"


async def test_keys_in_a_set_that_cannot_verify_are_passed_over(tmp_path: Path) -> None:
    useless = [
        {**jwk(FIRST), "use": "enc"}, {**jwk(FIRST), "alg": "RS256"}, {**jwk(FIRST), "key_ops": ["sign"]},
        {**jwk(FIRST), "crv": "Ed448"}, {"kty": "AKP", "alg": "ML-DSA-44"}, {"kty": ["OKP"]}, {"kty": "oct", "k": "QQ"},
        {**jwk(FIRST), "kid": 7}, {},
    ]  # fmt: skip
    write(tmp_path / "jwks.json", {"keys": useless})
    assert await Gate(tmp_path, jwks_file="jwks.json").code(token(FIRST)) == "unknown_key"


async def test_many_steps_at_once_see_one_reading(tmp_path: Path) -> None:
    write(tmp_path / "jwks.json", {"keys": [jwk(FIRST)]})
    gate = Gate(tmp_path, jwks_file="jwks.json")
    codes = await asyncio.gather(*(gate.code(token(FIRST, str(at))) for at in range(50)))
    assert set(codes) == {"allow"}
    assert gate.plugin._keys.generation == 1


async def test_a_pem_file_serves_tokens_of_any_key_id_unless_it_has_one(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(public_pem(FIRST))
    assert await Gate(tmp_path, keys=[{"pem": "key.pem"}]).code(token(FIRST)) == "allow"
    assert await Gate(tmp_path, keys=[{"pem": "key.pem", "kid": "k"}]).code(token(FIRST)) == "allow"


@pytest.mark.parametrize(
    "make", [Ed25519PrivateKey.generate, lambda: generate_ec(SECP256R1()), lambda: generate_rsa(65537, 2048)]
)
async def test_pem_files_of_every_accepted_kind_load_and_verify(make: Any, tmp_path: Path) -> None:
    key, other = make(), make()
    (tmp_path / "key.pem").write_bytes(public_pem(key))
    gate = Gate(tmp_path, keys=[{"pem": "key.pem"}])
    await gate.plugin.startup()
    assert await gate.code(token(key)) == "allow"
    assert await gate.code(token(other)) == "bad_signature"


WRONG_PEMS: list[tuple[Any, str]] = [
    (FIRST.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "private key"),
    (public_pem(generate_ec(SECP384R1())), "P-256"),
    (public_pem(Ed448PrivateKey.generate()), "Ed25519, P-256 or RSA"),
    (public_pem(generate_rsa(65537, 1024)), "2048"),
    (b"", "key.pem"),
    (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "key.pem"),
]


@pytest.mark.parametrize(("pem", "words"), WRONG_PEMS, ids=range(len(WRONG_PEMS)))
async def test_a_pem_file_that_is_wrong_is_refused_in_words(pem: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem)
    with pytest.raises(ConfigError, match=words):
        await Gate(tmp_path, keys=[{"pem": "key.pem"}]).plugin.startup()


async def test_a_revocation_takes_effect_at_once_and_can_be_taken_back(tmp_path: Path) -> None:
    file = tmp_path / "revoked.json"
    write(file, {})
    gate = Gate(tmp_path, keys=[{"jwk": jwk(FIRST)}], revocation_file="revoked.json", revoked_tokens=["fixed"])
    assert await gate.code(token(FIRST)) == "allow"
    for content in ({"tokens": ["t1"]}, {"subjects": ["alice"]}):
        write(file, content)
        assert await gate.code(token(FIRST)) == "revoked"
    write(file, {"tokens": []})
    assert await gate.code(token(FIRST)) == "allow"
    assert await gate.code(token(FIRST, "fixed")) == "revoked"


@pytest.mark.parametrize(
    "content", [b"", b"[]", {"token": ["t1"]}, {"tokens": "t1"}, {"subjects": [7]}, b"[" * 100_000]
)
async def test_a_revocation_file_that_is_wrong_denies_all_until_it_is_mended(content: object, tmp_path: Path) -> None:
    file = tmp_path / "revoked.json"
    write(file, content)
    gate = Gate(tmp_path, keys=[{"jwk": jwk(FIRST)}], revocation_file="revoked.json")
    assert await gate.code(token(FIRST)) == "revocations_unavailable"
    file.unlink()
    assert await gate.code(token(FIRST)) == "revocations_unavailable"
    write(file, {"tokens": ["t2"]})
    assert await gate.code(token(FIRST)) == "allow"
    assert await gate.code(token(FIRST, "t2")) == "revoked"


async def test_a_revoked_token_is_not_bound(tmp_path: Path) -> None:
    write(tmp_path / "revoked.json", {"tokens": ["t1"]})
    gate = Gate(tmp_path, keys=[{"jwk": jwk(FIRST)}], revocation_file="revoked.json")
    assert await gate.code(token(FIRST)) == "revoked"
    assert len(gate.plugin._bindings) == 0


async def test_a_local_agent_can_be_revoked(tmp_path: Path) -> None:
    write(tmp_path / "revoked.json", {"subjects": ["local"]})
    plugin = IdentityPlugin(IdentitySettings(revocation_file="revoked.json"), Host(base=tmp_path))
    decision = await plugin.verify_identity(context_for(NodeInput(node_id="n")))
    assert decision.code == "identity_verification.revoked"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"keys": [{}]}, "either jwk or pem"),
        ({"keys": [{"jwk": jwk(FIRST), "pem": "x"}]}, "either jwk or pem"),
        ({"keys": [{"jwk": jwk(FIRST), "kid": "k"}]}, "kid belongs inside"),
        ({"keys": [{"jwk": {**jwk(FIRST), "d": "PRIVATE"}}]}, "private or shared"),
        ({"keys": [{"jwk": {"kty": "oct", "k": "PRIVATE"}}]}, "private or shared"),
        ({"keys": [{"jwk": {"kty": "EC", "crv": "P-521", "x": "A", "y": "A"}}]}, "P-256"),
        ({"keys": [{"jwk": {"kty": "OKP", "crv": "Ed25519"}}]}, "needs"),
        ({"keys": [{"jwk": jwk(FIRST)}], "issuer": None}, "keys need issuer and audience"),
        ({"keys": [{"jwk": jwk(FIRST)}], "audience": []}, "keys need issuer and audience"),
        ({"keys": []}, "without keys verify nothing"),
        ({"keys": [{"jwk": jwk(FIRST)}], "algorithms": ["HS256"]}, "algorithms"),
        ({"keys": [{"jwk": jwk(FIRST)}], "algorithms": ["none"]}, "algorithms"),
        ({"keys": [{"jwk": jwk(FIRST)}], "algorithms": []}, "algorithms"),
        ({"keys": [{"jwk": jwk(FIRST)}], "leeway_s": -1}, "leeway_s"),
        ({"keys": [{"jwk": jwk(FIRST)}], "audience": [""]}, "audience"),
        ({"keyz": []}, "keyz"),
    ],
)
def test_wrong_settings_are_refused_and_no_key_is_quoted(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        IdentitySettings.model_validate({"issuer": "i", "audience": "a", **values})
    assert "PRIVATE" not in str(caught.value)


def test_every_field_says_what_it_is_and_settings_have_a_schema() -> None:
    for model in (IdentitySettings, KeySettings):
        assert all(field.description for field in model.model_fields.values())
    assert IdentitySettings.model_json_schema()["properties"]["audience"]


def test_importing_the_plugin_imports_no_cryptography() -> None:
    code = "import sys, meshflow_identity; sys.exit(bool({'joserfc', 'cryptography'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
