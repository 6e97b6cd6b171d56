"""A cheap sign of what a bundle's files are, to notice that they have changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path


def snapshot(*paths: Path) -> str:
    """Return a digest of names, sizes and times below some paths; what cannot be read is part of it."""
    total = sha256()
    for path in paths:
        for line in sorted(_lines(path)):
            total.update(line.encode("utf-8", "surrogateescape") + b"\0")
    return total.hexdigest()


def _lines(path: Path) -> Iterator[str]:
    if not path.is_dir():
        yield _line(path)
        return
    for folder, below, names in os.walk(path):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            yield _line(Path(folder, name))


def _line(path: Path) -> str:
    try:
        found = path.stat()
    except OSError as error:
        return f"{path} {type(error).__name__}"
    # The time of the last change, too: a copy may bring its old time of modification along.
    return f"{path} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
