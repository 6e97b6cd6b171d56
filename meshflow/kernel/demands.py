"""Ask every enforced plugin what it needs of the pipeline, and refuse the start where it does not get it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from meshflow.config.models import Config
from meshflow.config.problems import Problem, raise_problems
from meshflow.config.settings import setting_place
from meshflow.config.source import dotted
from meshflow.errors import ConfigError, PluginError
from meshflow.kernel.ask import describe
from meshflow.plugin.wiring import Demand, Served, Wiring
from meshflow.registry.providers import Provider
from meshflow.registry.select import StageChoice


def check_demands(config: Config, choices: Sequence[StageChoice], tenant: str | None = None) -> None:
    """Raise one ConfigError for all demands that are not met, each with the line to change."""
    raise_problems(unmet_demands(config, choices, tenant), config.source)


def unmet_demands(config: Config, choices: Sequence[StageChoice], tenant: str | None = None) -> Iterator[Problem]:
    """Yield what is not met. Of a tenant's pipeline its own plugins are asked; the base's were asked of the base."""
    wiring = wiring_of(choices, tenant)
    asked: dict[str, Provider] = {}
    for choice in choices:
        for slot in choice.slots:
            if slot.enforced and slot.tenant == tenant:
                asked.setdefault(slot.provider.name, slot.provider)
    for name, provider in asked.items():
        try:
            demands = list(provider.plugin.demands(wiring))
        except (ConfigError, PluginError):
            raise
        except Exception as error:  # a plugin's own code may raise anything
            raise PluginError(f"demands failed: {describe(name, error)}") from error
        for demand in demands:
            yield _problem(config, provider, demand)


def wiring_of(choices: Sequence[StageChoice], tenant: str | None = None) -> Wiring:
    """Return a pipeline's choices as plugins see them."""
    stages: Mapping[str, Served] = {
        choice.stage.name: Served(
            choice.mode,
            {slot.provider.name: slot.provider.plugin for slot in choice.slots if slot.enforced},
            {slot.provider.name: slot.provider.plugin for slot in choice.slots if not slot.enforced},
        )
        for choice in choices
    }
    return Wiring(stages, tenant)


def _problem(config: Config, provider: Provider, demand: Demand) -> Problem:
    """Return the demand with where it comes from: the line that activates, beside the line to change."""
    if not demand.because:
        return Problem(demand.setting, demand.message)
    name = provider.name.partition("@")[0]
    place = setting_place(config, name, type(provider.plugin), demand.because)
    where = config.where(place)
    line = f", {where}" if where != config.name else ""
    return Problem(demand.setting, f"{demand.message} (asked for by {dotted(config.source.written(place))}{line})")
