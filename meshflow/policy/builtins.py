"""Which built-in functions each engine has."""

from __future__ import annotations

from functools import cache

from meshflow.policy.embedded import Engine
from meshflow.policy.engine import ENGINES

_ONLY_OPA = """
array.flatten div equal gt gte lt lte minus mul neq plus rem
crypto.hmac.equal crypto.hmac.md5 crypto.hmac.sha1 crypto.hmac.sha256 crypto.hmac.sha512 crypto.md5
crypto.parse_private_keys crypto.sha1 crypto.sha256 crypto.x509.parse_and_verify_certificates
crypto.x509.parse_and_verify_certificates_with_options crypto.x509.parse_certificate_request
crypto.x509.parse_certificates crypto.x509.parse_keypair crypto.x509.parse_rsa_private_key
graphql.is_valid graphql.parse graphql.parse_and_verify graphql.parse_query graphql.parse_schema
graphql.schema_is_valid
io.jwt.decode io.jwt.decode_verify io.jwt.encode_sign io.jwt.encode_sign_raw io.jwt.verify_eddsa io.jwt.verify_es256
io.jwt.verify_es384 io.jwt.verify_es512 io.jwt.verify_hs256 io.jwt.verify_hs384 io.jwt.verify_hs512
io.jwt.verify_ps256 io.jwt.verify_ps384 io.jwt.verify_ps512 io.jwt.verify_rs256 io.jwt.verify_rs384
io.jwt.verify_rs512
net.cidr_contains_matches net.cidr_intersects net.cidr_merge providers.aws.sign_req regex.globs_match
rego.metadata.chain rego.metadata.rule rego.parse_module strings.render_template strings.split_n uri.is_valid uri.parse
"""
"""What OPA 1.20 has beyond the embedded engine; a test compares it with the evaluator itself."""


@cache
def builtins_of(engine: str) -> frozenset[str]:
    """Return the names of an engine's built-ins. All engines have those of the embedded one, and OPA has more."""
    asked = Engine().eval_query("opa.runtime().builtins")
    embedded = frozenset(asked["result"][0]["expressions"][0]["value"])
    if engine not in ENGINES:
        raise ValueError(engine)
    return embedded if engine == "regorus" else embedded | frozenset(_ONLY_OPA.split())
