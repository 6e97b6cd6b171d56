"""The pytest plugin that meshflow installs: failed contracts show their values, and a fixture that makes runtimes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from meshflow.kernel.runtime import StepRuntime

pytest.register_assert_rewrite(
    "meshflow.testing.base",
    "meshflow.testing.executor",
    "meshflow.testing.ledger_base",
    "meshflow.testing.ledger_reads",
    "meshflow.testing.ledger_store",
    "meshflow.testing.ledger_writes",
    "meshflow.testing.recorder",
    "meshflow.testing.stage",
)


@pytest.fixture
def step_runtime(tmp_path: Path) -> Iterator[Callable[..., StepRuntime]]:
    """Return a function that makes a StepRuntime; takes the settings of meshflow.yaml and what StepRuntime takes.

    Relative paths, such as the ledger's, are under ``tmp_path``. Every runtime is closed after the test.
    """
    from meshflow.config.load import config_from_mapping
    from meshflow.kernel.runtime import StepRuntime

    made: list[StepRuntime] = []

    def make(config: Mapping[str, Any] | None = None, **options: Any) -> StepRuntime:
        made.append(StepRuntime(config=config_from_mapping(config or {}, base=tmp_path), **options))
        return made[-1]

    yield make
    for runtime in made:
        runtime.close()
