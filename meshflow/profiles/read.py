"""Read ``profile.yaml`` strictly: what is wrong with it is named by line, as in meshflow.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshflow.config.document import read_yaml
from meshflow.config.problems import Problem, raise_problems, unknown, validate
from meshflow.config.source import Source
from meshflow.errors import ConfigError
from meshflow.profiles.assurances import ASSURANCES
from meshflow.profiles.conditions import Scope, compile_condition
from meshflow.profiles.manifest import Evidence, Manifest
from meshflow.profiles.records import unknown_field
from meshflow.stages import STAGE_BY_NAME


def read_manifest(content: bytes, where: str) -> tuple[Manifest, Source]:
    """Return the manifest that a file holds and where its parts stand; ConfigError lists all that is wrong by line."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError("the file is not UTF-8 text", where=f"{where}:{line}") from None
    value, source = read_yaml(text, where, {})
    if not isinstance(value, dict):
        raise ConfigError("should be a mapping with keys such as name and controls", where=where)
    manifest = validate(Manifest, value, source)
    raise_problems(_problems(manifest), source)
    return manifest, source


def scope_of(manifest: Manifest, query: Evidence, settings: Mapping[str, Any] | None = None) -> Scope:
    """Return what the conditions of a query may refer to; without ``settings`` those of the manifest."""
    values = manifest.defaults() if settings is None else settings

    def known(name: str) -> str | None:
        area, dot, setting = name.partition(".")
        if dot and area == "settings":
            return None if setting in values else unknown("setting of the pack", setting, values)
        return unknown_field(query.records, name)

    return Scope(known, values, manifest.conditions)


def _problems(manifest: Manifest) -> Iterator[Problem]:
    """Yield everything that is well formed and still wrong."""
    for place, stage in enumerate(manifest.required_stages):
        if stage not in STAGE_BY_NAME:
            yield Problem(("required_stages", place), unknown("stage", stage, STAGE_BY_NAME))
    for name, wanted in manifest.requires.items():
        assurance = ASSURANCES.get(name)
        if assurance is None:
            yield Problem(("requires", name), unknown("assurance", name, ASSURANCES))
        elif wanted is False or assurance.strictness(wanted) < 1:
            choices = ", ".join(str(one).lower() for one in assurance.values[1:])
            yield Problem(("requires", name), f"takes {choices}")
    yield from _twice(manifest)
    yield from _evidence(manifest)


def _twice(manifest: Manifest) -> Iterator[Problem]:
    seen: set[str] = set()
    for place, control in enumerate(manifest.controls):
        if control.id in seen:
            yield Problem(("controls", place, "id"), f"the control {control.id!r} is listed twice")
        seen.add(control.id)
    for place, gap in enumerate(manifest.not_covered):
        if gap.id in seen:
            yield Problem(("not_covered", place, "id"), f"{gap.id!r} is among the controls that are served")


def _evidence(manifest: Manifest) -> list[Problem]:
    problems: list[Problem] = []
    for at, control in enumerate(manifest.controls):
        for number, query in enumerate(control.evidence):
            for key in ("when", "holds"):
                place = ("controls", at, "evidence", number, key)
                compile_condition(getattr(query, key), place, scope_of(manifest, query), problems)
    return problems
