"""The settings of the compliance plugin."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, field_validator

from meshflow.plugin import Settings
from meshflow.policy.engine import MAX_INPUT_BYTES


class ProfileUse(Settings):
    """One profile that is in force, and what is set of it: ``{use: hipaa, treatment_roles: [clinician]}``."""

    model_config = ConfigDict(frozen=True, extra="allow")

    use: str = Field(min_length=1, description="Name of a profile pack, or the path of a pack's folder.")

    @property
    def given(self) -> dict[str, Any]:
        """What is set beside the name; the pack's manifest says which keys there are."""
        return dict(self.model_extra or {})


class ComplianceSettings(Settings):
    """``profiles`` of meshflow.yaml, a list; or ``plugins.compliance``."""

    profiles: tuple[str | ProfileUse, ...] = Field(
        (), description="Profiles in force, by name or path, or as {use: name} with the profile's own settings."
    )
    max_input_bytes: int = Field(
        MAX_INPUT_BYTES,
        ge=1_024,
        le=64 << 20,
        description="Largest decision document in bytes of JSON; a larger one denies the step.",
    )

    @field_validator("profiles", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, dict, ProfileUse)) else value

    @property
    def uses(self) -> tuple[ProfileUse, ...]:
        """The profiles in their long form, each once."""
        uses = [ProfileUse(use=profile) if isinstance(profile, str) else profile for profile in self.profiles]
        return tuple(use for index, use in enumerate(uses) if use not in uses[:index])
