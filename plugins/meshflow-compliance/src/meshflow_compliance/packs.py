"""Find profile packs: those shipped, those of installed distributions, and folders."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from meshflow.errors import ConfigError
from meshflow.policy import Bundle, shipped_bundle
from meshflow.policy.shipped import shipped_names
from meshflow_compliance.manifest import FILE_NAME, Manifest, read_manifest
from meshflow_compliance.settings import ProfileUse

GROUP = "meshflow.profiles"
_SHIPPED = "profiles"


@dataclass(frozen=True, slots=True)
class Pack:
    """A profile pack as it is in force: manifest, rules with the settings laid over them, and the digest of it all."""

    manifest: Manifest
    bundle: Bundle
    digest: str


def pack_names() -> tuple[str, ...]:
    """Return the names of all packs that are shipped or installed."""
    return tuple(sorted({*shipped_names(_SHIPPED), *(entry.name for entry in entry_points(group=GROUP))}))


def find_pack(use: ProfileUse, base: Path) -> Pack:
    """Return the pack that a setting names; ConfigError says what is wrong with it or where it was looked for."""
    return load_pack(_folder(use.use, base), use.given)


def load_pack(folder: Path, given: Mapping[str, Any], *, tests: bool = False) -> Pack:
    """Read a pack's folder and lay the settings over its data, as ``data.meshflow.profile``."""
    path = folder / FILE_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path), path="profiles") from None
    manifest = read_manifest(content, str(path))
    profile = {
        "entities": list(manifest.entities),
        "approval": manifest.approval.model_dump(mode="json"),
        "settings": _settings(manifest, given),
    }
    bundle = Bundle.load(folder, tests=tests).with_data({"meshflow": {"profile": profile}}, str(path))
    digest = sha256(b"meshflow/profile/v1\x00" + bytes.fromhex(bundle.digest) + content).hexdigest()
    return Pack(manifest, bundle, digest)


def _folder(name: str, base: Path) -> Path:
    if "/" in name or os.sep in name or name.startswith("."):
        return base / name
    installed = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    shipped = name in shipped_names(_SHIPPED)
    if len(installed) + shipped > 1:
        owners = [_owner(entry) for entry in installed] + ["meshflow"] * shipped
        raise ConfigError(
            f"profile {name!r} is provided by {' and '.join(owners)}; remove all but one", path="profiles"
        )
    if shipped:
        return shipped_bundle(f"{_SHIPPED}/{name}")
    if installed:
        return _entry_folder(installed[0])
    known = pack_names()
    near = get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
    raise ConfigError(f"no profile is named {name!r}; {hint}", path="profiles")


def _entry_folder(entry: EntryPoint) -> Path:
    """Return the folder of an installed pack: the entry point names a package, or a path in one of its modules."""
    try:
        found = entry.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"profile {entry.name!r} of {_owner(entry)} cannot be loaded: {error}") from error
    if isinstance(found, ModuleType):
        return Path(str(found.__file__)).parent
    if isinstance(found, (str, os.PathLike)):
        return Path(found)
    raise ConfigError(
        f"profile {entry.name!r} of {_owner(entry)} must name a package or a path, not a {type(found).__name__}"
    )


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


def _settings(manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pack's settings: its defaults, and over them what the operator gives, of the same JSON type."""
    for key, value in given.items():
        path = f"profiles.{manifest.name}.{key}"
        if key not in manifest.settings:
            near = get_close_matches(key, manifest.settings, 1)
            raise ConfigError(f"unknown setting{f' (did you mean {near[0]}?)' if near else ''}", path=path)
        default = manifest.settings[key]
        if default is not None and type(value) is not type(default):
            raise ConfigError(f"must be a {type(default).__name__}, not a {type(value).__name__}", path=path)
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise ConfigError("must be a list of text", path=path)
    return {**manifest.settings, **given}
