"""Settings of the limits plugin, checked when they are loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from meshflow.plugin import Settings
from meshflow_limits.units import DurationText, RateText, UsdText

RateDimension = Literal["tenant", "agent", "tool", "run", "principal"]
CapDimension = Literal["global", "tenant", "agent", "tool", "run", "principal"]
_LARGEST = 2**53 - 1


class Match(Settings):
    """Which steps a limit applies to: those that fit every list given. A name may end in ``*``."""

    tool: tuple[str, ...] | None = Field(default=None, description="Tools; a step without a tool does not fit.")
    tenant: tuple[str, ...] | None = Field(default=None, description="Tenant ids.")
    agent: tuple[str, ...] | None = Field(default=None, description="Agent ids.")

    @field_validator("tool", "tenant", "agent")
    @classmethod
    def _say_something(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and (not names or not all(names)):
            raise ValueError("an empty list or name fits no step; leave the key out to fit every step")
        for name in names or ():
            if "*" in name[:-1]:
                raise ValueError(f"only the last character may be *, not {name!r}")
        return names


class RateSettings(Settings):
    """One rate limit."""

    name: str = Field(min_length=1, max_length=100, description="Name of the limit, unique among rates.")
    per: tuple[RateDimension, ...] = Field(
        default=(),
        description="What has a limit of its own; empty is one for all. Per tool covers steps with a tool only.",
    )
    match: Match = Field(default=Match(), description="Which steps the limit applies to; all by default.")
    rate: RateText = Field(description="Steps by time: 100/1m, 5/s, 10/h, 1000/1d.")
    burst: int | None = Field(
        default=None, ge=1, le=_LARGEST, description="Steps that may come at once; the count of the rate by default."
    )


class CapSettings(Settings):
    """One cap on what steps may use."""

    name: str = Field(min_length=1, max_length=100, description="Name of the cap, unique among caps.")
    per: tuple[CapDimension, ...] = Field(
        default=(),
        description="What has an account of its own; empty or global is one for all. Per tool covers tool steps only.",
    )
    match: Match = Field(default=Match(), description="Which steps the cap applies to; all by default.")
    usd: UsdText | None = Field(default=None, description="USD, up to six decimals.")
    tokens: int | None = Field(default=None, ge=0, le=_LARGEST, description="Tokens.")
    steps: int | None = Field(default=None, ge=0, le=_LARGEST, description="Steps that execute.")
    period: Literal["run"] | DurationText | None = Field(
        default=None,
        description="How long an account lasts: run, or a duration such as 1h, 1d or 30d, in windows that are counted"
        " from 1970-01-01 UTC; null never ends.",
    )

    @model_validator(mode="after")
    def _cap_something(self) -> Self:
        if self.usd is None and self.tokens is None and self.steps is None:
            raise ValueError(f"cap {self.name!r} caps nothing; set usd, tokens or steps")
        return self


class LimitsSettings(Settings):
    """What ``limits`` (or ``plugins.limits``) may say."""

    rates: tuple[RateSettings, ...] = Field(default=(), description="Rate limits; a step must fit all that apply.")
    caps: tuple[CapSettings, ...] = Field(default=(), description="Caps; a step must fit all that apply.")
    default_estimate_usd: UsdText | None = Field(
        default=None,
        description="USD to reserve for a step without an estimate. Null: 0 for kinds function, tool, human and"
        " subgraph (whose inner steps reserve for themselves), none for others.",
    )
    default_estimate_tokens: int | None = Field(
        default=None,
        ge=0,
        le=_LARGEST,
        description="Tokens to reserve for a step without an estimate. Null: 0 for kinds function, tool, human and"
        " subgraph, none for others.",
    )
    require_estimate: bool = Field(
        default=True,
        description="Deny a step under a cap on USD or tokens that has neither an estimate nor a default.",
    )
    hold_ttl_s: int = Field(
        default=3_600,
        ge=1,
        description="Seconds after which an open reservation is reported as overdue. In memory it stays until settled.",
    )
    max_keys: int = Field(
        default=1_000_000,
        ge=1,
        description="Accounts, and keys by rate limit, that are followed at once; a further one is denied.",
    )
    forget_runs_after: DurationText = Field(
        default="7d",
        description="Time without a step after which the account of a run is dropped, if nothing is reserved on it.",
    )

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        _refuse_twins("rates", (rate.name for rate in self.rates))
        _refuse_twins("caps", (cap.name for cap in self.caps))
        return self


def _refuse_twins(kind: str, names: Iterable[str]) -> None:
    twins = sorted(name for name, times in Counter(names).items() if times > 1)
    if twins:
        raise ValueError(f"{kind} need unique names; {twins} appear more than once")
