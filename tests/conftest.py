"""What tests of every room share: servers, started for the first test of a process that asks for one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.servers import PostgresServer, owned_database, postgres_server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server with a database ``ledgers`` that the role ``owner`` owns."""
    with postgres_server() as server:
        owned_database(server)
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a schema that no other test uses; the ledger makes it, and it is dropped at the end."""
    schema = f"test_{next(_numbers)}"
    yield postgres.url("ledgers", "owner", schema=schema)
    postgres.sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE", database="ledgers")
