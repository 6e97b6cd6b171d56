"""Keys and notes that an argument gives, in itself or in the file that it names."""

from __future__ import annotations

from pathlib import Path

import typer

from meshflow.cli.ledgers import shown
from meshflow.cli.output import line

_MAX_NOTE = 1_000_000


def keys_of(given: str) -> list[str]:
    """Return the keys that an argument is, or that the file of its name holds, one a line."""
    from meshflow.ledger.format.companions import split_keys
    from meshflow.ledger.format.notes import NoteError

    try:
        split_keys([given])
    except NoteError as error:
        if not Path(given).is_file():
            raise typer.BadParameter(f"--key {line(given)!r} is neither a public key ({error}) nor a file") from None
        return lines_of(Path(given))
    return [given]


def witnesses_of(given: str) -> list[str]:
    """Return the witness keys that an argument is, or that the file of its name holds, one a line."""
    from meshflow.ledger.format.cosignatures import Cosigner
    from meshflow.ledger.format.notes import NoteError

    try:
        Cosigner.parse(given)
    except NoteError as error:
        if not Path(given).is_file():
            raise typer.BadParameter(f"--witness {line(given)!r} is neither a key ({error}) nor a file") from None
        return lines_of(Path(given))
    return [given]


def lines_of(path: Path) -> list[str]:
    """Return the lines of a short text file that are not empty."""
    return [one for one in text_of(path).splitlines() if one.strip()]


def text_of(path: Path) -> str:
    """Return a short text file."""
    with path.open("rb") as file:
        data = file.read(_MAX_NOTE + 1)
    try:
        if len(data) <= _MAX_NOTE:
            return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    raise typer.BadParameter(f"{shown(path)} is not a short text in UTF-8")
