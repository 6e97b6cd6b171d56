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
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meshflow.errors import ConfigError
from meshflow.policy import Bundle, shipped_bundle
from meshflow.policy.bundle import read_files
from meshflow.policy.opa_form import opa_form
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
    # Structured files are hashed by their content: keys in order, no spaces, no escapes, numbers as they are written.
    assert hashes["data.json"] == sha256('{"a":{"é":"<&>"},"b":[1,2.50,null]}'.encode()).hexdigest()


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
    assert "scope is 'prod', and 'test' is asked for" in refusal(folder, Verifier(keys[1], "release", "test"))
    assert "scope is 'prod', and none is asked for" in refusal(folder, Verifier(keys[1], "release"))
    verify_folder(folder, Verifier(keys[1], "release", "prod"))


@pytest.mark.parametrize("where", ["header", "payload"])
def test_the_key_id_may_stand_where_either_version_of_opa_writes_it(
    folder: Path, keys: tuple[Path, Path], where: str
) -> None:
    from meshflow.policy import signing

    algorithm, key = signing._private_key(keys[0])
    header, payload = {"alg": algorithm}, {"files": signing._hashes(read_files(folder, tests=True))}
    (header if where == "header" else payload)["kid" if where == "header" else "keyid"] = "release"
    token = signing._serialized(header, json.dumps(payload).encode(), key)
    (folder / FILE_NAME).write_text(json.dumps({"signatures": [token]}))
    verify_folder(folder, Verifier(keys[1], key_id="release"))
    assert "keyid is not 'other'" in refusal(folder, Verifier(keys[1], key_id="other"))


@pytest.mark.parametrize("algorithm", KEYS)
def test_opas_own_evaluator_verifies_the_token(folder: Path, tmp_path: Path, algorithm: str) -> None:
    bindings = pytest.importorskip("opa_bindings")
    private, public = write_key(tmp_path, "key", KEYS[algorithm]())
    sign_folder(folder, private)
    engine = bindings.OpaEngine()
    token = json.loads((folder / FILE_NAME).read_text())["signatures"][0]
    for text, good in ((token, True), (f"{token[:-8]}AAAAAAAA", False)):
        asked = f"io.jwt.verify_{algorithm.lower()}({json.dumps(text)}, {json.dumps(public.read_text())})"
        assert engine.eval_query(f"x := {asked}")[0]["x"] is good
    engine.close()


def as_object(members: dict[str, str]) -> str:
    return f"{{ {', '.join(f'{json.dumps(key)} : {value}' for key, value in members.items())} }}"


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
NUMBERS = st.sampled_from(["0", "-0", "1.0", "2.50", "1e3", "1E+2", "-1.5e-9", "12345678901234567890", "0.1"])
DOCUMENTS = st.recursive(
    st.none().map(json.dumps) | st.booleans().map(json.dumps) | TEXTS.map(json.dumps) | NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[ {' , '.join(items)} ]")
        | st.dictionaries(TEXTS, inner, max_size=4).map(as_object)
    ),
    max_leaves=12,
)


def marshalled(engine: Any, text: str) -> bytes:
    """Return a document as OPA's evaluator writes it, less the escapes that its bundles leave out."""
    answer = engine.eval_query(f"x := json.marshal(json.unmarshal({json.dumps(text)}))")
    written: str = answer[0]["x"]
    for escape, character in (("\\u003c", "<"), ("\\u003e", ">"), ("\\u0026", "&")):
        written = written.replace(escape, character)
    return written.encode()


@given(members=st.dictionaries(TEXTS, DOCUMENTS, max_size=4))
@settings(deadline=None)
def test_data_is_hashed_as_opas_own_evaluator_writes_it(members: dict[str, str]) -> None:
    bindings = pytest.importorskip("opa_bindings")
    text = as_object(members)
    assume("\\\\" not in text)
    engine = bindings.OpaEngine()
    assert opa_form(text.encode(), "data.json") == marshalled(engine, text)
    engine.close()


@pytest.mark.parametrize(
    ("number", "written"),
    [
        ("1.0", "1"), ("2.50", "2.5"), ("-0.0", "-0"), ("1.0e-6", "0.000001"), ("1.0e-7", "1e-7"),
        ("1.5e-10", "1.5e-10"),
        ("1.0e+20", "100000000000000000000"), ("1.0e+21", "1e+21"), ("1.25e+100", "1.25e+100"), ("7", "7"),
    ],
)  # fmt: skip
def test_numbers_of_yaml_are_hashed_as_go_writes_them(number: str, written: str) -> None:
    assert opa_form(f"# not JSON\nn: {number}\n".encode(), "data.yaml") == f'{{"n":{written}}}'.encode()
    assert opa_form(f'{{"n": {number}}}'.encode(), "data.yaml") == f'{{"n":{number}}}'.encode()


def test_what_has_no_json_form_is_refused_before_it_is_signed(folder: Path, keys: tuple[Path, Path]) -> None:
    (folder / "data.yaml").unlink()
    (folder / "data.json").write_text('{"a": "\\ud800"}')
    with pytest.raises(ConfigError, match="no JSON form"):
        sign_folder(folder, keys[0])


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
