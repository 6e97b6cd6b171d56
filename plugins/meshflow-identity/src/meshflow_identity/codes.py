"""The denial codes of this plugin and what they mean."""

from __future__ import annotations

from typing import Final

NO_KEYS: Final = "identity_verification.no_keys"
NO_CREDENTIAL: Final = "identity_verification.no_credential"
KEYS_UNAVAILABLE: Final = "identity_verification.keys_unavailable"
REVOCATIONS_UNAVAILABLE: Final = "identity_verification.revocations_unavailable"
TOO_LARGE: Final = "identity_verification.token_too_large"
MALFORMED: Final = "identity_verification.token_malformed"
UNSIGNED: Final = "identity_verification.unsigned"
ALGORITHM_REFUSED: Final = "identity_verification.algorithm_refused"
ALGORITHM_MISMATCH: Final = "identity_verification.algorithm_mismatch"
EMBEDDED_KEY: Final = "identity_verification.embedded_key"
CRITICAL_HEADER: Final = "identity_verification.critical_header"
WRONG_TYPE: Final = "identity_verification.wrong_type"
UNKNOWN_KEY: Final = "identity_verification.unknown_key"
BAD_SIGNATURE: Final = "identity_verification.bad_signature"
INVALID_CLAIM: Final = "identity_verification.invalid_claim"
WRONG_ISSUER: Final = "identity_verification.wrong_issuer"
WRONG_AUDIENCE: Final = "identity_verification.wrong_audience"
MISSING_EXPIRY: Final = "identity_verification.missing_expiry"
EXPIRED: Final = "identity_verification.expired"
NOT_YET_VALID: Final = "identity_verification.not_yet_valid"
MISSING_TOKEN_ID: Final = "identity_verification.missing_token_id"  # noqa: S105
TOKEN_REPLAYED: Final = "identity_verification.token_replayed"  # noqa: S105
BINDINGS_FULL: Final = "identity_verification.bindings_full"
REVOKED: Final = "identity_verification.revoked"
AGENT_MISMATCH: Final = "identity_verification.agent_mismatch"
APPROVAL_MISMATCH: Final = "identity_verification.approval_mismatch"
INVALID_AGENT: Final = "identity_verification.invalid_agent"

CODES: Final[dict[str, str]] = {
    NO_KEYS: "A credential was presented and no keys are configured to verify it with.",
    NO_CREDENTIAL: "Keys are configured and the step presents no credential.",
    KEYS_UNAVAILABLE: "A configured key or key set cannot be read or used.",
    REVOCATIONS_UNAVAILABLE: "The revocation file cannot be read, so nobody can be known not to be revoked.",
    TOO_LARGE: "The token is larger than the settings allow.",
    MALFORMED: "The credential is not a JWT in compact form with a JSON object as header and claims.",
    UNSIGNED: "The token says that it is not signed (alg none).",
    ALGORITHM_REFUSED: "The token's algorithm is not one of those accepted; shared-key (HMAC) ones never are.",
    ALGORITHM_MISMATCH: "The token's algorithm does not fit the key that it names.",
    EMBEDDED_KEY: "The token brings a key of its own, or says where to fetch one.",
    CRITICAL_HEADER: "The token demands that a header be understood which is not.",
    WRONG_TYPE: "The token's typ header is not the one that the settings demand.",
    UNKNOWN_KEY: "No configured key has the id that the token names, or the token must name one and does not.",
    BAD_SIGNATURE: "The signature was not made over this token by the configured key.",
    INVALID_CLAIM: "A claim is missing or has the wrong form.",
    WRONG_ISSUER: "The token was issued by another than the settings name.",
    WRONG_AUDIENCE: "The token was issued for another audience.",
    MISSING_EXPIRY: "The token never expires.",
    EXPIRED: "The token has expired.",
    NOT_YET_VALID: "The token is not valid yet, or claims to be issued in the future.",
    MISSING_TOKEN_ID: "The token has no jti, so it can neither be revoked nor bound to a run by it.",
    TOKEN_REPLAYED: "The token was first shown in another run.",
    BINDINGS_FULL: "As many unexpired tokens are bound to runs as the settings allow.",
    REVOKED: "The token, its subject or its agent has been revoked.",
    AGENT_MISMATCH: "The step names another agent than the token does.",
    APPROVAL_MISMATCH: "A step that waited for a person is handed in again with another principal's token.",
    INVALID_AGENT: "The agent id is not 1 to 256 printable characters.",
}
