"""What meshflow.yaml holds: the file's own models, and the frozen Config made of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from meshflow.config.merge import merged_with, own_entry
from meshflow.config.problems import BOOLEAN_HINT
from meshflow.config.source import SettingPath, Source

SECTIONS: tuple[str, ...] = ("ledger", "limits", "profiles", "telemetry", "tools")
TENANT_SECTIONS: tuple[str, ...] = ("limits", "profiles", "tools")
RESERVED: tuple[str, ...] = ("allow", "disable")
TENANT_ID = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_TENANT_ID = re.compile(TENANT_ID)
_MAX_NAMES = 100


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"should be a whole number, not {'true' if value else 'false'}")
    return value


def _names(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"should be a plugin's name or a list of names ({BOOLEAN_HINT})")
    return (value,) if isinstance(value, str) else value


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) > _MAX_NAMES:
        raise ValueError(f"holds more than {_MAX_NAMES} names")
    if not all(name.strip() for name in names):
        raise ValueError("holds an empty name")
    if len(set(names)) < len(names):
        raise ValueError("names a plugin twice")
    return names


def _not_empty(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("is an empty list, which would leave nothing; name a plugin, or leave the setting out")
    return names


def _tenant_id(name: str) -> str:
    if not _TENANT_ID.fullmatch(name):
        raise ValueError(
            "a tenant id is 1 to 64 letters, digits, dots, dashes or underscores, no sign at its beginning"
        )
    return name


def _mapping(value: object) -> object:
    return {} if value is None else value


def _without_empty(value: object, fields: Collection[str]) -> object:
    if value is None:
        return {}
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if item is not None or key not in fields}
    return value


def _version(value: object) -> object:
    if isinstance(value, bool | float):
        raise ValueError("should be 1")
    return 1 if value == "1" else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names), AfterValidator(_unique)]
SomeNames = Annotated[Names, AfterValidator(_not_empty)]
Required = Annotated[int, Field(ge=1, le=100), BeforeValidator(_number)]
TenantId = Annotated[str, AfterValidator(_tenant_id)]
Raw = Annotated[dict[str, Any], BeforeValidator(_mapping)]


class _Model(BaseModel):
    """Frozen; an unknown key is an error; a key without a value is a key not set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return _without_empty(value, cls.model_fields)


class StageConfig(_Model):
    """One stage: who provides it and how it is enforced. ``stage: name`` and ``stage: [a, b]`` stand for ``use``."""

    use: SomeNames | None = Field(None, description="Plugins that provide the stage, in order, instead of the default.")
    also_shadow: Names = Field((), description="Plugins that answer beside it, recorded and never enforced.")
    mode: Literal["enforce", "shadow", "disabled"] = Field("enforce", description="Whether the stage's answer counts.")
    timeout_ms: Annotated[int, Field(gt=0, le=86_400_000), BeforeValidator(_number)] | None = Field(
        None, description="Milliseconds after which the stage denies."
    )
    unsafe: bool = Field(False, description="Permits mode disabled on a protected stage; each record says so.")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        if isinstance(value, str | list | tuple):
            return {"use": value}
        if isinstance(value, bool):
            raise ValueError(f"should be a plugin's name, a list of names, or a mapping ({BOOLEAN_HINT})")
        return value


class ApprovalRule(_Model):
    """Whose approval the steps that match need; what a rule does not say, the section says."""

    tools: Names = Field((), description="Names of tools; empty matches every step.")
    tenants: Names = Field((), description="Ids of tenants; empty matches every one.")
    required: Required | None = Field(None, description="How many different people must approve.")
    approvers: Names = Field((), description="Who may approve; empty leaves it to the section.")


def _url(value: str) -> str:
    parts = urlsplit(value)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or (parts.scheme != "https" and not (local and parts.scheme == "http")):
        raise ValueError("is an https:// address, or http:// on this machine")
    if parts.username is not None or parts.password is not None:
        raise ValueError("has no user and password in it: what is sent is signed with the secret")
    return value


class WebhookConfig(_Model):
    """Where it is told that a step waits for a person."""

    url: Annotated[str, AfterValidator(_url)] = Field(
        description="Address that requests are posted to; https, or http on this machine."
    )
    secret: SecretStr = Field(min_length=16, description="Key of the HMAC-SHA256 that signs each request.")
    timeout_ms: Annotated[int, Field(gt=0, le=60_000), BeforeValidator(_number)] = Field(
        5_000, description="Milliseconds that one try may take."
    )
    attempts: Annotated[int, Field(ge=1, le=10), BeforeValidator(_number)] = Field(3, description="Tries in all.")
    include_input: bool = Field(False, description="Whether the input, redacted, is told too.")


