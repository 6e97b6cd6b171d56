"""A process that checks ranges of a ledger: one JSON line in for each range, one out for each result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meshflow.errors import LedgerError
from meshflow.ledger.sqlite.schema import open_reader
from meshflow.ledger.verify.range import RangeCheck


def check_range(
    path: Path, busy_timeout_ms: int, origin: str, start: int, stop: int, layers: Sequence[str]
) -> dict[str, Any]:
    """Check a range over a connection of its own, at one snapshot."""
    connection = open_reader(path, busy_timeout_ms)
    try:
        connection.execute("BEGIN")
        return RangeCheck(connection, origin, start, stop, layers).result()
    finally:
        connection.close()


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        task = json.loads(line)
        path, timeout, origin, start, stop, layers = task
        try:
            answer: dict[str, Any] = check_range(Path(path), timeout, origin, start, stop, layers)
        except Exception as error:  # whoever asked raises it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


class Worker:
    """Such a process, as its parent holds it; used by one thread at a time."""

    def __init__(self) -> None:
        # Not multiprocessing: its children import the caller's main module again, which may do anything.
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from meshflow.ledger.verify.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
        )

    def check_range(self, *task: Any) -> dict[str, Any]:
        """Have a range checked; the arguments are those of ``check_range``."""
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018 - pipes
        self._process.stdin.write(json.dumps([str(task[0]), *task[1:]]) + "\n")
        self._process.stdin.flush()
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

    def check_range(self, *task: Any) -> dict[str, Any]:
        """Check a range."""
        return check_range(*task)

    def close(self) -> None:
        """Do nothing."""
