"""The settings of the rego plugin."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from meshflow.plugin import Settings
from meshflow.policy.engine import MAX_INPUT_BYTES


class RegoSettings(Settings):
    """``plugins.rego`` of meshflow.yaml."""

    bundle: str | None = Field(
        None,
        min_length=1,
        description="Folder of Rego files and data, or a single .rego file. Without it: the policy given to the "
        "runtime, or else the starter bundle that comes with meshflow.",
    )
    engine: Literal["regorus"] = Field("regorus", description="What evaluates: regorus, in process.")
    data: str | None = Field(
        None,
        min_length=1,
        description="JSON or YAML file that is laid over the bundle's data: mappings merge, anything else is replaced.",
    )
    max_input_bytes: int = Field(
        MAX_INPUT_BYTES,
        ge=1_024,
        le=64 << 20,
        description="Largest decision document in bytes of JSON; a larger one denies the step.",
    )
