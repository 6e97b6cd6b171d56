"""Real servers, started once for all tests that want them, and where ledgers are to be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# For the modules of this folder that tests share; test modules are not a package.
sys.path.append(str(Path(__file__).parent))

if TYPE_CHECKING:
    from seaweed import Seaweed


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """An S3 server; name ``xdist_group("seaweedfs")``, so that one process starts it."""
    from seaweed import running

    yield from running(tmp_path_factory.mktemp("seaweed"))


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where a ledger that processes share is to be: a file, or a schema of a server."""
    monkeypatch.chdir(tmp_path)  # for the signing key
    return str(tmp_path / "runs.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url"))
