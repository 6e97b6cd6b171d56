"""What a signal is, and the pieces that the patterns of signals are made of."""

from __future__ import annotations

from typing import NamedTuple


class Signal(NamedTuple):
    """One thing that injections say.

    A ``quotable`` one weighs less in quotation marks and nothing after a "not": texts about injections quote and warn.
    """

    name: str
    weight: float
    pattern: str
    quotable: bool = False


N = r"[\s,;:'\"*_()-]{1,4}"
"""What stands between two words."""
W = r"[\w'-]+"
"""One word."""


def up_to(count: int) -> str:
    """Return a pattern for at most so many words, each with what follows it."""
    return rf"(?:{W}{N}){{0,{count}}}"
