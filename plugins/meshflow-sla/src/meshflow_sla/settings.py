"""Settings of the SLA recorder."""

from __future__ import annotations

from pydantic import Field, model_validator

from meshflow.plugin import Settings


class Match(Settings):
    """Which steps an objective is about; what is left out matches everything."""

    node: str | None = Field(default=None, description="Node id.")
    tool: str | None = Field(default=None, description="Tool name.")
    tenant: str | None = Field(default=None, description="Tenant id.")
    agent: str | None = Field(default=None, description="Agent id.")


class Objective(Settings):
    """A promise about latency: of the last ``window`` steps, the share ``p`` ends within ``under_ms``."""

    name: str = Field(min_length=1, description="Name of the objective in logs and reports.")
    match: Match = Field(default_factory=Match, description="Steps that it is about.")
    p: float = Field(default=0.99, gt=0, le=1, description="Share of the steps that must be in time, such as 0.99.")
    under_ms: float = Field(gt=0, allow_inf_nan=False, description="Time in milliseconds.")
    window: int = Field(default=1_000, ge=1, le=1_000_000, description="Steps that are looked back on.")
    min_steps: int = Field(default=20, ge=1, description="Steps to see before judging.")

    @model_validator(mode="after")
    def _reachable(self) -> Objective:
        if self.min_steps > self.window:
            raise ValueError(f"min_steps ({self.min_steps}) is more than the window ({self.window}) ever holds")
        return self


class SlaSettings(Settings):
    """Settings of ``plugins.sla``."""

    objectives: tuple[Objective, ...] = Field(default=(), description="Latency objectives.")
    max_keys: int = Field(
        default=1_000,
        ge=1,
        description="Nodes, agents, tenants and tools each that are counted alone; more share 'other'.",
    )
    accuracy: float = Field(
        default=0.01, gt=0.0001, lt=0.5, description="Relative error of the percentiles, such as 0.01 for one percent."
    )
    opentelemetry: bool = Field(
        default=False, description="Also record metrics by the OpenTelemetry API, which must be installed."
    )

    @model_validator(mode="after")
    def _names_differ(self) -> SlaSettings:
        names = [objective.name for objective in self.objectives]
        if len(set(names)) != len(names):
            raise ValueError(f"objectives need names of their own, not {names}")
        return self
