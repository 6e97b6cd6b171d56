"""A million entries in PostgreSQL: how fast they are written, found, proven and verified."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.harness import Row, folder
from benchmarks.large import large_rows
from benchmarks.postgres import away
from tests.servers import owned_database, postgres_server

SETTINGS = {"fsync": "on", "full_page_writes": "on", "shared_buffers": "128MB"}
"""As a server has them by default."""


async def rows(quick: bool) -> list[Row]:
    """Measure the part."""
    with folder() as path, away(path), postgres_server(**SETTINGS) as server:
        owned_database(server)
        place = server.url("ledgers", "owner", schema="bench")
        found = await large_rows(place, path, 20_000 if quick else 1_000_000)
    return [replace(row, what=f"PostgreSQL: {row.what}") for row in found]
