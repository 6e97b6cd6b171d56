"""``meshflow profiles``: what packs there are, what one says, and whether it is sound and could be active here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshflow.cli.exits import ExitCode
from meshflow.cli.options import Chosen
from meshflow.cli.output import counted, flat, print_json, print_pairs, print_table, say
from meshflow.cli.profile_packs import active_packs, named_pack
from meshflow.errors import ConfigError, MeshflowError

if TYPE_CHECKING:
    from meshflow.config.models import Config
    from meshflow.profiles import Pack


def list_profiles(options: Chosen) -> None:
    """Print every pack that is shipped or installed, and where it is active."""
    from meshflow.profiles import find_pack, pack_names
    from meshflow.profiles.packs import pack_owner

    config = options.load()
    active = _active_names(config)
    rows: list[dict[str, Any]] = []
    for name in sorted({*pack_names(), *active}):
        row: dict[str, Any] = {"name": name, "active": active.get(name, []), "problem": None}
        try:
            manifest = find_pack(name, {}, config.base).manifest if name in pack_names() else None
        except MeshflowError as error:
            row["problem"], manifest = str(error), None
        row["distribution"] = pack_owner(name) if name in pack_names() else "a folder"
        for key in ("title", "version", "edition"):
            row[key] = getattr(manifest, key, "")
        row["controls"] = len(manifest.controls) if manifest is not None else 0
        row["not_covered"] = len(manifest.not_covered) if manifest is not None else 0
        rows.append(row)
    if options.as_json:
        print_json({"config": config.name, "profiles": rows})
        return
    headers = ("name", "title", "edition", "version", "distribution", "controls", "not covered", "active", "problem")
    lines = [
        (row["name"], row["title"], row["edition"], row["version"], row["distribution"], row["controls"],
         row["not_covered"], ", ".join(row["active"]), row["problem"])
        for row in rows
    ]  # fmt: skip
    print_table("", headers, lines, right={"controls", "not covered"})


def _active_names(config: Config) -> dict[str, list[str]]:
    """Return for each active pack who has it active: the base, or tenants of their own."""
    found: dict[str, list[str]] = {}
    base = {one.manifest.name for pack in active_packs(config) for one in pack.line()}
    for name in base:
        found[name] = ["base"]
    for tenant in config.tenants:
        for name in {one.manifest.name for pack in active_packs(config, tenant) for one in pack.line()} - base:
            found.setdefault(name, []).append(f"tenant {tenant}")
    return found


def show_profile(options: Chosen, name: str, tenant: str | None) -> None:
    """Print what a pack says, with the settings that it has here."""
    pack, active = named_pack(options.load(), name, tenant)
    manifest = pack.manifest
    if options.as_json:
        print_json({
            "active": active, "digest": pack.digest, "folder": str(pack.folder), "settings": dict(pack.settings),
            "extends": [one.manifest.name for one in pack.line() if one is not pack],
            "manifest": manifest.model_dump(mode="json"),
        })  # fmt: skip
        return
    requires = [name if wanted is True else f"{name}: {wanted}" for name, wanted in manifest.requires.items()]
    say(f"{manifest.title} ({manifest.name} {manifest.version})", manifest.edition, "")
    keep = manifest.retention
    print_pairs((
        ("active", "yes" if active else "no"), ("digest", pack.digest), ("folder", str(pack.folder)),
        ("extends", flat([one.manifest.name for one in pack.line() if one is not pack])),
        ("required stages", flat(manifest.required_stages)),
        ("requires", flat(requires)),
        ("entities", flat(manifest.entities)), ("obligations", flat(manifest.obligations)),
        ("keeps records", f"at least {keep.at_least_days} days" if keep.at_least_days else None),
        ("keeps records at most", f"{keep.at_most_days} days" if keep.at_most_days else None),
        ("asks a person from", manifest.approval.declared_risk),
    ))  # fmt: skip
    say("")
    rows = [(control.id, control.title, control.how) for control in manifest.controls]
    print_table("Controls served", ("control", "title", "how"), rows)
    if manifest.settings:
        settings = [(key, flat(pack.settings[key]), one.about) for key, one in manifest.settings.items()]
        print_table("Settings", ("setting", "value", "meaning"), settings)
    print_table(
        "Not covered", ("control", "title", "why"), [(gap.id, gap.title, gap.why) for gap in manifest.not_covered]
    )


def check_profiles(options: Chosen, name: str | None, tenant: str | None, *, ready: bool) -> ExitCode:
    """Check one pack, or all that are active: 3 for one that is not sound, 1 with ``ready`` for needs not met here."""
    from meshflow.profiles.check import check_pack

    config = options.load()
    if name is None:
        packs = [(pack, True) for pack in active_packs(config, tenant)]
        if not packs:
            raise ConfigError("no profile is active; name one, or activate it under profiles", where=config.name)
    else:
        packs = [named_pack(config, name, tenant)]
    answers = [
        {"profile": pack.manifest.name, "active": active, "folder": str(pack.folder),
         **check_pack(pack).document(), "needs": list(_needs(config, pack, active, name))}
        for pack, active in packs
    ]  # fmt: skip
    if options.as_json:
        print_json({"config": config.name, "profiles": answers})
    else:
        for answer in answers:
            _print_check(config, answer)
    if not all(answer["sound"] for answer in answers):
        return ExitCode.CONFIG
    lacking = any(answer["needs"] and (ready or answer["active"]) for answer in answers)
    return ExitCode.FAILED if lacking else ExitCode.OK


def _needs(config: Config, pack: Pack, active: bool, name: str | None) -> Iterator[str]:
    """Yield what the configuration lacks for a pack to be active in it, each with the line to change."""
    from meshflow.kernel.runtime import StepRuntime

    if not active:
        given = config.sections.get("profiles") or []
        listed = list(given) if isinstance(given, list | tuple) else [given]
        use = name if name is not None and pack.manifest.name == name else str(pack.folder.resolve())
        config = replace(config, sections={**config.sections, "profiles": [*listed, use]})
    try:
        StepRuntime(config=config)
    except ConfigError as error:
        yield from str(error).splitlines()


def _print_check(config: Config, answer: dict[str, Any]) -> None:
    tests, wrong = answer["tests"], answer["problems"]
    state = "sound" if answer["sound"] else "NOT sound"
    say(f"{answer['profile']}: {state}; {answer['controls']} controls, {counted(tests, 'Rego test')}")
    say(*(f"  {problem}" for problem in wrong))
    if answer["needs"]:
        say(f"  {config.name} does not meet what it needs:", *(f"    {need}" for need in answer["needs"]))
    else:
        say(f"  {config.name} meets what it needs")


def print_manifest_schema() -> None:
    """Print the JSON Schema of ``profile.yaml``."""
    from meshflow.profiles import manifest_schema

    print_json(manifest_schema())


def new_profile(options: Chosen, folder: Path, name: str | None, extends: str | None) -> None:
    """Write a pack that passes its own check."""
    from meshflow.profiles.scaffold import write_pack

    written = write_pack(folder, name or folder.resolve().name, extends)
    if options.as_json:
        print_json({"folder": str(folder), "written": [str(path) for path in written]})
        return
    say(*(f"wrote {path}" for path in written), "", f"Check it: meshflow profiles check {written[0].parent}/")
