"""The identity plugin keeps the contract of stage 1, with keys and without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from joserfc import jwt
from joserfc.jwk import OKPKey

from meshflow.plugin import NodeInput
from meshflow.testing import StageConformance
from meshflow_identity import IdentityPlugin

KEY = OKPKey.generate_key("Ed25519", {"kid": "k1", "alg": "Ed25519", "use": "sig"})
OTHER = OKPKey.generate_key("Ed25519", {"kid": "k1", "alg": "Ed25519", "use": "sig"})
NOW_S = 1_700_000_000


def token(key: OKPKey = KEY, **claims: Any) -> str:
    body = {"iss": "https://idp.example", "aud": "meshflow", "sub": "alice", "jti": "t1", "agent_id": "desk"}
    times = {"iat": NOW_S - 10, "nbf": NOW_S - 10, "exp": NOW_S + 600}
    return jwt.encode({"alg": "Ed25519", "kid": "k1"}, {**body, **times, **claims}, key, algorithms=["Ed25519"])


class TestLocalIdentity(StageConformance):
    plugin_type = IdentityPlugin
    stage = "identity_verification"


class TestTokenIdentity(StageConformance):
    plugin_type = IdentityPlugin
    stage = "identity_verification"
    settings: ClassVar[Mapping[str, Any]] = {
        "keys": [{"jwk": KEY.as_dict(private=False)}],
        "issuer": "https://idp.example",
        "audience": "meshflow",
        "revoked_subjects": ["mallory"],
    }

    def steps(self) -> Iterable[NodeInput]:
        tokens = {
            "good": token(),
            "other run": token(),
            "expired": token(exp=NOW_S - 600),
            "forged": token(OTHER),
            "revoked": token(sub="mallory", jti="t2"),
            "for others": token(aud="elsewhere", jti="t3"),
            "none": None,
        }
        return [NodeInput(node_id="n", run_id=name, credential=credential) for name, credential in tokens.items()]
