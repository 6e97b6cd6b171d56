"""What the ledger's SQL needs of a database: connections, and the few things in which systems differ.

Statements are written once, as SQLite reads them: ``?`` and ``:name`` for values, ``INDEXED BY`` where its planner has
to be told. Whoever adds a system translates that much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from meshflow.errors import LedgerError
from meshflow.ledger.format.findings import Finding, Health

T = TypeVar("T")
_SIZES = (1, 8, 64, 512)


class EmptyLedgerError(LedgerError):
    """There is nothing at that place yet, or another process is just making the ledger; it reads as an empty one."""


class OldSchemaError(LedgerError):
    """The tables are of an older version; opening the ledger for writing brings them up to date."""


class LostConnectionError(LedgerError):
    """The connection has ended under a statement. What the transaction did is undone unless it was committing.

    With ``undone`` it is undone for certain, although the transaction was to be committed next.
    """

    undone = False


class ConflictError(LedgerError):
    """A row with that key is there already; for databases whose driver's error is explained where it is raised."""


class Cursor(Protocol):
    """The rows of one statement. ``fetchmany`` reads them as they are asked for, the others may read them all."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """Return all rows that are left."""
        ...

    def fetchmany(self, size: int, /) -> list[Any]:
        """Return the next rows, none at the end."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A connection, used by one thread at a time. Outside of a transaction each statement is one of its own."""

    @property
    def in_transaction(self) -> bool:
        """Say whether a transaction has begun."""
        ...

    def execute(self, sql: str, parameters: Any = ..., /) -> Cursor:
        """Run a statement."""
        ...

    def executemany(self, sql: str, rows: Iterable[Any], /) -> object:
        """Run a statement that returns nothing once for each row of values."""
        ...

    def close(self) -> None:
        """Give the connection up, and what it has not committed."""
        ...


class Database(Protocol):
    """Where the tables of a ledger are, and what differs from one system to another.

    What connections raise is one of ``failures`` and means what ``explain`` says, or is a LedgerError already.
    """

    name: str
    """What messages call it; holds no password."""
    failures: tuple[type[Exception], ...]
    conflicts: tuple[type[Exception], ...]
    """Those failures that say that a row with that key is there already."""

    def open_writer(self) -> Connection:
        """Return a connection to write over, with the tables made or brought up to date."""
        ...

    def make(self, origin: str) -> Connection:
        """Return a connection to write over, with the tables of a ledger made whose log has a name already.

        For a copy; LedgerError when there is a ledger.
        """
        ...

    def numbered(self, connection: Connection) -> None:
        """Have rows numbered from behind those that were inserted with numbers of their own."""
        ...

    def begin(self, connection: Connection) -> object:
        """Begin a transaction under the ledger's write lock; return what changes whenever another process writes."""
        ...

    def next_version(self, version: object, size: int) -> object:
        """Return what ``begin`` will say when nobody else has written since we brought the log to a size."""
        ...

    def commit(self, connection: Connection) -> None:
        """Make the transaction durable."""
        ...

    def insert(self, connection: Connection, table: str, values: Sequence[Any], suffix: str = "") -> None:
        """Insert many rows, laid end to end, into the columns of ``WRITTEN``."""
        ...

    def scrub(self, connection: Connection) -> None:
        """Leave no copy of what was erased, as far as that is in our hands; outside of a transaction."""
        ...

    def open_reader(self) -> Connection:
        """Return a connection of its own to read over; EmptyLedgerError or OldSchemaError when there is no ledger."""
        ...

    async def connect(self, *, scoped: bool = True) -> Connection:
        """Do as ``open_reader`` without blocking the event loop, and begin a transaction at one snapshot.

        Where the system itself keeps tenants apart, the connection sees one tenant's rows, unless not ``scoped``.
        """
        ...

    async def fetch(self, sql: str, parameters: dict[str, Any]) -> Sequence[Any]:
        """Return the rows of a statement that only reads."""
        ...

    async def call(self, job: Callable[[Connection], T]) -> T:
        """Run a function that only reads and is quick, at one snapshot that is not scoped."""
        ...

    def verifiable(self, connection: Connection) -> None:
        """Raise LedgerError when the connection cannot see all that verification needs."""
        ...

    def forgive(self, connection: Connection, error: Exception) -> bool:
        """Have ill-formed text read as something from now on, if a failure came from that, and say whether it did."""
        ...

    def storage_findings(self, connection: Connection) -> list[Finding]:
        """Return what is wrong with the storage itself and with the indexes of the schema."""
        ...

    def health(self, connection: Connection) -> list[Health]:
        """Say how schema, append-only tables and storage stand, without reading the entries."""
        ...

    def address(self) -> list[Any]:
        """Return, in JSON's terms, how another process of this machine opens the same database: what ``locate`` takes.

        It may hold a password.
        """
        ...

    def explain(self, error: Exception) -> LedgerError:
        """Return what a failure means to an operator."""
        ...

    async def aclose(self) -> None:
        """Close what was opened for reading."""
        ...


WRITTEN = {
    "entries": (
        "id", "run_id", "seq", "step_index", "kind", "step_id", "attempt", "tenant_id", "node_id", "verdict", "code",
        "cost_micro_usd", "tokens", "started_us", "duration_ns", "approval_id", "prev_hash", "entry_hash", "body",
    ),
    "payloads": ("id", "salt", "data", "key_id"),
    "runs": (
        "run_id", "tenant_id", "first_seq", "parent_run_id", "parent_steps", "entries", "steps", "commits", "rejects",
        "escalates", "errors", "cost_micro_usd", "tokens", "first_us", "last_us",
    ),
    "run_nodes": ("run_id", "tenant_id", "node_id", "first_seq"),
    "run_tools": ("run_id", "tenant_id", "tool", "first_seq"),
}  # fmt: skip
"""The columns that are written many rows at a time, in order."""


def stream(connection: Connection, sql: str, parameters: Any = (), size: int = 2_048) -> Iterator[Any]:
    """Yield the rows of a statement, a bounded number of them in memory; inside a transaction."""
    cursor = connection.execute(sql, parameters)
    while rows := cursor.fetchmany(size):
        yield from rows


def forgiving(database: Database, connection: Connection, job: Callable[[Connection], T]) -> T:
    """Run a check; once more, when the storage holds text that no well-formed text can be made of."""
    try:
        return job(connection)
    except database.failures as error:
        if not database.forgive(connection, error):
            raise
        return job(connection)


def groups(values: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield question marks for a list and the values for them, in a few sizes, so that there are few statements.

    The last value fills up a group.
    """
    for at in range(0, len(values), _SIZES[-1]):
        part = list(values[at : at + _SIZES[-1]])
        size = next(size for size in _SIZES if size >= len(part))
        yield ", ".join("?" * size), part + part[-1:] * (size - len(part))
