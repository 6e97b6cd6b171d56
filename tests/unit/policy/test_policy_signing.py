"""Signed bundles: what is signed is what decides, and nothing else loads."""

from __future__ import annotations

import base64
import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from meshflow.errors import ConfigError
from meshflow.policy import Bundle, shipped_bundle
from meshflow.policy.signing import FILE_NAME, Verifier, sign_folder, verify_folder

KEYS: dict[str, Any] = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RS256": lambda: rsa.generate_private_key(65_537, 2_048),
}


def write_key(folder: Path, name: str, key: Any) -> tuple[Path, Path]:
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(shipped_bundle("authz"), tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_key(tmp_path, "key", KEYS["EdDSA"]())


def refusal(folder: Path, verifier: Verifier) -> str:
    with pytest.raises(ConfigError) as caught:
        verify_folder(folder, verifier)
    return str(caught.value)


def token_of(folder: Path) -> list[str]:
    token: str = json.loads((folder / FILE_NAME).read_text())["signatures"][0]
    return token.split(".")


def decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def encoded(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize("algorithm", KEYS)
def test_what_was_signed_verifies_by_each_algorithm(folder: Path, tmp_path: Path, algorithm: str) -> None:
    private, public = write_key(tmp_path, "key", KEYS[algorithm]())
    assert sign_folder(folder, private, key_id="release", scope="prod") == algorithm
    files = verify_folder(folder, Verifier(public, "release", "prod"))
    assert {"policy.rego", "policy_test.rego", "data.yaml"} <= files.keys()
    assert decoded(token_of(folder)[0]) == {"alg": algorithm, "typ": "JWT", "kid": "release"}


def test_the_file_has_opas_format(folder: Path, keys: tuple[Path, Path]) -> None:
    (folder / "data.yaml").unlink()
    (folder / "data.json").write_text('{ "b": [1, 2.50, null],\n "a": {"é": "<&>"} }')
    sign_folder(folder, keys[0], key_id="k", scope="s")
    payload = decoded(token_of(folder)[1])
    assert (payload["keyid"], payload["scope"]) == ("k", "s")
    hashes = {one["name"]: one["hash"] for one in payload["files"]}
    assert {one["algorithm"] for one in payload["files"]} == {"SHA-256"}
    assert hashes["policy.rego"] == sha256((folder / "policy.rego").read_bytes()).hexdigest()
    # Structured files are hashed by their content: keys in order, no spaces, no escapes.
    assert hashes["data.json"] == sha256('{"a":{"é":"<&>"},"b":[1,2.5,null]}'.encode()).hexdigest()


def changed(folder: Path, what: str) -> str:
    """Do something to a signed bundle; return what must be said."""
    policy = folder / "policy.rego"
    if what == "a rule edited":
        policy.write_text(policy.read_text() + "\n")
        return "policy.rego: is not the file that was signed"
    if what == "a rule taken away":
        (folder / "tools.rego").unlink()
        return "tools.rego, which the bundle lacks"
    if what == "a rule added":
        (folder / "more.rego").write_text("package more\n")
        return "more.rego: is not in the bundle's signature"
    if what == "data edited":
        (folder / "data.yaml").write_text("meshflow: {blocked_tools: []}\n")
        return "data.yaml: is not the file that was signed"
    if what == "data added":
        (folder / "deep").mkdir()
        (folder / "deep" / "data.json").write_text("{}")
        return "deep/data.json: is not in the bundle's signature"
    if what == "a test edited":
        (folder / "policy_test.rego").write_text("package t\n")
        return "policy_test.rego: is not the file that was signed"
    if what == "files swapped":
        other = folder / "tools.rego"
        first, second = policy.read_text(), other.read_text()
        policy.write_text(second)
        other.write_text(first)
        return "is not the file that was signed"
    (folder / FILE_NAME).unlink()
    return "the bundle must be signed"


CHANGES = ("a rule edited", "a rule taken away", "a rule added", "data edited", "data added", "a test edited",
           "files swapped", "the signature taken away")  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_every_change_is_found(folder: Path, keys: tuple[Path, Path], what: str) -> None:
    sign_folder(folder, keys[0])
    said = changed(folder, what)
    assert said in refusal(folder, Verifier(keys[1]))


def test_data_may_be_written_anew_with_the_same_content(folder: Path, keys: tuple[Path, Path]) -> None:
    sign_folder(folder, keys[0])
    (folder / "data.yaml").write_text("# a comment\n" + (folder / "data.yaml").read_text())
    verify_folder(folder, Verifier(keys[1]))


def test_forged_tokens_are_refused(folder: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    sign_folder(folder, keys[0])
    verifier = Verifier(keys[1])
    header, payload, signature = token_of(folder)
    stranger, _ = write_key(tmp_path, "other", KEYS["EdDSA"]())
    public_bytes = keys[1].read_bytes()
    import hmac

    by_public_key = f"{encoded({'alg': 'HS256'})}.{payload}"
    mac = base64.urlsafe_b64encode(hmac.digest(public_bytes, by_public_key.encode(), "sha256")).decode().rstrip("=")
    forged = (
        f"{encoded({'alg': 'none'})}.{payload}.",
        f"{encoded({'alg': 'none'})}.{payload}.{signature}",
        f"{header}.{encoded({'files': []})}.{signature}",
        f"{header}.{payload}.{signature[:-4]}AAAA",
        f"{header}.{payload}",
        f"{by_public_key}.{mac}",
        "",
        "a.b.c",
    )
    for token in forged:
        (folder / FILE_NAME).write_text(json.dumps({"signatures": [token]}))
        assert "the signature is not one of key.pub (EdDSA)" in refusal(folder, verifier), token
    sign_folder(folder, stranger)
    assert "the signature is not one of key.pub" in refusal(folder, verifier)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"signatures": []}', '{"signatures": ["a", "b"]}', '{"signatures": [1]}', "\udcff"]
)
def test_a_file_that_holds_no_signature_is_refused(folder: Path, keys: tuple[Path, Path], content: str) -> None:
    (folder / FILE_NAME).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "is no file of signatures" in refusal(folder, Verifier(keys[1]))


@pytest.mark.parametrize(
    "files",
    [
        None, "x", [1], [{"name": "a.rego", "hash": "b", "algorithm": "MD5"}], [{"name": "a.rego"}],
        [{"name": "a.rego", "hash": "b"}, {"name": "a.rego", "hash": "c"}],
    ],
)  # fmt: skip
def test_a_signed_list_that_is_odd_is_refused(folder: Path, keys: tuple[Path, Path], files: Any) -> None:
    from meshflow.policy import signing

    algorithm, key = signing._private_key(keys[0])
    token = signing._serialized({"alg": algorithm}, json.dumps({"files": files}).encode(), key)
    (folder / FILE_NAME).write_text(json.dumps({"signatures": [token]}))
    assert refusal(folder, Verifier(keys[1]))


def test_key_id_and_scope_are_asked_for(folder: Path, keys: tuple[Path, Path]) -> None:
    sign_folder(folder, keys[0], key_id="release", scope="prod")
    assert "keyid is not 'other'" in refusal(folder, Verifier(keys[1], key_id="other"))
    assert "scope is not 'test'" in refusal(folder, Verifier(keys[1], "release", "test"))


def test_keys_of_another_kind_are_refused(folder: Path, tmp_path: Path, keys: tuple[Path, Path]) -> None:
    sign_folder(folder, keys[0])
    assert "is a private key" in refusal(folder, Verifier(keys[0]))
    (tmp_path / "none.pem").write_text("no key")
    assert "is no public key in PEM" in refusal(folder, Verifier(tmp_path / "none.pem"))
    assert "cannot be read" in refusal(folder, Verifier(tmp_path / "nowhere.pem"))
    weak = write_key(tmp_path, "weak", rsa.generate_private_key(65_537, 1_024))
    curve = write_key(tmp_path, "curve", ec.generate_private_key(ec.SECP384R1()))
    for _, public in (weak, curve):
        assert "a key must be Ed25519, on P-256, or RSA" in refusal(folder, Verifier(public))
    with pytest.raises(ConfigError, match="no private key"):
        sign_folder(folder, keys[1])


def test_the_plugin_loads_what_was_verified_and_nothing_else(folder: Path, keys: tuple[Path, Path]) -> None:
    from meshflow.plugin import Host
    from meshflow_rego import RegoPlugin, RegoSettings
    from meshflow_rego.settings import VerifySettings

    host = Host(base=folder.parent)
    settings = RegoSettings(bundle="bundle", verify=VerifySettings(key="key.pub"))
    with pytest.raises(ConfigError, match="the bundle must be signed"):
        RegoPlugin(settings, host).digest()
    sign_folder(folder, keys[0])
    assert RegoPlugin(settings, host).digest() == Bundle.load(folder).digest
    (folder / "policy.rego").write_text("package meshflow.policy\n\ndecision := {}\n")
    with pytest.raises(ConfigError, match="is not the file that was signed"):
        RegoPlugin(settings, host).digest()
