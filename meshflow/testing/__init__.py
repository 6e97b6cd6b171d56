"""What plugin authors test with: a conformance class a kind of plugin, and a plugin that allows all.

Names are imported when first used: pytest loads ``meshflow.testing.pytest_plugin`` wherever meshflow is installed, and
must start as fast as without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshflow.testing.anchor import AnchorConformance
    from meshflow.testing.checkpoint import CheckpointStoreConformance
    from meshflow.testing.executor import ExecutorConformance
    from meshflow.testing.ledger_store import LedgerStoreConformance
    from meshflow.testing.recorder import RecorderConformance
    from meshflow.testing.stage import StageConformance
    from meshflow.testing.unsafe import UnsafeAllowAll

_HOME = {
    "AnchorConformance": "meshflow.testing.anchor",
    "CheckpointStoreConformance": "meshflow.testing.checkpoint",
    "ExecutorConformance": "meshflow.testing.executor",
    "LedgerStoreConformance": "meshflow.testing.ledger_store",
    "RecorderConformance": "meshflow.testing.recorder",
    "StageConformance": "meshflow.testing.stage",
    "UnsafeAllowAll": "meshflow.testing.unsafe",
}

__all__ = [
    "AnchorConformance",
    "CheckpointStoreConformance",
    "ExecutorConformance",
    "LedgerStoreConformance",
    "RecorderConformance",
    "StageConformance",
    "UnsafeAllowAll",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    from importlib import import_module

    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'meshflow.testing' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
