"""What an anchor is: somewhere that whoever owns the database cannot rewrite."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeVar

from meshflow.errors import LedgerError
from meshflow.ledger.format.checkpoints import read_checkpoint
from meshflow.plugin.base import Settings

T = TypeVar("T")

Prove = Callable[[int], Awaitable[Sequence[bytes]]]
"""Returns the consistency proof (RFC 9162, 2.1.4) from an older size to that of the checkpoint being published."""


class AnchorError(LedgerError):
    """A checkpoint could not be kept, or contradicts one that is."""


class ContradictionError(AnchorError):
    """The ledger and what is kept of it outside are of two histories: one of them was rewritten. Not tried again."""


class NewerKeptError(ContradictionError):
    """A newer checkpoint, of ``size`` entries, is kept: another process was faster, or entries were cut off."""

    def __init__(self, message: str, size: int) -> None:
        self.size = size
        super().__init__(message)


class Receipt(NamedTuple):
    """Where a checkpoint is kept, for people, and what the anchor gave back that vouches for that without it.

    ``cosigned`` are signature lines (C2SP signed-note) by which a witness vouches for the checkpoint. ``token`` is
    anything else in text, such as an RFC 3161 timestamp in base64.
    """

    where: str
    cosigned: str = ""
    token: str = ""


class Anchor(Protocol):
    """Keeps checkpoints of one log. ``name`` says which anchor it is in reports, the same in every process.

    A subclass says in ``settings_type`` what stands in meshflow.yaml beside ``use``. Making an anchor opens nothing.
    Calls come from any event loop, so blocking work and clients that belong to a loop stay out of it.
    """

    settings_type: ClassVar[type[Settings]]
    name: str

    @classmethod
    def from_settings(cls, settings: Any, base: Path) -> Self:
        """Return the anchor that settings describe; relative paths start from ``base``."""
        ...

    async def publish(self, checkpoint: str, prove: Prove | None = None) -> Receipt:
        """Keep a signed checkpoint; once this returns, it is durable.

        A checkpoint kept already is fine. ContradictionError when a newer one of the log, or another one of the same
        size, is kept: one of the two is of a history that was rewritten. AnchorError when it cannot be kept now.
        """
        ...

    async def latest(self, origin: str | None = None) -> str | None:
        """Return the newest checkpoint kept, as it was published; None before the first.

        ``origin`` names the log, for an anchor that many logs share.
        """
        ...

    async def kept(self, at_most: int, origin: str | None = None) -> list[str]:
        """Return what is kept, the oldest first: all, or as many spread evenly with the first and last among them.

        An auditor compares a ledger with all of these, since only the older ones show that history was rewritten
        before the newest was published.
        """
        latest = await self.latest(origin)
        return [] if latest is None else [latest]

    async def check(self) -> None:
        """Return once it is sure that the place can be reached and keeps what it promises; AnchorError when not."""
        await self.latest()


def follows(checkpoint: str, kept: str | None, name: str) -> bool:
    """Say whether a checkpoint is to be kept after the newest kept one; False when it is that one."""
    new = read_checkpoint(checkpoint)
    if kept is None:
        return True
    old = read_checkpoint(kept)
    if old.origin != new.origin:
        raise AnchorError(f"{name} keeps checkpoints of log {old.origin!r}, not of {new.origin!r}; use another place")
    if new.size < old.size:
        raise NewerKeptError(_contradicts(name, old.size, new.size), old.size)
    if new.size == old.size and new.root != old.root:
        raise ContradictionError(_contradicts(name, old.size, new.size))
    return new.size > old.size


def _contradicts(name: str, old: int, new: int) -> str:
    return (
        f"{name} keeps a checkpoint of {old} entries that this one of {new} contradicts: entries were "
        "cut off or rewritten; keep both, and verify the ledger against the one kept"
    )


def spread(items: Sequence[T], at_most: int) -> list[T]:
    """Return all items, or as many spread evenly with the first and last among them."""
    if len(items) <= at_most:
        return list(items)
    if at_most < 2:
        return list(items[-1:])
    return [items[place * (len(items) - 1) // (at_most - 1)] for place in range(at_most)]
