"""Settings of the identity plugin; keys are checked for their kind when they are loaded."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from meshflow.plugin import Settings
from meshflow_identity.jwk import refusal

Algorithm = Literal["EdDSA", "ES256", "RS256"]


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class KeySettings(Settings):
    """One public key, written out as a JWK or kept in a PEM file."""

    # An error must not quote what may turn out to be a private key.
    model_config = ConfigDict(hide_input_in_errors=True)

    jwk: dict[str, Any] | None = Field(default=None, description="Public key as a JSON Web Key (RFC 7517).")
    pem: str | None = Field(
        default=None, min_length=1, description="PEM file with a public key; read again when it changes."
    )
    kid: str | None = Field(
        default=None, min_length=1, description="Key id for a PEM file; without one it serves tokens of any key id."
    )

    @field_validator("jwk")
    @classmethod
    def _usable(cls, jwk: dict[str, Any] | None) -> dict[str, Any] | None:
        problem = refusal(jwk) if jwk is not None else None
        if problem is not None:
            raise ValueError(problem)
        return jwk

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.jwk is None) == (self.pem is None):
            raise ValueError("a key is either jwk or pem; set one of them")
        if self.jwk is not None and self.kid is not None:
            raise ValueError("kid belongs inside the jwk")
        return self


class IdentitySettings(Settings):
    """What ``plugins.identity`` may say. Without keys every step gets an unverified local principal."""

    model_config = ConfigDict(hide_input_in_errors=True)

    keys: tuple[KeySettings, ...] = Field(default=(), description="Public keys that tokens may be signed with.")
    jwks_file: str | None = Field(
        default=None, min_length=1, description="JSON Web Key Set file; read again when its size or time changes."
    )
    issuer: str | None = Field(default=None, min_length=1, description="The iss claim that each token must carry.")
    audience: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(
        default=(), description="The aud claim of a token must name at least one of these."
    )
    algorithms: tuple[Algorithm, ...] = Field(
        default=("EdDSA", "ES256", "RS256"),
        min_length=1,
        description="Signature algorithms accepted. EdDSA is Ed25519, also under that name (RFC 9864).",
    )
    typ: str | None = Field(
        default=None, min_length=1, description="The typ header that each token must carry, such as at+jwt."
    )
    leeway_s: int = Field(default=30, ge=0, le=600, description="Seconds by which clocks may differ.")
    max_token_bytes: int = Field(default=16_384, ge=256, le=65_536, description="Size of the largest token, in bytes.")
    agent_claim: str = Field(
        default="agent_id", min_length=1, description="Claim with the agent's id; else azp names it, else sub."
    )
    roles_claim: str = Field(
        default="roles", min_length=1, description="Claim with roles: a list, or one text with spaces between them."
    )
    tenant_claim: str = Field(default="tenant", min_length=1, description="Claim with the tenant's id.")
    keep_claims: tuple[str, ...] = Field(
        default=(), description="Further claims to hand on with the principal; they are recorded with each step."
    )
    require_token_id: bool = Field(default=True, description="Deny a token without a jti claim.")
    bind_to_run: bool = Field(
        default=True, description="Bind a token to the first run that shows it and deny it in another."
    )
    max_bindings: int = Field(
        default=100_000, ge=1, description="Unexpired tokens that are bound to runs at once; a further one is denied."
    )
    max_cached: int = Field(default=4_096, ge=0, description="Verified tokens that are remembered; 0 remembers none.")
    revoked_tokens: tuple[str, ...] = Field(default=(), description="Token ids (jti) that are refused.")
    revoked_subjects: tuple[str, ...] = Field(default=(), description="Subjects and agent ids that are refused.")
    revocation_file: str | None = Field(
        default=None,
        min_length=1,
        description='JSON file {"tokens": [...], "subjects": [...]}; read again when its size or time changes.',
    )

    @property
    def has_keys(self) -> bool:
        """Whether tokens can be verified at all."""
        return bool(self.keys) or self.jwks_file is not None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.has_keys and (self.issuer is None or not self.audience):
            raise ValueError("keys need issuer and audience beside them, or a token meant for others would pass")
        if not self.has_keys and (self.issuer is not None or self.audience):
            raise ValueError("issuer and audience without keys verify nothing; set keys or jwks_file")
        if not all(self.audience):
            raise ValueError("an audience may not be empty")
        return self
