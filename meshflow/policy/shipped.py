"""Find the bundles that come with meshflow, in an installed wheel and in a checkout."""

from __future__ import annotations

import re
from pathlib import Path

from meshflow.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*")


def shipped_bundle(name: str) -> Path:
    """Return the folder of a shipped bundle, such as ``authz`` or ``profiles/hipaa``; ConfigError if there is none."""
    package = Path(__file__).resolve().parent.parent
    if _NAME.fullmatch(name):
        for home in (package / "_policies", package.parent / "policies"):
            if (home / name).is_dir():
                return home / name
    raise ConfigError(f"meshflow ships no policy bundle named {name!r}")


def shipped_names(folder: str) -> tuple[str, ...]:
    """Return the names of the bundles below a shipped folder, such as ``profiles``."""
    home = shipped_bundle(folder)
    return tuple(sorted(entry.name for entry in home.iterdir() if entry.is_dir() and _NAME.fullmatch(entry.name)))
