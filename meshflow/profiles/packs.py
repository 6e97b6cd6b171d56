"""Find profile packs (those shipped, those of installed distributions, and folders) and read them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from meshflow.config.source import Source
from meshflow.errors import ConfigError
from meshflow.policy import Bundle, shipped_bundle
from meshflow.policy.shipped import shipped_names
from meshflow.profiles.manifest import FILE_NAME, Manifest
from meshflow.profiles.read import read_manifest

GROUP = "meshflow.profiles"
LIBRARY = "pack"
"""The shipped bundle that every pack may import, as ``data.meshflow.pack``."""
_SHIPPED = "profiles"
_MAX_EXTENDS = 16


@dataclass(frozen=True, slots=True)
class Pack:
    """A profile pack as it is in force: manifest, rules with the settings laid over them, and the digest of it all.

    ``bundle`` is None for a pack without rules of its own. ``settings`` are the defaults with what was given over them.
    ``source`` knows the lines of the manifest. ``parents`` are the packs that it extends, which hold as well.
    """

    manifest: Manifest
    bundle: Bundle | None
    digest: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    folder: Path = field(default_factory=Path)
    source: Source = field(default_factory=lambda: Source(FILE_NAME), repr=False, compare=False)
    parents: tuple[Pack, ...] = ()

    def line(self) -> Iterator[Pack]:
        """Yield the pack with all that it extends, the furthest first, each once."""
        seen: set[str] = set()
        for parent in self.parents:
            for one in parent.line():
                if one.digest not in seen:
                    seen.add(one.digest)
                    yield one
        yield self


def pack_names() -> tuple[str, ...]:
    """Return the names of all packs that are shipped or installed."""
    return tuple(sorted({*shipped_names(_SHIPPED), *(entry.name for entry in entry_points(group=GROUP))}))


def pack_owner(name: str) -> str:
    """Return the distribution that a named pack comes from."""
    return next((_owner(entry) for entry in entry_points(group=GROUP) if entry.name == name), "meshflow")


def find_pack(use: str, given: Mapping[str, Any], base: Path) -> Pack:
    """Return the pack that a setting names; ConfigError says what is wrong with it or where it was looked for."""
    return load_pack(pack_folder(use, base), given)


def load_pack(folder: Path, given: Mapping[str, Any], *, tests: bool = False, _within: Sequence[Path] = ()) -> Pack:
    """Read a pack's folder and lay the settings over its data, as ``data.meshflow.profile``.

    A setting that the pack does not have is handed on to the packs that it extends.
    """
    path = folder / FILE_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path), path="profiles") from None
    manifest, source = read_manifest(content, str(path))
    real = folder.resolve()
    if real in _within or len(_within) >= _MAX_EXTENDS:
        raise ConfigError("extends a pack that extends it", where=source.where(("extends",)), path="extends")
    own = {name: value for name, value in given.items() if name in manifest.settings}
    parents, taken = _parents(manifest, source, folder, given, (*_within, real))
    _refuse_unknown(manifest, {*own, *taken}, given)
    settings = _settings(manifest, own)
    bundle = _bundle(manifest, folder, settings, str(path), tests=tests)
    parts = [bytes.fromhex(bundle.digest) if bundle is not None else b"", content]
    parts += [bytes.fromhex(parent.digest) for parent in parents]
    digest = sha256(b"meshflow/profile/v2\x00" + b"".join(len(part).to_bytes(8, "big") + part for part in parts))
    return Pack(manifest, bundle, digest.hexdigest(), settings, folder, source, parents)


def library() -> Mapping[str, str]:
    """Return the policy texts that every pack is given beside its own."""
    found = Bundle.load(shipped_bundle(LIBRARY))
    return {f"meshflow/{LIBRARY}/{path}": text for path, text in found.policies.items()}


def _bundle(manifest: Manifest, folder: Path, settings: Mapping[str, Any], where: str, *, tests: bool) -> Bundle | None:
    if manifest.extends and not any(folder.rglob("*.rego")):
        return None
    profile = {
        "entities": list(manifest.entities),
        "approval": manifest.approval.model_dump(mode="json"),
        "settings": dict(settings),
        "name": manifest.name,
    }
    bundle = Bundle.load(folder, tests=tests).with_policies(library())
    return bundle.with_data({"meshflow": {"profile": profile}}, where)


def _parents(
    manifest: Manifest, source: Source, folder: Path, given: Mapping[str, Any], within: Sequence[Path]
) -> tuple[tuple[Pack, ...], set[str]]:
    """Return the packs extended, each with the settings that it has, and which of the settings given they took."""
    parents: list[Pack] = []
    taken: set[str] = set()
    for place, one in enumerate(manifest.extends):
        try:
            target = pack_folder(one.use, folder)
            names = setting_names(target)
            handed = {name: value for name, value in given.items() if name in names and name not in manifest.settings}
            parents.append(load_pack(target, {**(one.model_extra or {}), **handed}, _within=within))
        except ConfigError as error:
            if error.where:
                raise
            where = source.where(("extends", place))
            raise ConfigError(error.problem, where=where, path=error.path or "extends") from None
        taken |= handed.keys()
    return tuple(parents), taken


def setting_names(folder: Path, _seen: frozenset[Path] = frozenset()) -> frozenset[str]:
    """Return the settings that a pack and all that it extends have."""
    path = folder.resolve() / FILE_NAME
    if path in _seen or not path.is_file():
        return frozenset()
    manifest, _ = read_manifest(path.read_bytes(), str(path))
    names = frozenset(manifest.settings)
    for one in manifest.extends:
        names |= setting_names(pack_folder(one.use, folder), _seen | {path})
    return names


def pack_folder(name: str, base: Path) -> Path:
    """Return the folder of a pack by name or path; ConfigError for a name that nothing or several things provide."""
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


def _refuse_unknown(manifest: Manifest, known: set[str], given: Mapping[str, Any]) -> None:
    for key in given:
        if key not in known:
            near = get_close_matches(key, manifest.settings, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(f"unknown setting{hint}", path=f"profiles.{manifest.name}.{key}")


def _settings(manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pack's settings: its defaults, and over them what the operator gives, of the same JSON type."""
    defaults = manifest.defaults()
    for key, value in given.items():
        path = f"profiles.{manifest.name}.{key}"
        default = defaults[key]
        if default is not None and type(value) is not type(default):
            raise ConfigError(f"must be a {type(default).__name__}, not a {type(value).__name__}", path=path)
        if isinstance(value, list) and not all(isinstance(item, str) for item in value):
            raise ConfigError("must be a list of text", path=path)
    return {**defaults, **given}
