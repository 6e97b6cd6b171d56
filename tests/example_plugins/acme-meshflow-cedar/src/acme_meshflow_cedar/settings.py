"""Settings of the cedar plugin."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from meshflow.plugin import Settings


class CedarSettings(Settings):
    """What ``plugins.cedar`` may say."""

    policies: str | None = Field(default=None, description="Cedar policies as text.")
    policies_file: Path | None = Field(
        default=None, description="File of Cedar policies, from the folder of meshflow.yaml."
    )
    entities_file: Path | None = Field(
        default=None, description="Cedar entities as JSON: users, roles, tools and groups."
    )
    max_argument_bytes: int = Field(
        default=65_536, gt=0, le=1_048_576, description="Bytes that a tool's arguments may have as Cedar context."
    )

    @model_validator(mode="after")
    def _one_source(self) -> CedarSettings:
        if (self.policies is None) == (self.policies_file is None):
            raise ValueError("set exactly one of policies and policies_file")
        return self
