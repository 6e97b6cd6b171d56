"""PostgreSQL as a database of the ledger: many processes and hosts, one that writes at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from meshflow.errors import ConfigError, LedgerError
from meshflow.ledger.format.findings import Finding, Health
from meshflow.ledger.postgres.address import Address
from meshflow.ledger.sql.database import WRITTEN, ConflictError, Connection

if TYPE_CHECKING:
    from meshflow.ledger.postgres.connection import PostgresConnection
    from meshflow.ledger.postgres.pool import Pool
    from meshflow.ledger.sql.database import Database

T = TypeVar("T")
_IDLE_IN_TRANSACTION_MS = 60_000
# What is asked for is always in an index. The planner does not know how few payloads an entry has, nor anything of a
# young table, and would rather read all of it; this is to it what INDEXED BY is to SQLite's.
_BY_INDEX = dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "enable_material", "jit"), "off")


class PostgresDatabase:
    """A schema in a PostgreSQL database; nothing connects before first use.

    With ``tenant`` what reads for that tenant has the server itself show its rows alone.
    """

    failures: tuple[type[Exception], ...] = (ConflictError,)  # all else is explained where it is raised
    conflicts: tuple[type[Exception], ...] = (ConflictError,)

    def __init__(self, address: Address, *, busy_timeout_ms: int = 15_000, tenant: str | None = None) -> None:
        _require_driver()
        self.name = address.shown
        self._address = address
        self._busy_timeout_ms = busy_timeout_ms
        self._tenant = tenant or ""
        self._pool_made: Pool | None = None
        self._closed = False

    def open_writer(self, origin: str | None = None) -> Connection:
        """Connect to write, and make the schema if it is not there."""
        from meshflow.ledger.postgres.schema import check_server, prepare
        from meshflow.ledger.postgres.writing import WritingConnection

        patience = {
            "lock_timeout": str(max(1, self._busy_timeout_ms)),
            "idle_in_transaction_session_timeout": str(_IDLE_IN_TRANSACTION_MS),
        }
        connection = self._connect(patience, WritingConnection)
        try:
            check_server(connection, self.name)
            prepare(connection, self._address.schema, self.name, origin)
        except BaseException:
            connection.close()
            raise
        return connection

    def make(self, origin: str) -> Connection:
        """Make the schema of a ledger that is copied here."""
        return self.open_writer(origin)

    def numbered(self, connection: Connection) -> None:
        """Set the sequences to the highest number in use."""
        for table in ("runs", "signers", "keys", "holds"):
            connection.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"  # noqa: S608 - ours
            ).fetchall()

    def _connect(self, settings: dict[str, str], kind: type[PostgresConnection]) -> PostgresConnection:
        same = {
            # Temporary tables last: they would be found first, and anybody may make some.
            "search_path": f'"{self._address.schema}", pg_temp',
            "application_name": "meshflow",
        }
        return kind(self._address.dsn, self.name, same | _BY_INDEX | settings)

    def _connect_to_read(self) -> PostgresConnection:
        from meshflow.ledger.postgres.connection import PostgresConnection

        # Whoever reads holds no lock, and may wait long for other processes that verify, or for its own reader.
        settings = {"default_transaction_isolation": "repeatable read", "idle_in_transaction_session_timeout": "0"}
        connection = self._connect(settings, PostgresConnection)
        # Not among the settings: the driver would take it for a server that is no target for read-write sessions.
        connection.script("SET default_transaction_read_only = on")
        return connection

    def begin(self, connection: Connection) -> object:
        """Lock the row of the log; what has changed since shows in its size, and in the keys that signed it."""
        _ours(connection).script("BEGIN; SELECT 1 FROM log FOR UPDATE")
        # A statement of its own: that which waited for the lock still sees what was before.
        return connection.execute("SELECT size, (SELECT max(id) FROM signers) FROM log").fetchone()

    def next_version(self, version: object, size: int) -> object:
        """Return the size with the newest key that was there."""
        assert isinstance(version, tuple)  # noqa: S101 - from ``begin``
        return (size, version[1])

    def commit(self, connection: Connection) -> None:
        """Commit; the server answers once its log is on disk."""
        said = _ours(connection).script("COMMIT")
        if said != "COMMIT":
            raise LedgerError(f"ledger {self.name}: the server answered {said} to a commit; nothing was kept")

    def insert(self, connection: Connection, table: str, values: Sequence[Any], suffix: str = "") -> None:
        """Insert rows by one statement, a column at a time."""
        from meshflow.ledger.postgres.tables import TYPES

        columns = WRITTEN[table]
        arrays = ", ".join(f"?::{kind}[]" for kind in TYPES[table])
        sql = f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({arrays}){suffix}"  # noqa: S608 - ours
        connection.execute(sql, [values[place :: len(columns)] for place in range(len(columns))])

    def scrub(self, connection: Connection) -> None:
        """Leave it to the server: its autovacuum frees the rows, and its write-ahead log and backups age."""

    def open_reader(self) -> Connection:
        """Return a connection of the pool, in a thread of the caller's."""
        from meshflow.ledger.postgres.pool import Lent

        return Lent(self._pool, self._pool.take_now(self._check))

    async def connect(self, *, scoped: bool = True) -> Connection:
        """Return a connection of the pool, with a transaction begun."""
        from meshflow.ledger.postgres.pool import Lent

        def ready(connection: PostgresConnection) -> None:
            connection.see(self._tenant if scoped else "")
            self._check(connection)
            connection.script("BEGIN")

        return Lent(self._pool, await self._pool.take(ready))

    async def fetch(self, sql: str, parameters: dict[str, Any]) -> Sequence[Any]:
        """Return the rows of a statement."""

        def job(connection: PostgresConnection) -> Sequence[Any]:
            self._check(connection)
            connection.see(self._tenant)
            return connection.execute(sql, parameters).fetchall()

        return await self._pool.run(job)

    async def call(self, job: Callable[[Connection], T]) -> T:
        """Run a function at one snapshot."""

        def work(connection: PostgresConnection) -> T:
            connection.see("")
            self._check(connection)
            connection.script("BEGIN")
            return job(connection)

        return await self._pool.run(work)

    def _check(self, connection: PostgresConnection) -> None:
        """Look once over each connection whether there is a ledger of this version."""
        from meshflow.ledger.postgres.schema import check_readable

        if not connection.checked:
            check_readable(connection, self._address.schema, self.name)
            connection.checked = True

    @property
    def _pool(self) -> Pool:
        if self._closed:
            raise LedgerError("the ledger is closed")
        if self._pool_made is None:
            from meshflow.ledger.postgres.pool import Pool

            address = self._address
            self._pool_made = Pool(self._connect_to_read, address.pool_size, address.pool_timeout_ms, self.name)
        return self._pool_made

    def verifiable(self, connection: Connection) -> None:
        """Refuse where the server shows this user one tenant's rows alone."""
        tenant = connection.execute("SELECT ledger_tenant()").fetchone()[0]
        if tenant is not None:
            raise LedgerError(
                f"ledger {self.name}: this database user is shown the rows of tenant {tenant!r} alone, and the log is "
                "over the entries of all; verify as another user, or verify a bundle"
            )

    def forgive(self, connection: Connection, error: Exception) -> bool:
        """Find nothing to forgive: the server stores no ill-formed text."""
        return False

    def storage_findings(self, connection: Connection) -> list[Finding]:
        """Check that the indexes of the schema are there and in use; the pages are the server's to check."""
        from meshflow.ledger.postgres.schema import index_findings

        return index_findings(connection, self._address.schema)

    def health(self, connection: Connection) -> list[Health]:
        """Look at schema and server."""
        from meshflow.ledger.postgres.health import server_health

        return server_health(connection, self._address.schema)

    def address(self) -> list[Any]:
        """Return the URL as it was given, and the patience."""
        return [self._address.url, self._busy_timeout_ms]

    def explain(self, error: Exception) -> LedgerError:
        """Return what was explained where it was raised."""
        return LedgerError(str(error))

    async def aclose(self) -> None:
        """Close the connections that read."""
        self._closed = True
        pool, self._pool_made = self._pool_made, None
        if pool is not None:
            await asyncio.to_thread(pool.close)


def _ours(connection: Connection) -> PostgresConnection:
    from meshflow.ledger.postgres.connection import PostgresConnection

    assert isinstance(connection, PostgresConnection)  # noqa: S101 - what writes is never lent
    return connection


def _require_driver() -> None:
    if find_spec("asyncpg") is None:
        raise ConfigError(
            'a ledger in PostgreSQL needs its driver; pip install "meshflow[postgres]"', where="ReplayLedger"
        )


if TYPE_CHECKING:
    _: Database = PostgresDatabase(Address("postgresql://host/database"))
