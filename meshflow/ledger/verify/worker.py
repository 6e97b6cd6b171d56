"""A process that checks ranges of a ledger: one JSON line in for each range, one out for each result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from meshflow.errors import LedgerError
from meshflow.ledger.sql.database import Database, forgiving
from meshflow.ledger.sql.vault import Vault, vault_of
from meshflow.ledger.verify.range import RangeCheck


def check_range(
    database: Database, vault: Vault, origin: str, start: int, stop: int, layers: Sequence[str]
) -> dict[str, Any]:
    """Check a range over a connection of its own, at one snapshot."""
    connection = database.open_reader()
    try:
        connection.execute("BEGIN")
        return forgiving(database, connection, lambda it: RangeCheck(it, vault, origin, start, stop, layers).result())
    finally:
        connection.close()


def database_at(address: Sequence[Any]) -> Database:
    """Return the database at what its ``address`` gave."""
    from meshflow.ledger.locate import locate

    location, busy_timeout_ms = address
    return locate(location, busy_timeout_ms=busy_timeout_ms).database


def main() -> None:
    """Serve until the input ends."""
    address, key = json.loads(sys.stdin.readline())
    database, vault = database_at(address), vault_of("none", key)
    for line in sys.stdin:
        try:
            answer: dict[str, Any] = check_range(database, vault, *json.loads(line))
        except Exception as error:  # whoever asked raises it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


class Worker:
    """Such a process, as its parent holds it; used by one thread at a time."""

    def __init__(self, database: Database, vault: Vault) -> None:
        # Not multiprocessing: its children import the caller's main module again, which may do anything.
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from meshflow.ledger.verify.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
        )

        self._send(database.address(), vault.source)

    def _send(self, *values: Any) -> None:
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        self._process.stdin.write(json.dumps(values) + "\n")
        self._process.stdin.flush()

    def check_range(self, origin: str, start: int, stop: int, layers: Sequence[str]) -> dict[str, Any]:
        """Have a range checked."""
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        self._send(origin, start, stop, layers)
        line = self._process.stdout.readline()
        if not line:
            raise LedgerError("a process that verified the ledger has ended; verify with processes=1")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LedgerError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


class Here:
    """A worker in the caller's own thread."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    def check_range(self, origin: str, start: int, stop: int, layers: Sequence[str]) -> dict[str, Any]:
        """Check a range."""
        return check_range(self._database, self._vault, origin, start, stop, layers)

    def close(self) -> None:
        """Do nothing."""
