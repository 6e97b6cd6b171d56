"""What an operator may set for the scan of sensitive data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from pydantic import Field, field_validator

from meshflow.plugin import Settings
from meshflow_presidio.gates import compile_re2


class Action(StrEnum):
    """What is done with a piece of sensitive data, weakest first."""

    ALLOW = "allow"
    SURROGATE = "surrogate"
    ENCRYPT = "encrypt"
    HASH = "hash"
    MASK = "mask"
    DENY = "deny"


STRENGTH: Mapping[Action, int] = MappingProxyType({action: rank for rank, action in enumerate(Action)})
SECRET = "SECRET"  # noqa: S105 - the name of an entity, not a secret
_ENTITY = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
KEYED = frozenset({Action.HASH, Action.ENCRYPT})

DEFAULT_ENTITIES: Mapping[str, Action] = MappingProxyType(
    {
        "CREDIT_CARD": Action.MASK,
        "CRYPTO": Action.ALLOW,
        "EMAIL_ADDRESS": Action.MASK,
        "IBAN_CODE": Action.MASK,
        "IP_ADDRESS": Action.ALLOW,
        "MEDICAL_LICENSE": Action.MASK,
        "PHONE_NUMBER": Action.MASK,
        SECRET: Action.MASK,
        "US_ITIN": Action.MASK,
        "US_SSN": Action.MASK,
    }
)
"""Structured kinds that carry a checksum or a shape of their own; what is allowed is still masked in records."""


class PresidioSettings(Settings):
    """Settings of the ``presidio`` plugin."""

    entities: dict[str, Action] = Field(
        default_factory=dict,
        description="Action by entity (a Presidio name, SECRET, or a name from patterns); added to the defaults, and a "
        "name listed here is looked for even where its action is allow.",
    )
    default_action: Action = Field(
        Action.MASK,
        description="Action for entities of the countries listed and of the model that have none of their own.",
    )
    threshold: float = Field(0.4, ge=0.0, le=1.0, description="Score from 0 to 1 below which a finding is dropped.")
    countries: tuple[str, ...] = Field(
        (), description="Country codes (us, uk, de, in, ...) whose own recognisers run beside those of entities."
    )
    phone_regions: tuple[str, ...] = Field(
        ("US", "GB", "DE", "FR"),
        description="Regions whose national phone formats are read; a number with + needs none.",
    )
    patterns: dict[str, str] = Field(
        default_factory=dict,
        description="Entities of your own: name to RE2 pattern; a pattern RE2 refuses is an error.",
    )
    model: str | None = Field(
        None, description="Installed spaCy model (or a folder of one) that finds PERSON and LOCATION; never downloaded."
    )
    secrets: Literal["auto", "required", "patterns", "none"] = Field(
        "auto",
        description="auto: redact-secret where it is installed, and patterns; required: an error where it is missing; "
        "patterns: only the built-in patterns; none: no scan for secrets.",
    )
    secret_keys: tuple[str, ...] = Field(
        (
            "password", "passwd", "pwd", "passphrase", "secret", "api_key", "apikey", "access_token", "auth_token",
            "refresh_token", "client_secret", "secret_key", "private_key", "access_key", "authorization", "credentials",
        ),
        description="Keys of mappings whose text is secret, whatever it looks like; case, - and _ are ignored.",
    )  # fmt: skip
    record_action: Literal["mask", "hash"] = Field(
        "mask", description="What is done to every finding, also to those allowed in flight, in what the ledger keeps."
    )
    allow_in: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="Tool name to argument names that reach the tool as they are (an e-mail tool needs its address); a "
        "deny still denies, and records are still masked.",
    )
    scan_output: bool = Field(True, description="Scan outputs at stage 13 as inputs are at stage 8.")
    key_env: str | None = Field(
        None, description="Environment variable with the key (32 characters or more) for hash and encrypt."
    )
    timeout_ms: int = Field(
        2_000, ge=1, le=600_000, description="Milliseconds that one scan may take; beyond, it denies."
    )
    max_chars: int = Field(
        2_000_000,
        ge=1,
        description="Characters of text in one input or output; beyond, it denies. Records: four times.",
    )
    max_depth: int = Field(64, ge=1, le=200, description="Levels of nesting; beyond, it denies.")
    max_nodes: int = Field(200_000, ge=1, description="Values in one input or output; beyond, it denies.")
    thread_above: int = Field(32_768, ge=0, description="Characters above which a scan leaves the event loop.")
    cache_entries: int = Field(
        4_096, ge=0, description="Texts whose findings are remembered, by keyed digest; 0 is none."
    )
    cache_spans: int = Field(100_000, ge=0, description="Findings remembered over all cached texts.")
    vault_runs: int = Field(1_024, ge=1, description="Runs whose surrogates are remembered; the oldest is forgotten.")
    vault_values: int = Field(10_000, ge=1, description="Surrogates in one run; further values are masked.")

    @field_validator("countries")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(code.lower() for code in value)

    @field_validator("patterns")
    @classmethod
    def _compiles(cls, value: dict[str, str]) -> dict[str, str]:
        for name, pattern in value.items():
            if not _ENTITY.fullmatch(name):
                raise ValueError(f"{name!r} is no entity name; write it like EMPLOYEE_ID")
            compile_re2(pattern, ignore_case=False)
        return value

    def actions(self) -> dict[str, Action]:
        """Return the action of each entity that is looked for by name."""
        chosen = {**DEFAULT_ENTITIES, **dict.fromkeys(self.patterns, self.default_action), **self.entities}
        if self.secrets == "none":
            chosen.pop(SECRET, None)
        return chosen
