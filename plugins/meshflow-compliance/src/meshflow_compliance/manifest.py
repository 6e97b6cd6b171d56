"""A profile pack's manifest: which controls it serves, what it needs, and what it does not claim."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from meshflow.errors import ConfigError
from meshflow.policy.data import parse_document
from meshflow.stages import STAGE_BY_NAME

FILE_NAME = "profile.yaml"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Control(_Part):
    """One control of the framework that the pack serves."""

    id: str = Field(min_length=1, description="Official identifier, such as 45 CFR 164.312(d).")
    title: str = Field(min_length=1, description="The framework's own title of it.")
    source: str = Field(min_length=1, description="Where the text of the control is published.")
    how: str = Field(min_length=1, description="What serves it here: a rule, a stage or the ledger.")


class Gap(_Part):
    """What the pack does not cover, so that nobody takes it for covered."""

    id: str = Field(min_length=1, description="Official identifier.")
    title: str = Field(min_length=1, description="The framework's own title of it.")
    why: str = Field(min_length=1, description="Why not, and what would.")


class Requirements(_Part):
    """What the running configuration must provide."""

    verified_identity: bool = Field(False, description="Principals must be backed by a credential.")


class ApprovalRules(_Part):
    """From where on a person must agree."""

    declared_risk: Literal["internal", "external_io", "irreversible"] | None = Field(
        None, description="Steps whose caller declares this risk or a higher one wait for a person."
    )


class Manifest(_Part):
    """The contents of ``profile.yaml``."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="The name that settings use.")
    title: str = Field(min_length=1, description="The framework's name.")
    version: str = Field(min_length=1, description="The pack's version.")
    edition: str = Field(min_length=1, description="Which edition of the framework the pack follows.")
    controls: tuple[Control, ...] = Field(min_length=1, description="Controls that the pack serves.")
    required_stages: tuple[str, ...] = Field((), description="Stages that must be enforced.")
    requires: Requirements = Field(default_factory=Requirements, description="Further needs.")
    obligations: tuple[str, ...] = Field((), description="Obligations that the rules may lay on a step.")
    entities: tuple[str, ...] = Field((), description="Entities of sensitive data that mask_entities names.")
    retention_days: int | None = Field(None, ge=1, description="Days that records must be kept.")
    approval: ApprovalRules = Field(default_factory=ApprovalRules, description="Human approval.")
    settings: dict[str, Any] = Field(default_factory=dict, description="The pack's settings and their defaults.")
    not_covered: tuple[Gap, ...] = Field(min_length=1, description="What the pack does not cover.")

    @field_validator("required_stages")
    @classmethod
    def _known_stages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in STAGE_BY_NAME]
        if unknown:
            raise ValueError(f"unknown stages {unknown}; choose from {list(STAGE_BY_NAME)}")
        return value

    @field_validator("controls")
    @classmethod
    def _each_once(cls, value: tuple[Control, ...]) -> tuple[Control, ...]:
        ids = [control.id for control in value]
        if len(set(ids)) != len(ids):
            raise ValueError("a control is listed twice")
        return value


def read_manifest(content: bytes, where: str) -> Manifest:
    """Return the manifest that a file holds; ConfigError names the file, the key and the problem."""
    try:
        return Manifest.model_validate(parse_document(content, where))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(map(str, first["loc"]))
        raise ConfigError(first["msg"], where=where, path=path) from None
