"""The settings of the rego plugin."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from meshflow.plugin import Settings
from meshflow.policy.engine import MAX_INPUT_BYTES
from meshflow.policy.opa.server import OpaServer


class ServerSettings(Settings):
    """``plugins.rego.server``: where an OPA server is, and how to trust it."""

    url: str = Field(min_length=1, description="Address of the server, such as https://opa.example:8181.")
    token: str | None = Field(None, min_length=1, description="Bearer token: a file that holds it, or env:NAME.")
    ca_file: str | None = Field(
        None, min_length=1, description="PEM file of the authority that signed the server's certificate."
    )
    client_certificate: str | None = Field(None, min_length=1, description="PEM file of this client's certificate.")
    client_key: str | None = Field(None, min_length=1, description="PEM file of that certificate's key.")
    timeout_ms: int = Field(1_000, ge=1, le=600_000, description="How long an answer may take, in milliseconds.")
    connections: int = Field(64, ge=1, le=4_096, description="Connections that may be open at once, a count.")
    bundle: Literal["push", "check"] = Field(
        "push", description="Put the bundle there, or check with each answer that the server decided by it."
    )
    exclusive: bool = Field(False, description="Take a pushed bundle away at shutdown: nobody else uses the server.")

    def server(self) -> OpaServer:
        """Return the same as the engine takes it."""
        return OpaServer(**self.model_dump())


class ReloadSettings(Settings):
    """``plugins.rego.reload``: whether a changed bundle comes into force by itself."""

    watch_ms: int = Field(
        0, ge=0, le=3_600_000, description="How often to look for changed files, in milliseconds; 0 for never."
    )
    tests: bool = Field(True, description="Whether a changed bundle's own tests must pass before it decides.")


class VerifySettings(Settings):
    """``plugins.rego.verify``: whose signature the bundle must have."""

    key: str = Field(min_length=1, description="PEM file of the public key: Ed25519, P-256 or RSA.")
    key_id: str | None = Field(None, min_length=1, description="The key id that the signature must name.")
    scope: str | None = Field(None, min_length=1, description="The scope that the signature must name.")


class RegoSettings(Settings):
    """``plugins.rego`` of meshflow.yaml."""

    bundle: str | None = Field(
        None,
        min_length=1,
        description="Folder of Rego files and data, or a single .rego file. Without it: the policy given to the "
        "runtime, or else the starter bundle that comes with meshflow.",
    )
    engine: Literal["regorus", "opa", "golib"] = Field(
        "regorus",
        description="What evaluates: regorus, in process; an OPA server; golib, OPA's own evaluator in process.",
    )
    server: ServerSettings | None = Field(None, description="The OPA server; needed by the engine opa.")
    data: str | None = Field(
        None,
        min_length=1,
        description="JSON or YAML file that is laid over the bundle's data: mappings merge, anything else is replaced.",
    )
    reload: ReloadSettings = Field(
        default_factory=ReloadSettings, description="Whether a changed bundle comes into force by itself."
    )
    verify: VerifySettings | None = Field(
        None, description="Whose signature the bundle must have, in OPA's format; unset, none is asked for."
    )
    record_input: bool = Field(
        True,
        description="Keep with each decision what the record lacks to decide it again, for backtests; redacted and "
        "erasable like the rest of the record.",
    )
    max_input_bytes: int = Field(
        MAX_INPUT_BYTES,
        ge=1_024,
        le=64 << 20,
        description="Largest decision document in bytes of JSON; a larger one denies the step.",
    )
