"""Agent tokens: the true ones pass, and each way of forging or misusing one is refused with its own code."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from token_keys import Signer, algorithm, b64, jwk, sign

from meshflow.clock import ManualClock
from meshflow.plugin import (
    Approval,
    ConfigError,
    Decision,
    Effect,
    Host,
    NodeInput,
    Principal,
    Purpose,
    StepContext,
    context_for,
)
from meshflow_identity import CODES, IdentityPlugin, IdentitySettings

ED, EC, RSA = Ed25519PrivateKey.generate(), generate_ec(SECP256R1()), generate_rsa(65537, 2048)
OTHER_ED = Ed25519PrivateKey.generate()
NOW_S = 1_700_000_000


CLAIMS: dict[str, Any] = {
    "iss": "https://issuer", "aud": "meshflow", "sub": "alice", "exp": NOW_S + 300, "jti": "t1",
}  # fmt: skip


def token(key: Signer = ED, header: dict[str, Any] | None = None, *, raw: bytes | None = None, **claims: Any) -> str:
    """Sign a token; a claim or header of None is left out."""
    head = {name: value for name, value in {"alg": algorithm(key), **(header or {})}.items() if value is not None}
    body = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    signed = f"{b64(json.dumps(head).encode())}.{b64(raw if raw is not None else json.dumps(body).encode())}"
    return f"{signed}.{b64(sign(key, signed.encode()))}"


BASE: dict[str, Any] = {"issuer": "https://issuer", "audience": "meshflow"}


class Gate:
    """A plugin, its clock, and what it answers."""

    def __init__(self, base: Path = Path(), **values: Any) -> None:
        values = {"keys": [{"jwk": jwk(ED)}], **BASE, **values}
        self.clock = ManualClock(NOW_S * 1_000_000)
        settings = {name: value for name, value in values.items() if value is not None}
        self.plugin = IdentityPlugin(IdentitySettings.model_validate(settings), Host(clock=self.clock, base=base))

    def step(self, credential: Any, run: str = "run", **node: Any) -> StepContext:
        return context_for(NodeInput(node_id="n", run_id=run, credential=credential, **node), clock=self.clock)

    async def ask(self, context: StepContext) -> Decision:
        decision = await self.plugin.verify_identity(context)
        assert decision.effect is Effect.ALLOW or decision.code in CODES
        return decision

    async def principal(self, credential: Any, run: str = "run", **node: Any) -> Principal:
        decision = await self.ask(self.step(credential, run, **node))
        assert decision.effect is Effect.ALLOW, decision
        assert type(decision.fact) is Principal
        return decision.fact

    async def refusal(self, credential: Any, run: str = "run", **node: Any) -> str:
        decision = await self.ask(self.step(credential, run, **node))
        assert decision.effect is Effect.DENY
        assert decision.fact is None
        return decision.code.removeprefix("identity_verification.")


@pytest.mark.parametrize("key", [ED, EC, RSA], ids=["EdDSA", "ES256", "RS256"])
async def test_a_true_token_gives_a_verified_principal(key: Signer) -> None:
    gate = Gate(keys=[{"jwk": jwk(key, kid="k1")}], keep_claims=["team"])
    claims: dict[str, Any] = {
        "agent_id": "a1",
        "azp": "client",
        "roles": ["ops", "dev"],
        "tenant": "acme",
        "team": "red",
        "x": 1,
    }
    assert await gate.principal(token(key, {"kid": "k1", "typ": "JWT"}, **claims)) == Principal(
        subject="alice", agent_id="a1", issuer="https://issuer", verified=True, roles=("ops", "dev"), tenant="acme",
        token_id="t1", expires_at_us=(NOW_S + 300) * 1_000_000, claims={"team": "red"},
    )  # fmt: skip


async def test_eddsa_passes_under_its_newer_name() -> None:
    assert (await Gate().principal(token(ED, {"alg": "Ed25519"}))).verified


async def test_the_agent_is_the_claim_or_the_authorised_party_or_the_subject() -> None:
    assert (await Gate().principal(token(azp="client"))).agent_id == "client"
    assert (await Gate().principal(token())).agent_id == "alice"
    assert (await Gate(agent_claim="bot").principal(token(bot="b1", agent_id="a1"))).agent_id == "b1"


async def test_roles_may_be_one_text_and_claims_have_other_names() -> None:
    gate = Gate(roles_claim="scope", tenant_claim="org")
    principal = await gate.principal(token(scope="read write read", org="acme"))
    assert (principal.roles, principal.tenant) == (("read", "write"), "acme")


async def test_the_audience_may_be_one_of_several() -> None:
    gate = Gate(audience=["desk", "meshflow"])
    assert (await gate.principal(token(aud=["x", "meshflow"]))).verified


async def test_an_unsigned_token_is_refused_however_none_is_spelt() -> None:
    for alg in ("none", "None", "NONE", "nOnE"):
        head, body, _ = token(header={"alg": alg}).split(".")
        assert await Gate().refusal(f"{head}.{body}.") == "unsigned"
        assert await Gate().refusal(token(header={"alg": alg})) == "unsigned"


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
async def test_a_public_key_used_as_a_shared_secret_is_refused(alg: str, tmp_path: Path) -> None:
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    head, body, _ = token(RSA, {"alg": alg}).split(".")
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[alg]
    for secret in (pem, pem.strip(), json.dumps(jwk(RSA)).encode()):
        forged = f"{head}.{body}.{b64(hmac.new(secret, f'{head}.{body}'.encode(), digest).digest())}"
        assert await Gate(tmp_path, keys=[{"pem": "key.pem"}]).refusal(forged) == "algorithm_refused"


@pytest.mark.parametrize("alg", ["RS384", "RS512", "PS256", "ES384", "ES512", "ES256K", "Ed448", "dir", "", "eddsa"])
async def test_other_algorithms_are_refused(alg: str) -> None:
    assert await Gate().refusal(token(header={"alg": alg})) == "algorithm_refused"


async def test_an_algorithm_that_the_settings_leave_out_is_refused() -> None:
    gate = Gate(keys=[{"jwk": jwk(RSA)}], algorithms=["EdDSA"])
    assert await gate.refusal(token(RSA)) == "algorithm_refused"


@pytest.mark.parametrize(("key", "alg"), [(ED, "RS256"), (ED, "ES256"), (RSA, "ES256"), (EC, "EdDSA"), (RSA, "EdDSA")])
async def test_an_algorithm_that_does_not_fit_the_key_is_refused(key: Signer, alg: str) -> None:
    gate = Gate(keys=[{"jwk": jwk(key, kid="k")}, {"jwk": jwk(OTHER_ED, kid="other")}])
    assert await gate.refusal(token(key, {"alg": alg, "kid": "k"})) == "algorithm_mismatch"


@pytest.mark.parametrize(
    "header",
    [
        {"jwk": jwk(OTHER_ED)},
        {"jku": "https://evil/keys"},
        {"x5u": "https://evil/cert"},
        {"x5c": ["MIIB"]},
        {"jwk": None, "jku": 7},
    ],
)
async def test_a_token_that_brings_its_own_key_is_refused(header: dict[str, Any]) -> None:
    for key in (ED, OTHER_ED):
        assert await Gate().refusal(token(key, header)) == "embedded_key"


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"crit": ["b64"], "b64": False}, {"b64": False}])
async def test_a_critical_header_is_refused(header: dict[str, Any]) -> None:
    assert await Gate().refusal(token(header=header)) == "critical_header"


async def test_headers_that_are_not_critical_are_passed_over() -> None:
    assert (await Gate().principal(token(header={"nonce": "x", "x5t": "y", "cty": "z"}))).verified


async def test_a_demanded_type_is_checked() -> None:
    gate = Gate(typ="at+jwt")
    assert (await gate.principal(token(header={"typ": "application/AT+JWT"}))).verified
    for typ in ("JWT", None, 7):
        assert await gate.refusal(token(header={"typ": typ})) == "wrong_type"


async def test_another_key_is_refused_by_its_signature_or_its_id() -> None:
    assert await Gate().refusal(token(OTHER_ED)) == "bad_signature"
    gate = Gate(keys=[{"jwk": jwk(ED, kid="k1")}])
    assert await gate.refusal(token(ED, {"kid": "k2"})) == "unknown_key"
    assert await gate.refusal(token(OTHER_ED, {"kid": "k1"})) == "bad_signature"


async def test_a_token_without_a_key_id_is_tried_against_a_few_keys_only() -> None:
    few = [{"jwk": jwk(Ed25519PrivateKey.generate(), kid=str(at))} for at in range(7)]
    assert (await Gate(keys=[*few, {"jwk": jwk(ED, kid="mine")}]).principal(token())).verified
    many = [*few, {"jwk": jwk(OTHER_ED, kid="7")}, {"jwk": jwk(ED, kid="mine")}]
    assert await Gate(keys=many).refusal(token()) == "unknown_key"
    assert (await Gate(keys=many).principal(token(header={"kid": "mine"}))).verified


@pytest.mark.parametrize("key", [ED, EC, RSA], ids=["EdDSA", "ES256", "RS256"])
async def test_a_changed_token_is_refused(key: Signer) -> None:
    gate = Gate(keys=[{"jwk": jwk(key)}])
    head, body, signature = token(key, header={"typ": "JWT"}).split(".")
    other_head, other_body, other = token(key, header={"typ": "jwt"}, sub="mallory", jti="t2").split(".")
    for forged in (
        f"{head}.{other_body}.{signature}", f"{other_head}.{body}.{signature}", f"{head}.{body}.{other}",
        f"{head}.{body}.", f"{head}.{body}.{signature[:-8]}", f"{head}.{body}.{signature}AAAA",
        f"{head}.{body}.{b64(bytes(64))}", f"{head}.{body}.{b64(bytes([255]) * 64)}", f"{head}.{body}.A",
    ):  # fmt: skip
        assert await gate.refusal(forged) == "bad_signature"
    assert (await gate.principal(f"{head}.{body}.{signature}")).verified


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"iss": "https://evil"}, "wrong_issuer"),
        ({"iss": None}, "wrong_issuer"),
        ({"iss": ["https://issuer"]}, "wrong_issuer"),
        ({"aud": "other"}, "wrong_audience"),
        ({"aud": None}, "wrong_audience"),
        ({"aud": []}, "wrong_audience"),
        ({"aud": ["other", 7]}, "wrong_audience"),
        ({"aud": {"meshflow": 1}}, "wrong_audience"),
        ({"exp": None}, "missing_expiry"),
        ({"exp": NOW_S - 31}, "expired"),
        ({"exp": NOW_S - 30}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": "tomorrow"}, "invalid_claim"),
        ({"exp": True}, "invalid_claim"),
        ({"exp": 1e300}, "invalid_claim"),
        ({"exp": 10**400}, "invalid_claim"),
        ({"exp": -1}, "invalid_claim"),
        ({"nbf": NOW_S + 31}, "not_yet_valid"),
        ({"iat": NOW_S + 31}, "not_yet_valid"),
        ({"nbf": "x"}, "invalid_claim"),
        ({"sub": None}, "invalid_claim"),
        ({"sub": ""}, "invalid_claim"),
        ({"sub": 7}, "invalid_claim"),
        ({"sub": "a" * 257}, "invalid_claim"),
        ({"sub": "a\nb"}, "invalid_claim"),
        ({"agent_id": ["a"]}, "invalid_claim"),
        ({"roles": [7]}, "invalid_claim"),
        ({"roles": {"ops": 1}}, "invalid_claim"),
        ({"tenant": ["acme"]}, "invalid_claim"),
        ({"jti": 7}, "invalid_claim"),
        ({"jti": None}, "missing_token_id"),
    ],
)
async def test_claims_that_are_wrong_or_for_others_are_refused(claims: dict[str, Any], code: str) -> None:
    gate = Gate()
    for _ in range(2):
        assert await gate.refusal(token(**claims)) == code


@pytest.mark.parametrize(
    "claims", [{"exp": NOW_S - 29}, {"nbf": NOW_S + 30}, {"iat": NOW_S + 30}, {"exp": NOW_S + 0.5}]
)
async def test_clocks_may_differ_by_the_leeway(claims: dict[str, Any]) -> None:
    assert (await Gate().principal(token(**claims))).verified


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"1e999", b"-Infinity"])
async def test_an_expiry_that_is_no_number_is_refused(literal: bytes) -> None:
    body = json.dumps(CLAIMS).encode().replace(str(NOW_S + 300).encode(), literal)
    assert await Gate().refusal(token(raw=body)) in ("token_malformed", "invalid_claim")


async def test_a_claim_that_appears_twice_is_refused() -> None:
    body = json.dumps(CLAIMS).encode()
    assert await Gate().refusal(token(raw=b'{"sub":"mallory",' + body[1:])) == "token_malformed"


async def test_oversize_tokens_are_refused_unread() -> None:
    assert await Gate().refusal(token(pad="x" * 13_000)) == "token_too_large"
    assert (await Gate().principal(token(pad="x" * 11_000))).verified
    assert await Gate().refusal("." * 50_000_000) == "token_too_large"


GARBAGE: list[Any] = [
    "", ".", "..", "...", "a.b", "a.b.c", "a.b.c.d.e",
    "\x00", "\ud800.a.b", "\u00e9.\u00e9.\u00e9", " a.b.c", "a.b.c\n",
    "e30.e30.e30", "e30.e30.", "W10.e30.e30", "MQ.e30.e30", "bnVsbA.e30.e30", b64(b'"alg"') + ".e30.e30", 7, b"a.b.c",
    b64(b"[" * 9000) + ".e30.AA", b64(b'{"alg":"EdDSA","a":' + b"[" * 9000) + ".e30.AA", b64(b'{"alg":7}') + ".e30.AA",
    b64(b'{"alg":"EdDSA","kid":7}') + ".e30.AA", b64(b'{"alg":"EdDSA","alg":"none"}') + ".e30.AA",
    b64(b'{"a":' + b"9" * 8000 + b"}") + ".e30.AA", b64(b"\xff\xfe") + ".e30.AA",
]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_is_refused(garbage: Any) -> None:
    assert await Gate().refusal(garbage) == "token_malformed"


@pytest.mark.parametrize("raw", [b"", b"[]", b"7", b"null", b"{", b"[" * 9000, b"\xff", b'{"a":' * 2000])
async def test_signed_garbage_is_refused(raw: bytes) -> None:
    assert await Gate().refusal(token(raw=raw)) == "token_malformed"


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(st.binary(max_size=40).map(b64), min_size=3, max_size=3).map(".".join)
    | st.builds(
        lambda head, rest: b64(json.dumps(head).encode()) + rest,
        st.dictionaries(
            st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "cty"]),
            st.sampled_from(["EdDSA", "RS256", "none", "", 7, None, True, [], {}, ["b64"]]),
        ),
        st.sampled_from([".e30.AA", "..", ".e30.", ".W10.AAAA"]),
    )
)
async def test_nothing_that_no_key_signed_passes_or_raises(credential: str) -> None:
    decision = await Gate().ask(Gate().step(credential))
    assert decision.effect is Effect.DENY


async def test_reasons_do_not_quote_the_token() -> None:
    gate = Gate()
    for credential in (token(OTHER_ED), token(aud="secret-aud"), "secret-garbage", token(header={"kid": 7})):
        decision = await gate.ask(gate.step(credential))
        said = decision.reason + str(dict(decision.evidence))
        assert "secret" not in said
        assert all(part not in said for part in credential.split("."))


async def test_a_step_that_names_another_agent_is_refused() -> None:
    gate = Gate()
    assert await gate.refusal(token(agent_id="a1"), agent_id="a2") == "agent_mismatch"
    assert (await gate.principal(token(agent_id="a1"), agent_id="a1")).agent_id == "a1"
    assert (await gate.principal(token(agent_id="a1"), agent_id="local")).agent_id == "a1"


async def test_with_keys_a_credential_is_needed() -> None:
    assert await Gate().refusal(None) == "no_credential"


async def test_without_keys_the_principal_is_local_and_unverified() -> None:
    gate = Gate(keys=None, issuer=None, audience=None)
    assert await gate.principal(None, agent_id="desk") == Principal("local", "desk", issuer="local", verified=False)
    for credential in (token(), "", "x"):
        assert await gate.refusal(credential) == "no_keys"


@pytest.mark.parametrize("agent_id", ["", "a\nb", "a" * 257, 7, None])
async def test_a_local_agent_needs_a_sensible_id(agent_id: Any) -> None:
    assert await Gate(keys=None, issuer=None, audience=None).refusal(None, agent_id=agent_id) == "invalid_agent"


async def test_a_token_belongs_to_the_first_run_that_shows_it() -> None:
    gate = Gate()
    for _ in range(3):
        assert (await gate.principal(token(), "run-1")).verified
    assert await gate.refusal(token(), "run-2") == "token_replayed"
    assert await gate.refusal(token(sub="bob"), "run-2") == "token_replayed"
    assert (await gate.principal(token(jti="t2"), "run-2")).verified


async def test_a_token_without_an_id_is_bound_by_its_content_not_its_signature() -> None:
    gate = Gate(keys=[{"jwk": jwk(EC)}], require_token_id=False)
    first, second = token(EC, jti=None), token(EC, jti=None)
    assert first != second
    assert (await gate.principal(first, "run-1")).token_id is None
    assert await gate.refusal(second, "run-2") == "token_replayed"


async def test_binding_can_be_left_out() -> None:
    gate = Gate(bind_to_run=False)
    for run in ("run-1", "run-2"):
        assert (await gate.principal(token(), run)).verified


async def test_a_refused_step_does_not_bind_the_token() -> None:
    gate = Gate()
    assert await gate.refusal(token(agent_id="a1"), "run-1", agent_id="a2") == "agent_mismatch"
    assert (await gate.principal(token(agent_id="a1"), "run-2")).verified


async def test_looking_neither_binds_nor_remembers() -> None:
    gate = Gate()
    looking = StepContext(gate.step(token(), "run-1")._state.look(Purpose.SHADOW))
    assert (await gate.ask(looking)).effect is Effect.ALLOW
    assert not gate.plugin._known
    assert len(gate.plugin._bindings) == 0
    assert (await gate.principal(token(), "run-2")).verified
    assert (await gate.ask(looking)).code == "identity_verification.token_replayed"


async def test_bindings_are_dropped_after_expiry_and_never_come_free_again() -> None:
    gate, first = Gate(), token()
    assert (await gate.principal(first, "run-1")).verified
    for at in range(500):
        gate.clock.advance(400)
        fresh = token(jti=f"x{at}", exp=gate.clock.now_us() // 1_000_000 + 300)
        assert (await gate.principal(fresh, "run-1")).verified
    assert len(gate.plugin._bindings) <= 2
    gate.clock.set_wall(NOW_S * 1_000_000)
    assert await gate.refusal(first, "run-2") == "expired"


async def test_more_bindings_than_allowed_are_refused() -> None:
    gate = Gate(max_bindings=2)
    for jti in ("a", "b"):
        assert (await gate.principal(token(jti=jti))).verified
    assert await gate.refusal(token(jti="c")) == "bindings_full"
    assert (await gate.principal(token(jti="a"))).verified


async def test_a_remembered_token_expires_all_the_same() -> None:
    gate = Gate()
    credential = token()
    assert (await gate.principal(credential)).verified
    assert gate.plugin._known
    gate.clock.advance(329)
    assert (await gate.principal(credential)).verified
    gate.clock.advance(1)
    assert await gate.refusal(credential) == "expired"
    assert not gate.plugin._known


async def test_a_remembered_token_is_not_valid_before_its_time() -> None:
    gate = Gate()
    credential = token(nbf=NOW_S)
    assert (await gate.principal(credential)).verified
    gate.clock.set_wall((NOW_S - 60) * 1_000_000)
    assert await gate.refusal(credential) == "not_yet_valid"


async def test_only_so_many_tokens_are_remembered() -> None:
    gate = Gate(max_cached=3)
    for at in range(20):
        await gate.principal(token(jti=str(at)))
    assert len(gate.plugin._known) == 3


@pytest.mark.parametrize(
    "revoked", [{"revoked_tokens": ["t1"]}, {"revoked_subjects": ["alice"]}, {"revoked_subjects": ["a1"]}]
)
async def test_what_the_settings_revoke_is_refused(revoked: dict[str, Any]) -> None:
    assert await Gate(**revoked).refusal(token(agent_id="a1")) == "revoked"
    assert (await Gate(**revoked).principal(token(agent_id="a2", sub="bob", jti="t2"))).verified


def approval(principal: Principal) -> Approval:
    return Approval("ap", "run", "step", True, "boss", "d", "s", "f", 2**60, principal)


async def test_a_resumed_step_is_who_asked_unless_revoked_since() -> None:
    asked = Principal("alice", "a1", issuer="https://issuer", verified=True, token_id="t1", expires_at_us=1)
    for gate, code in ((Gate(), None), (Gate(revoked_tokens=["t1"]), "identity_verification.revoked")):
        context = gate.step(None)
        context._state.approval = approval(asked)
        decision = await gate.ask(context)
        assert decision.fact is asked if code is None else decision.code == code


async def test_a_resumed_step_takes_no_other_principals_token() -> None:
    gate = Gate()
    asked = await gate.principal(token(tenant="acme", exp=NOW_S + 1))
    gate.clock.advance(60)
    for credential, code in (
        (token(tenant="acme", exp=NOW_S + 1), None),
        (token(tenant="acme", jti="t2"), None),
        (token(tenant="globex", jti="t3"), "identity_verification.approval_mismatch"),
        (token(tenant="acme", sub="bob", agent_id="alice"), "identity_verification.approval_mismatch"),
        (token(OTHER_ED, tenant="acme"), "identity_verification.bad_signature"),
        ("nonsense", "identity_verification.token_malformed"),
    ):
        context = gate.step(credential)
        context._state.approval = approval(asked)
        decision = await gate.ask(context)
        assert decision.fact is asked if code is None else decision.code == code


async def test_a_wrong_key_is_a_configuration_error_at_startup_and_denies_without_it(tmp_path: Path) -> None:
    gate = Gate(tmp_path, keys=[{"pem": "missing.pem"}])
    with pytest.raises(ConfigError, match=r"missing\.pem"):
        await gate.plugin.startup()
    assert await gate.refusal(token()) == "keys_unavailable"
