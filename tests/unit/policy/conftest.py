"""An OPA server made of the real evaluator, and certificates for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# For ``opa_server``, which tests of this folder share; test modules are not a package.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def opa() -> Iterator[object]:
    """A server that answers as OPA does."""
    pytest.importorskip("opa_bindings", reason="the evaluator is not installed")
    from opa_server import Server

    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, server.pem of that authority, and other.pem, of which nobody has heard."""
    from opa_server import write_certificates

    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder)
    return folder
