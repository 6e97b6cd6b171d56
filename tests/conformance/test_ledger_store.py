"""The stores of SQLite and PostgreSQL keep one contract, and each promise of it can be broken."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshflow.ledger.format.entry import Draft, Written
from meshflow.ledger.format.keys import KeyFile
from meshflow.ledger.postgres.address import Address
from meshflow.ledger.postgres.database import PostgresDatabase
from meshflow.ledger.sql.database import Database
from meshflow.ledger.sql.store import SqlStore
from meshflow.ledger.sqlite.database import SqliteDatabase
from meshflow.ledger.store import LedgerStore
from meshflow.testing import LedgerStoreConformance
from tests.servers import PostgresServer

Attempt = Callable[[object, str], None]


def sqlite_at(folder: Path) -> Database:
    return SqliteDatabase(folder / "runs.db")


class TestSqlite(LedgerStoreConformance):
    def make_store(self, folder: Path) -> LedgerStore:
        return SqlStore(sqlite_at(folder), key=KeyFile(folder / "key"))


class TestSqliteWithoutKey(LedgerStoreConformance):
    signs = False

    def make_store(self, folder: Path) -> LedgerStore:
        return SqlStore(sqlite_at(folder))


class TestPostgres(LedgerStoreConformance):
    server: ClassVar[PostgresServer]
    used: ClassVar[set[str]]

    @pytest.fixture(autouse=True)
    def schemas(self, postgres: PostgresServer) -> Iterator[None]:
        type(self).server, type(self).used = postgres, set()
        yield
        for name in self.used:
            postgres.sql(f"DROP SCHEMA IF EXISTS {name} CASCADE", database="ledgers")

    def make_store(self, folder: Path) -> LedgerStore:
        name = f"kit_{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"
        self.used.add(name)
        address = Address(self.server.url("ledgers", "owner", schema=name))
        return SqlStore(PostgresDatabase(address), key=KeyFile(folder / "key"))


def trial(store: type[SqlStore]) -> LedgerStoreConformance:
    class Trial(LedgerStoreConformance):
        def make_store(self, folder: Path) -> LedgerStore:
            own = folder / store.__name__
            own.mkdir(exist_ok=True)
            return store(sqlite_at(own), key=KeyFile(own / "key"))

    return Trial()


class LosesEntries(SqlStore):
    async def append(self, draft: Draft) -> Written:
        if draft.key[0] == "step-1":
            return Written(draft.run_id, 1, "step-1", "00" * 32, 1, 1)
        return await super().append(draft)


class MixesTenants(SqlStore):
    async def runs(self, limit: int, offset: int, before: str | None, tenant: str | None) -> list[str]:
        return await super().runs(limit, offset, before, None)


class ForgetsTools(SqlStore):
    async def find_runs(self, *arguments: Any) -> list[str]:
        return []


class ErasesNothing(SqlStore):
    async def erase(self, run_id: str, order: Any) -> int:
        return 6


class IgnoresHolds(SqlStore):
    async def hold(self, *arguments: Any) -> int:
        return 1


class AlwaysValid(SqlStore):
    async def verify(self, run_id: str, *arguments: Any, **more: Any) -> dict[str, Any]:
        return {"run_id": run_id, "valid": True, "state": "open", "errors": [], "steps_verified": 6}


class RepeatsIntents(SqlStore):
    async def append(self, draft: Draft) -> Written:
        try:
            return await super().append(draft)
        except Exception:
            if draft.key[2] == "intent":
                return Written(draft.run_id, 0, draft.key[0], "00" * 32)
            raise


class Dawdles(SqlStore):
    async def append(self, draft: Draft) -> Written:
        import time

        time.sleep(0.1)
        return await super().append(draft)


@pytest.mark.parametrize(
    ("store", "test"),
    [
        (LosesEntries, "test_same_entry_twice_is_one"),
        (LosesEntries, "test_what_was_acknowledged_is_there_for_others_at_once"),
        (MixesTenants, "test_tenants_see_nothing_of_each_other"),
        (ForgetsTools, "test_runs_are_found_by_what_is_in_them"),
        (ErasesNothing, "test_erasure_leaves_a_tombstone_and_nothing_else"),
        (ErasesNothing, "test_a_deleted_run_is_out_of_sight_and_verifies"),
        (IgnoresHolds, "test_a_hold_forbids_erasure_until_it_is_released"),
        (AlwaysValid, "test_an_empty_ledger_reads_as_empty"),
        (AlwaysValid, "test_another_history_is_found"),
        (RepeatsIntents, "test_intents_and_outcomes_keep_to_their_attempts"),
        (Dawdles, "test_does_not_hold_up_the_event_loop"),
    ],
)
def test_a_store_that_breaks_a_promise_fails_its_test(store: type[SqlStore], test: str, attempt: Attempt) -> None:
    attempt(trial(SqlStore), test)
    with pytest.raises((AssertionError, pytest.fail.Exception, Exception)):
        attempt(trial(store), test)


def test_a_kit_without_a_store_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="make_store"):
        LedgerStoreConformance().test_an_empty_ledger_reads_as_empty(tmp_path)
