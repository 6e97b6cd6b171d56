"""The connection that writes: rows inserted one statement after the other go to the server in one exchange.

Each exchange gives up the interpreter's lock, and may wait 5 ms to get it back while an event loop is busy; a batch has
up to nine statements that nothing is asked between.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from meshflow.ledger.postgres.connection import PostgresConnection, PostgresCursor
from meshflow.ledger.postgres.nul import storable
from meshflow.ledger.postgres.translate import Statement, translate
from meshflow.ledger.sql.database import LostConnectionError

if TYPE_CHECKING:
    from meshflow.ledger.sql.database import Cursor

_PUT = re.compile(r"(?:INSERT INTO|UPDATE) (\w+)")
_ONE_ROW = re.compile(r"(?P<head>INSERT INTO (?P<table>\w+).* VALUES )(?P<row>\([^()]*\))(?P<tail>[^()]*)")
_NUMBER = re.compile(r"\$(\d+)")
_MANY = 16
_MOST_VALUES = 512


class WritingConnection(PostgresConnection):
    """Holds back statements that put rows, and sends them together before anything else is sent.

    Those that are sent together are of different tables, since each sees the tables as they were before all of them.
    """

    _held: list[tuple[Statement, Sequence[Any]]] = []  # noqa: RUF012 - replaced, never changed in place
    _tables: frozenset[str] = frozenset()

    def execute(self, sql: str, parameters: Any = (), /) -> Cursor:
        """Run a statement, or hold it back."""
        statement = translate(sql)
        table = _PUT.match(statement.text)
        if table is None or not self.in_transaction:
            self._before(sql)
            return super().execute(sql, parameters)
        values = list(map(storable, statement.values(parameters)))
        self._hold(table[1], statement, values)
        return PostgresCursor(self, self._raw, statement, values, [])

    def executemany(self, sql: str, rows: Iterable[Any], /) -> None:
        """Run a statement for each row of values; a few rows of one insertion are held back."""
        given = list(rows)
        statement = translate(sql)
        one = _ONE_ROW.fullmatch(statement.text)
        if one is None or not 0 < len(given) <= _MANY or not self.in_transaction:
            self.flush()
            super().executemany(sql, given)
            return
        many = ", ".join(_shifted(one["row"], place * len(row)) for place, row in enumerate(given))
        values = [storable(value) for row in given for value in row]
        self._hold(one["table"], Statement(f"{one['head']}{many}{one['tail']}", (), False), values)

    def _hold(self, table: str, statement: Statement, values: Sequence[Any]) -> None:
        if table in self._tables or sum(len(held) for _, held in self._held) > _MOST_VALUES:
            self.flush()
        self._held = [*self._held, (statement, values)]
        self._tables |= {table}

    def flush(self) -> None:
        """Send what was held back."""
        held, self._held, self._tables = self._held, [], frozenset()
        if len(held) == 1:
            ((statement, values),) = held
            self.run(self._raw.execute(statement.text, *values))
        elif held:
            parts: list[str] = []
            every: list[Any] = []
            for number, (statement, values) in enumerate(held):
                parts.append(f"part_{number} AS ({_shifted(statement.text, len(every))})")
                every += values
            self.run(self._raw.execute(f"WITH {', '.join(parts)} SELECT 1", *every))

    def script(self, text: str) -> str:
        """Run statements of PostgreSQL's own, after what was held back; what is rolled back need not be sent at all."""
        self._before(text)
        return super().script(text)

    def _before(self, text: str) -> None:
        if text == "ROLLBACK":
            self._held, self._tables = [], frozenset()
        try:
            self.flush()
        except LostConnectionError as error:
            error.undone = True  # what came to the server had not been committed
            raise


def _shifted(text: str, by: int) -> str:
    """Return a statement with its parameters numbered from further on."""
    return _NUMBER.sub(lambda found: f"${int(found[1]) + by}", text) if by else text
