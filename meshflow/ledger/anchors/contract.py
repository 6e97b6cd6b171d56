"""What an anchor is: somewhere that whoever owns the database cannot rewrite."""

from __future__ import annotations

from typing import Protocol

from meshflow.errors import LedgerError
from meshflow.ledger.format.checkpoints import read_checkpoint


class AnchorError(LedgerError):
    """A checkpoint could not be kept, or contradicts one that is."""


class Anchor(Protocol):
    """Keeps checkpoints of one log. ``name`` says which anchor it is in reports."""

    name: str

    async def publish(self, checkpoint: str) -> str:
        """Keep a signed checkpoint and return where; once this returns, it is durable.

        A checkpoint kept already is fine. AnchorError when it cannot be kept, or when a newer one of the log, or
        another one of the same size, is kept: one of the two is of a history that was rewritten.
        """
        ...

    async def latest(self) -> str | None:
        """Return the newest checkpoint kept, as it was published; None before the first."""
        ...


def follows(checkpoint: str, kept: str | None, name: str) -> bool:
    """Say whether a checkpoint is to be kept after the newest kept one; False when it is that one."""
    new = read_checkpoint(checkpoint)
    if kept is None:
        return True
    old = read_checkpoint(kept)
    if old.origin != new.origin:
        raise AnchorError(f"{name} keeps checkpoints of log {old.origin!r}, not of {new.origin!r}; use another place")
    if new.size < old.size or (new.size == old.size and new.root != old.root):
        raise AnchorError(
            f"{name} keeps a checkpoint of {old.size} entries that this one of {new.size} contradicts: entries were "
            "cut off or rewritten; keep both, and verify the ledger against the one kept"
        )
    return new.size > old.size
