"""Make the desk's working folder anew: its database, its outbox and the key pair of the token issuer."""

from __future__ import annotations

import shutil
from pathlib import Path

from examples.desk.database import create_database
from examples.desk.tokens import make_keys

WORK = Path(__file__).parent / "work"


def prepare(work: Path = WORK) -> None:
    """Remove what an earlier batch left, ledger included, and start over."""
    shutil.rmtree(work, ignore_errors=True)
    (work / "outbox").mkdir(parents=True)
    make_keys(work)
    create_database(work / "desk.db")


if __name__ == "__main__":
    prepare()
