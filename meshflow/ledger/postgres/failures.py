"""What failures of PostgreSQL and its driver mean to an operator. Nothing here repeats a password."""

from __future__ import annotations

from asyncpg import exceptions as pg

from meshflow.errors import LedgerError
from meshflow.ledger.sql.database import ConflictError, LostConnectionError

FAILURES: tuple[type[Exception], ...] = (
    pg.PostgresError, pg.InterfaceError, pg.InternalClientError, OSError, TimeoutError, ValueError,
)  # fmt: skip
_LOST: tuple[type[Exception], ...] = (
    pg.PostgresConnectionError, pg.AdminShutdownError, pg.CrashShutdownError, pg.CannotConnectNowError,
    pg.IdleInTransactionSessionTimeoutError, pg.IdleSessionTimeoutError, pg.ReadOnlySQLTransactionError,
    pg.InternalClientError, OSError, TimeoutError,
)  # fmt: skip
_MEANING: tuple[tuple[type[Exception], str], ...] = (
    (pg.InvalidPasswordError, "the server refuses the password; give the right one in the URL, PGPASSWORD or pgpass"),
    (pg.InvalidAuthorizationSpecificationError, "the server does not let this user in"),
    (pg.InvalidCatalogNameError, "the database does not exist; create it, or name another one"),
    (pg.InsufficientPrivilegeError, "the database user may not do this; grant it, or use the ledger's owner"),
    (pg.TooManyConnectionsError, "the server has no connection left; raise max_connections or lower pool_size"),
    (pg.LockNotAvailableError, "another process kept it locked for too long; find it, or raise busy_timeout_ms"),
    (pg.QueryCanceledError, "a statement ran longer than statement_timeout allows; raise it"),
    (pg.DiskFullError, "the server's disk is full; free space and write again"),
    (pg.ReadOnlySQLTransactionError, "the server takes no writes any more; it may have become a standby"),
    (pg.TargetServerAttributeNotMatched, "none of the hosts is of the kind that target_session_attrs asks for"),
    (pg.UndefinedObjectError, "the server does not know a setting; are the URL's parameters spelt right?"),
    (pg.IntegrityConstraintViolationError, "it holds rows that its entries do not explain; verify it before writing"),
    (pg.DataCorruptedError, "the server's data is damaged; keep it as it is, and restore a copy"),
    (pg.DataError, "a value is not one that PostgreSQL can store or compare"),
    (pg.CannotConnectNowError, "the server is starting or stopping"),
    (pg.AdminShutdownError, "the server ended the connection"),
    (pg.ClientConfigurationError, "the URL does not say where the server is"),
    (pg.PostgresConnectionError, "the connection to the server was lost"),
    (pg.InterfaceError, "the connection to the server was lost"),
    (pg.InternalClientError, "the connection to the server was lost"),
    (TimeoutError, "the server did not answer in time"),
    (OSError, "the server cannot be reached; is it running, and are host and port right?"),
    (ValueError, "the URL does not say where the server is"),
)
# Of an ill-formed URL these repeat all that it holds.
_TELLTALE: tuple[type[Exception], ...] = (pg.ClientConfigurationError, ValueError)


def is_lost(error: BaseException) -> bool:
    """Say whether the connection has ended, or is to be sought again."""
    # The driver that meets the end of a connection halfway may not know itself what state it is in.
    muddled = isinstance(error, pg.InterfaceError) and any(word in str(error) for word in ("clos", "in progress"))
    return isinstance(error, _LOST) or muddled


def explain(error: BaseException, name: str) -> LedgerError:
    """Return what a failure means."""
    meaning = next((text for kind, text in _MEANING if isinstance(error, kind)), "PostgreSQL refused the operation")
    said = "" if isinstance(error, _TELLTALE) else str(error).partition("\n")[0]
    text = f"ledger {name}: {meaning} ({type(error).__name__}{said and ': '}{said})"
    if isinstance(error, pg.UniqueViolationError):
        return ConflictError(text)
    return LostConnectionError(text) if is_lost(error) else LedgerError(text)
