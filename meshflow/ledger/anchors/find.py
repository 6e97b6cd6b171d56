"""Anchors by the name that meshflow.yaml gives them: those shipped, and those of installed packages.

A package declares one as ``[project.entry-points."meshflow.anchors"]``, ``name = "module:Class"``. Nothing is imported
before it is named, and no package can take a name that is shipped, or that another one has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib.metadata import Distribution, EntryPoint, distributions
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from meshflow.errors import ConfigError, PluginError
from meshflow.ledger.anchors.contract import Anchor
from meshflow.plugin.base import Settings

GROUP = "meshflow.anchors"
SHIPPED = {
    "file": "meshflow.ledger.anchors.file:FileAnchor",
    "git": "meshflow.ledger.anchors.git:GitAnchor",
    "s3": "meshflow.ledger.anchors.s3:S3Anchor",
    "witness": "meshflow.ledger.anchors.witness:WitnessAnchor",
}
_CALLS = ("from_settings", "publish", "latest", "kept", "check")


def known_anchors(installed: Iterable[Distribution] | None = None) -> dict[str, list[tuple[str, str]]]:
    """Return where each name leads, and who ships that; more than one makes the name unusable."""
    found = {name: [(target, "meshflow")] for name, target in SHIPPED.items()}
    for distribution in distributions() if installed is None else installed:
        for entry in distribution.entry_points:
            if entry.group == GROUP:
                owner = distribution.metadata["Name"] or "unknown"
                if (entry.value, owner) not in found.setdefault(entry.name, []):
                    found[entry.name].append((entry.value, owner))
    return found


def anchor_type(name: str, path: str = "", installed: Iterable[Distribution] | None = None) -> type[Anchor]:
    """Import the class behind a name; every error names the distribution to mend."""
    known = known_anchors(installed)
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ConfigError(f"no anchor {name!r}{hint}; installed are {sorted(known)}", path=path)
    if len(known[name]) > 1:
        owners = [owner for _, owner in known[name]]
        raise ConfigError(f"the anchor name {name!r} is claimed by {owners}; uninstall all but one of them", path=path)
    ((target, owner),) = known[name]
    try:
        loaded = EntryPoint(name, target, GROUP).load()
    except Exception as error:
        raise PluginError(
            f"anchor {name!r} of distribution {owner}: importing {target} failed: {type(error).__name__}: {error}"
        ) from error
    settings = getattr(loaded, "settings_type", None)
    lacks = [call for call in _CALLS if not callable(getattr(loaded, call, None))]
    if lacks or not (isinstance(settings, type) and issubclass(settings, Settings)):
        wants = f"the calls {lacks}" if lacks else "a settings_type, a subclass of meshflow.plugin.Settings"
        raise PluginError(f"anchor {name!r} of distribution {owner}: {target} lacks {wants}")
    return loaded  # type: ignore[no-any-return]


def make_anchor(
    name: str,
    settings: Mapping[str, Any],
    base: Path,
    *,
    path: str = "",
    installed: Iterable[Distribution] | None = None,
) -> Anchor:
    """Return the anchor of a name with its settings, without opening anything.

    ``base`` is where relative paths start from, and ``path`` what an error calls the settings.
    """
    made = anchor_type(name, path, installed)
    try:
        checked = made.settings_type.model_validate(dict(settings))
    except ValidationError as error:
        raise _wrong(error, made.settings_type, path) from None
    try:
        return made.from_settings(checked, base)
    except ConfigError as error:
        raise ConfigError(error.problem, path=".".join(part for part in (path, error.path) if part)) from None


def _wrong(error: ValidationError, model: type[Settings], path: str) -> ConfigError:
    """Say what is wrong with the first setting; values are left out, since one may be a secret."""
    detail = error.errors(include_input=False, include_context=False, include_url=False)[0]
    where = ".".join(str(part) for part in detail["loc"])
    problem = detail["msg"]
    if detail["type"] == "extra_forbidden":
        near = get_close_matches(str(detail["loc"][-1]), model.model_fields, 1)
        problem = "unknown setting" + (f" (did you mean {near[0]}?)" if near else "")
    elif detail["type"] == "missing":
        problem = "is required"
    return ConfigError(problem, path=f"{path}.{where}" if path else where)
