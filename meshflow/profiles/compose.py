"""Several packs in force at once: the stricter wins, and what cannot hold together is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from meshflow.errors import ConfigError
from meshflow.profiles.assurances import ASSURANCES
from meshflow.profiles.manifest import RequiredSetting
from meshflow.profiles.packs import Pack


class By(NamedTuple):
    """A wanted value, the packs that want it, and which entry of the plugin's ``profiles`` brought the first in."""

    value: Any
    packs: tuple[str, ...]
    place: int


@dataclass(frozen=True, slots=True)
class Composition:
    """What the packs in force ask together. Each value says which packs ask for it."""

    stages: Mapping[str, By]
    assurances: Mapping[str, By]
    entities: Mapping[str, By]
    obligations: Mapping[str, By]
    keep_at_least_days: By | None
    keep_at_most_days: By | None
    keep_bounded: By | None
    settings: tuple[tuple[RequiredSetting, By], ...]


_ENTITY_ACTIONS = ("mask", "deny")


def compose(active: Sequence[tuple[int, Pack]]) -> Composition:
    """Return what packs ask together, each with its place in the settings; ConfigError names those in conflict."""
    whole = Composition(
        stages=_merged((stage, True, pack, place) for pack, place in _each(active)
                       for stage in pack.manifest.required_stages),
        assurances=_merged(((name, wanted, pack, place) for pack, place in _each(active)
                            for name, wanted in pack.manifest.requires.items()), _assurance_rank),
        entities=_merged(((entity, action, pack, place) for pack, place in _each(active)
                          for entity, action in pack.manifest.entities.items()), _entity_rank),
        obligations=_merged((duty, True, pack, place) for pack, place in _each(active)
                            for duty in pack.manifest.obligations),
        keep_at_least_days=_one(_retention(active, "at_least_days"), max),
        keep_at_most_days=_one(_retention(active, "at_most_days"), min),
        keep_bounded=_one((one for one in _retention(active, "bounded") if one.value), max),
        settings=tuple((rule, By(rule, (pack.manifest.name,), place)) for pack, place in _each(active)
                       for rule in pack.manifest.required_settings),
    )  # fmt: skip
    _refuse_conflicts(whole)
    return whole


def _each(active: Sequence[tuple[int, Pack]]) -> Iterator[tuple[Pack, int]]:
    for place, pack in active:
        for one in pack.line():
            yield one, place


def _entity_rank(_: str, action: Any) -> int:
    return _ENTITY_ACTIONS.index(action)


def _assurance_rank(name: str, wanted: Any) -> int:
    return ASSURANCES[name].strictness(wanted)


def _merged(wanted: Iterable[tuple[str, Any, Pack, int]], rank: Any = lambda _, value: int(value)) -> dict[str, By]:
    """Return the strictest value by name, with the packs that want just that."""
    found: dict[str, By] = {}
    for name, value, pack, place in wanted:
        own = pack.manifest.name
        known = found.get(name)
        if known is None or rank(name, value) > rank(name, known.value):
            found[name] = By(value, (own,), place)
        elif value == known.value and own not in known.packs:
            found[name] = By(value, (*known.packs, own), known.place)
    return found


def _retention(active: Sequence[tuple[int, Pack]], name: str) -> Iterator[By]:
    for pack, place in _each(active):
        value = getattr(pack.manifest.retention, name)
        if value is not None:
            yield By(value, (pack.manifest.name,), place)


def _one(wanted: Iterable[By], choose: Any) -> By | None:
    return choose(wanted, key=lambda one: one.value, default=None)  # type: ignore[no-any-return]


def _refuse_conflicts(whole: Composition) -> None:
    least, most = whole.keep_at_least_days, whole.keep_at_most_days
    if least is not None and most is not None and least.value > most.value:
        raise ConfigError(
            f"{least.packs[0]} keeps records for at least {least.value} days and {most.packs[0]} for at most "
            f"{most.value}; these profiles cannot hold together",
            path="profiles",
        )
    by_setting: dict[str, list[tuple[RequiredSetting, str]]] = {}
    for rule, by in whole.settings:
        by_setting.setdefault(rule.setting, []).append((rule, by.packs[0]))
    for setting, rules in by_setting.items():
        problem = _contradiction(rules)
        if problem:
            raise ConfigError(f"{setting}: {problem}; these profiles cannot hold together", path="profiles")


def _contradiction(rules: list[tuple[RequiredSetting, str]]) -> str:
    """Return why no value can satisfy all the rules of one setting, or nothing."""
    values: list[Any] | None = None
    chooser = ""
    for rule, pack in rules:
        allowed = [rule.equals] if rule.equals is not None else list(rule.one_of or ()) or None
        if allowed is None:
            continue
        left = allowed if values is None else [value for value in values if value in allowed]
        if not left:
            return f"{chooser} wants {values}, {pack} wants {allowed}"
        values, chooser = left, pack
    low = max(((rule.at_least, pack) for rule, pack in rules if rule.at_least is not None), default=None)
    high = min(((rule.at_most, pack) for rule, pack in rules if rule.at_most is not None), default=None)
    if low and high and low[0] > high[0]:
        return f"{low[1]} wants at least {low[0]:g}, {high[1]} at most {high[0]:g}"
    bound = low or high
    if not values or bound is None:
        return ""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if any((not low or value >= low[0]) and (not high or value <= high[0]) for value in numbers):
        return ""
    return f"{chooser} wants {values}, {bound[1]} another range"