class ApprovalsConfig(_Model):
    """Who approves the steps that wait for a person, and how long they may wait."""

    expires_s: Annotated[int, Field(gt=0, le=315_360_000), BeforeValidator(_number)] = Field(
        86_400, description="Seconds after which a pending approval expires and its step is denied."
    )
    required: Required = Field(1, description="How many different people must approve; one who denies decides alone.")
    approvers: Names = Field((), description="Who may approve; empty is anybody but who asked.")
    webhook: WebhookConfig | None = Field(None, description="Where it is told that a step waits.")
    rules: tuple[ApprovalRule, ...] = Field((), description="Rules, of which the first that matches a step decides.")

    def terms(self, tool: str | None, tenant: str | None) -> tuple[int, tuple[str, ...]]:
        """Return how many must approve a step, and who may."""
        for rule in self.rules:
            if (not rule.tools or tool in rule.tools) and (not rule.tenants or tenant in rule.tenants):
                return rule.required or self.required, rule.approvers or self.approvers
        return self.required, self.approvers

    @model_validator(mode="after")
    def _enough_approvers(self) -> Self:
        each = [(rule.required or self.required, rule.approvers or self.approvers) for rule in self.rules]
        for needed, named in ((self.required, self.approvers), *each):
            if named and needed > len(named):
                raise ValueError(f"needs {needed} approvals and names {len(named)} approvers")
        return self


class PluginsConfig(BaseModel):
    """Settings by plugin's name, beside two reserved names."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Raw]

    allow: SomeNames | None = Field(
        None, description="Only these may be used beside the default plugins; unset, every installed one."
    )
    disable: Names = Field((), description="These plugins are never imported.")

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return _without_empty(value, RESERVED)


class TenantConfig(_Model):
    """What differs for one tenant; it may only tighten what the base enforces."""

    stages: dict[str, StageConfig] = Field(default_factory=dict, description="Stages 3 to 15 of this tenant.")
    plugins: PluginsConfig = Field(default_factory=PluginsConfig, description="Settings by plugin, over the base's.")
    limits: Any = Field(None, description="Limits, over the base's.")
    profiles: Any = Field(None, description="Compliance profiles, beside the base's.")
    tools: Any = Field(None, description="Tools, over the base's.")


class Document(_Model):
    """The whole file."""

    version: Annotated[Literal[1], BeforeValidator(_version)] = 1
    ledger: Any = None
    tenants: dict[TenantId, TenantConfig] = Field(default_factory=dict)
    stages: dict[str, StageConfig] = Field(default_factory=dict)
    plugins: PluginsConfig = Field(default_factory=PluginsConfig)
    profiles: Any = None
    limits: Any = None
    approvals: ApprovalsConfig = Field(default_factory=ApprovalsConfig)
    telemetry: Any = None
    tools: Any = None


@dataclass(frozen=True, slots=True)
class Config:
    """meshflow.yaml, checked, with plugin settings still raw; values are not to be changed.

    ``allow`` names what may be used beside the default plugins; None is every installed plugin. ``sections`` holds
    ledger, limits, profiles, telemetry and tools as far as they are set. ``tenant`` is the tenant's id in the two views
    of a tenant, which have no tenants.
    """

    version: int = 1
    stages: Mapping[str, StageConfig] = field(default_factory=dict)
    plugins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    allow: tuple[str, ...] | None = None
    disable: tuple[str, ...] = ()
    sections: Mapping[str, Any] = field(default_factory=dict, repr=False)
    approvals: ApprovalsConfig = field(default_factory=ApprovalsConfig)
    tenants: Mapping[str, TenantConfig] = field(default_factory=dict, repr=False)
    base: Path = field(default_factory=Path)
    name: str = "configuration"
    tenant: str | None = None
    source: Source = field(default_factory=lambda: Source("configuration"), repr=False, compare=False)

    @classmethod
    def empty(cls) -> Config:
        """Return the configuration that sets nothing."""
        return cls()

    def where(self, path: SettingPath) -> str:
        """Return ``meshflow.yaml:14`` for the setting or the nearest one around it; the name if no line is known."""
        return self.source.where(path)

    def for_tenant(self, tenant_id: str) -> Config:
        """Return what the tenant's own entry sets (stages, plugins, sections), without the base's.

        ``where`` on it points to the tenant's lines. A tenant without an entry sets nothing.
        """
        return own_entry(self, tenant_id)

    def merged_with(self, tenant_id: str) -> Config:
        """Return the base with the tenant's plugin settings and sections laid over it; stages are the base's.

        Mappings merge at every depth, any other value replaces the base's, and a section that is a list on both sides
        (profiles) is the base's list with the tenant's added. A tenant without an entry gets the base's settings.
        """
        return merged_with(self, tenant_id)
