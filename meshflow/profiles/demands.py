"""What packs in force need of a pipeline and do not find there, each with the setting to change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from meshflow.plugin.wiring import Demand, Wiring
from meshflow.profiles.assurances import ASSURANCES, ENTITY_ACTIONS, Assurance
from meshflow.profiles.compose import By, Composition
from meshflow.profiles.manifest import RequiredSetting

_STAGE = "compliance_profile"


def demands_of(whole: Composition, wiring: Wiring) -> Iterator[Demand]:
    """Yield every need that the pipeline does not meet."""
    yield from _stages(whole, wiring)
    for name, by in whole.assurances.items():
        if wiring.stages[ASSURANCES[name].stage].enforced:
            yield from _assurance(ASSURANCES[name], by, wiring)
        elif ASSURANCES[name].stage not in whole.stages:
            yield _demand(("stages", ASSURANCES[name].stage), f"{_who(by)} {ASSURANCES[name].shown(by.value)}, and the "
                          "stage is not enforced", by)  # fmt: skip
    yield from _entities(whole, wiring)
    met = wiring.met_behind(_STAGE)
    for duty, by in whole.obligations.items():
        if duty not in met:
            yield _demand(("profiles",), f"{_may(by)} oblige a step to {duty}, which no enforced plugin meets", by)
    yield from _retention(whole, wiring)
    for rule, by in whole.settings:
        yield from _setting(rule, by, wiring)


def _stages(whole: Composition, wiring: Wiring) -> Iterator[Demand]:
    for stage, by in whole.stages.items():
        served = wiring.stages[stage]
        if served.enforced:
            continue
        found = f"it is in mode {served.mode}" if served.mode != "enforce" else "nothing enforces it"
        yield _demand(("stages", stage, "mode"), f"{_who(by)} the stage {stage}, and {found}; set mode to enforce", by)


def _assurance(one: Assurance, by: By, wiring: Wiring) -> Iterator[Demand]:
    said = list(wiring.assured(one.stage, one.name))
    if any(one.strictness(value) >= one.strictness(by.value) for _, value in said):
        return
    wanted = f"{_who(by)} {one.shown(by.value)}"
    if said:
        found = ", ".join(f"{plugin} has {_plain(value)}" for plugin, value in said)
        yield _demand(one.setting, f"{wanted}; {found}: {one.advice}", by)
        return
    plugins = ", ".join(wiring.stages[one.stage].enforced)
    message = f"{wanted}, and {plugins} does not vouch for it; its author states it in Plugin.assures"
    yield _demand(("stages", one.stage, "use"), message, by)


def _entities(whole: Composition, wiring: Wiring) -> Iterator[Demand]:
    if not whole.entities:
        return
    stage = "sensitive_data_scan"
    found: dict[str, int] = {}
    said = list(wiring.assured(stage, "entities"))
    for _, entities in said:
        for entity, action in entities.items():
            found[entity] = max(found.get(entity, -1), ENTITY_ACTIONS.index(action))
    if not wiring.stages[stage].enforced:
        by = next(iter(whole.entities.values()))
        if stage not in whole.stages:
            yield _demand(("stages", stage, "mode"), f"{_who(by)} {stage}, which finds sensitive data", by)
        return
    setting = ("plugins", "presidio", "entities")
    duty = whole.obligations.get("mask_entities")
    masking = frozenset(duty.packs if duty is not None else ())  # their rules ask for it step by step
    for entity, by in whole.entities.items():
        if entity not in found:
            message = f"{_who(by)} that {entity} be found, and nothing enforced looks for it; add it to entities"
            yield _demand(setting, message, by)
        elif by.value == "deny" and found[entity] < ENTITY_ACTIONS.index("deny"):
            yield _demand((*setting, entity), f"{_who(by)} that {entity} be refused; set its action to deny", by)
        elif not masking.issuperset(by.packs) and found[entity] < ENTITY_ACTIONS.index("mask"):
            yield _demand((*setting, entity), f"{_who(by)} that {entity} be masked; set its action to mask", by)


def _retention(whole: Composition, wiring: Wiring) -> Iterator[Demand]:
    rules: list[Mapping[str, Any]] = [rule for _, said in wiring.assured("audit_ledger", "retention") for rule in said]
    least, most, bounded = whole.keep_at_least_days, whole.keep_at_most_days, whole.keep_bounded
    for rule in rules:
        days = rule["keep_days"]
        if least is not None and days < least.value:
            message = f"{least.packs[0]} keeps records for at least {least.value} days; this rule keeps {days:g}"
            yield _demand(rule["setting"], message, least)
        if most is not None and days > most.value:
            message = f"{most.packs[0]} keeps records for at most {most.value} days; this rule keeps {days:g}"
            yield _demand(rule["setting"], message, most)
    limit = most or bounded
    if limit is not None and not any(rule["everything"] for rule in rules):
        longest = f"at most {most.value}d" if most else "a time"
        message = (
            f"{limit.packs[0]} needs an end to retention; add a rule without match and fields that keeps {longest}"
        )
        yield _demand(("ledger", "retention"), message, limit)


def _setting(rule: RequiredSetting, by: By, wiring: Wiring) -> Iterator[Demand]:
    _, name, *path = rule.setting.split(".")
    plugin = next((stage.enforced[name] for stage in wiring.stages.values() if name in stage.enforced), None)
    setting = tuple(rule.setting.split("."))
    if plugin is None:
        yield _demand(setting, f"{_who(by)} the plugin {name} ({rule.why}), which is not in use", by)
        return
    value: Any = plugin.settings.model_dump(mode="json")
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    wrong = _compared(rule, value)
    if wrong:
        yield _demand(setting, f"{_who(by)} {wrong}, not {_plain(value)}: {rule.why}", by)


def _compared(rule: RequiredSetting, value: Any) -> str:
    if rule.equals is not None:
        return "" if value == rule.equals else f"{_plain(rule.equals)}"
    if rule.one_of is not None:
        return "" if value in rule.one_of else f"one of {', '.join(map(_plain, rule.one_of))}"
    if rule.is_set:
        return "" if value not in (None, "", [], {}) else "a value"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if rule.at_least is not None:
        return "" if number and value >= rule.at_least else f"at least {rule.at_least:g}"
    return "" if number and rule.at_most is not None and value <= rule.at_most else f"at most {rule.at_most:g}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "nothing" if value is None else str(value) if isinstance(value, int | float | str) else type(value).__name__


def _who(by: By) -> str:
    return f"{_and(by.packs)} require{'s' if len(by.packs) == 1 else ''}"


def _may(by: By) -> str:
    return f"{_and(by.packs)} may"


def _and(names: Sequence[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def _demand(setting: Sequence[str | int], message: str, by: By) -> Demand:
    return Demand(tuple(setting), message, ("profiles", by.place))
