"""A profile pack's manifest: the controls it serves, what it needs, what shows it, and what it does not claim."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

FILE_NAME = "profile.yaml"
NAME = r"^[a-z0-9][a-z0-9_-]*$"

Condition: TypeAlias = dict[str, Any]
"""Field to what it must be; see ``conditions``."""

RecordKind = Literal["step", "intent", "approval", "erasure", "control", "ledger"]
Tier = Literal["internal", "external_io", "irreversible"]


def _some(items: tuple[Any, ...]) -> tuple[Any, ...]:
    # Not min_length: that counts an item which is wrong as one that is missing, and reports it too.
    if not items:
        raise ValueError("should hold at least one")
    return items


Some = AfterValidator(_some)
_NOT_EMPTY: Any = {"minItems": 1}


class Part(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Evidence(Part):
    """One question to the ledger: which records exercise the control, and what each of them must show."""

    records: RecordKind = Field(
        "step", description="Which entries are looked at; ledger asks of the ledger as a whole."
    )
    when: Condition = Field(default_factory=dict, description="Fields of the records that exercise the control.")
    holds: Condition = Field(min_length=1, description="What such a record must show; one that does not violates.")
    shows: str = Field("", description="What it shows where it holds, in a sentence.")


class Control(Part):
    """One control of the framework that the pack serves."""

    id: str = Field(min_length=1, description="Official identifier, such as 45 CFR 164.312(d).")
    title: str = Field(min_length=1, description="The framework's own title of it.")
    source: str = Field(min_length=1, description="Where the text of the control is published.")
    how: str = Field(min_length=1, description="What serves it here: a rule, a stage or the ledger.")
    evidence: Annotated[tuple[Evidence, ...], Some] = Field(
        description="What in the ledger shows it.", json_schema_extra=_NOT_EMPTY
    )


class Gap(Part):
    """What the pack does not cover, so that nobody takes it for covered."""

    id: str = Field(min_length=1, description="Official identifier.")
    title: str = Field(min_length=1, description="The framework's own title of it.")
    why: str = Field(min_length=1, description="Why not, and what would.")


class RequiredSetting(Part):
    """A setting of a plugin in use that must have a certain value; exactly one comparison."""

    setting: str = Field(pattern=r"^plugins(\.[A-Za-z0-9_-]+){2,}$", description="Such as plugins.presidio.timeout_ms.")
    equals: bool | int | str | None = Field(None, description="The value that it must have.")
    one_of: tuple[bool | int | str, ...] | None = Field(
        None, min_length=1, description="The values of which it must be."
    )
    at_least: float | None = Field(None, description="The lowest number that it may be.")
    at_most: float | None = Field(None, description="The highest number that it may be.")
    is_set: Literal[True] | None = Field(None, description="True: it must be set to something that is not empty.")
    why: str = Field(min_length=1, description="What it serves, in a sentence.")

    @model_validator(mode="after")
    def _one_comparison(self) -> RequiredSetting:
        names = ("equals", "one_of", "at_least", "at_most", "is_set")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of {', '.join(names)}; it has {', '.join(given) or 'none'}")
        return self


class RetentionRule(Part):
    """How long the payloads of records must or may be kept."""

    at_least_days: int | None = Field(None, ge=1, description="Days for which no rule may erase them.")
    at_most_days: int | None = Field(None, ge=1, description="Days after which a rule must have erased them.")
    bounded: bool = Field(False, description="True: some rule must erase every record's payloads in the end.")

    @model_validator(mode="after")
    def _in_order(self) -> RetentionRule:
        if self.at_least_days and self.at_most_days and self.at_least_days > self.at_most_days:
            raise ValueError(f"at_least_days {self.at_least_days} is more than at_most_days {self.at_most_days}")
        return self


class ApprovalRules(Part):
    """From where on a person must agree."""

    declared_risk: Tier | None = Field(
        None, description="Steps whose caller declares this risk or a higher one wait for a person."
    )


class PackSetting(Part):
    """One thing that an operator may set of the pack."""

    default: Any = Field(description="Its value where nothing is set; another value must be of the same type.")
    about: str = Field(min_length=1, description="What it means, in a sentence.")


class Extended(Part):
    """A pack that this one builds on, with settings of it that are given with it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    use: str = Field(min_length=1, description="Name of a profile pack, or the path of a pack's folder.")


class Manifest(Part):
    """The contents of ``profile.yaml``."""

    name: str = Field(pattern=NAME, description="The name that settings use.")
    title: str = Field(min_length=1, description="The framework's name.")
    version: str = Field(min_length=1, description="The pack's version.")
    edition: str = Field(min_length=1, description="Which edition of the framework the pack follows.")
    extends: tuple[Extended, ...] = Field((), description="Packs that hold as well wherever this one does.")
    controls: Annotated[tuple[Control, ...], Some] = Field(
        description="Controls that the pack serves.", json_schema_extra=_NOT_EMPTY
    )
    conditions: dict[str, Condition] = Field(
        default_factory=dict, description="Conditions that evidence refers to by name, with is."
    )
    required_stages: tuple[str, ...] = Field((), description="Stages that must be enforced.")
    requires: dict[str, bool | str] = Field(
        default_factory=dict, description="What plugins must vouch for, by the names of Plugin.assures."
    )
    required_settings: tuple[RequiredSetting, ...] = Field((), description="Settings of plugins that must be so.")
    obligations: tuple[str, ...] = Field((), description="Obligations that the rules may lay on a step.")
    entities: dict[str, Literal["mask", "deny"]] = Field(
        default_factory=dict, description="Sensitive data that must be found, and what at least is done with it."
    )
    retention: RetentionRule = Field(default_factory=RetentionRule, description="How long records are kept.")
    approval: ApprovalRules = Field(default_factory=ApprovalRules, description="Human approval.")
    settings: dict[str, PackSetting] = Field(default_factory=dict, description="What an operator may set of the pack.")
    not_covered: Annotated[tuple[Gap, ...], Some] = Field(
        description="What the pack does not cover.", json_schema_extra=_NOT_EMPTY
    )

    @field_validator("extends", mode="before")
    @classmethod
    def _one_or_a_name(cls, value: object) -> object:
        several = value if isinstance(value, list | tuple) else (value,)
        return tuple({"use": one} if isinstance(one, str) else one for one in several)

    @field_validator("entities", mode="before")
    @classmethod
    def _a_list_masks(cls, value: object) -> object:
        return dict.fromkeys(value, "mask") if isinstance(value, list | tuple) else value

    def defaults(self) -> Mapping[str, Any]:
        """Return the pack's settings as they are where nothing is set."""
        return {name: one.default for name, one in self.settings.items()}


def manifest_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of ``profile.yaml``."""
    schema = Manifest.model_json_schema()
    properties = schema["properties"]
    one = properties["extends"].pop("items")
    short = {"anyOf": [one, {"type": "string", "minLength": 1}]}
    properties["extends"] = {
        key: properties["extends"][key] for key in ("title", "description", "default") if key in properties["extends"]
    } | {"anyOf": [*short["anyOf"], {"type": "array", "items": short}]}
    entities = properties["entities"]
    about = {key: entities.pop(key) for key in ("title", "description") if key in entities}
    properties["entities"] = about | {"anyOf": [entities, {"type": "array", "items": {"type": "string"}}]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
