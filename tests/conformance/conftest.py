"""How the tests of the kit call one test of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object, str], None]:
    """Return a function that calls one test of a conformance class, as pytest would."""
    fill: dict[str, Any] = {"tmp_path": tmp_path, "monkeypatch": monkeypatch, "purpose": "shadow"}

    def call(conformance: object, name: str) -> None:
        test = getattr(conformance, name)
        test(**{parameter: fill[parameter] for parameter in inspect.signature(test).parameters})

    return call
