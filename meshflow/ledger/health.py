"""Examining a ledger as a whole: its place, its key, its newest checkpoint, its anchors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from meshflow.errors import LedgerError
from meshflow.ledger.anchoring import Published, Recording, contradiction
from meshflow.ledger.anchors import Anchor, AnchorError
from meshflow.ledger.format.checkpoints import Checkpoint, read_checkpoint
from meshflow.ledger.format.companions import CompanionSource
from meshflow.ledger.format.findings import Health
from meshflow.ledger.format.keys import KeySource
from meshflow.ledger.format.notes import NoteError
from meshflow.ledger.format.signers import Trust
from meshflow.ledger.format.steps import timestamp

if TYPE_CHECKING:
    from meshflow.ledger.format.signers import SignerRow


class Examined(Recording, Protocol):
    """What examining needs of a store."""

    async def health(self, now_us: int) -> list[Health]:
        """Look at the place itself: schema, append-only tables, disk, clock."""
        ...

    async def stored_checkpoint(self) -> tuple[int, str | None]:
        """Return the size of the log and the newest checkpoint stored, without signing one."""
        ...


async def examine(
    store: Examined, key: KeySource | None, companion: CompanionSource | None, anchors: Sequence[Anchor], now_us: int
) -> list[Health]:
    """Return everything that was looked at; LedgerError where there is no ledger to look at. Nothing is changed."""
    size, note = await store.stored_checkpoint()
    signers = await store.signers()
    return [
        *await store.health(now_us),
        _key(key, signers),
        *([_companion(companion, signers)] if companion is not None and signers else []),
        _newest(size, note, signers),
        *[one for anchor in anchors for one in await _anchor(store, anchor, size, note)],
        *[
            Health(
                "warning", "publishing",
                f"{row['anchor']} took no checkpoint since {timestamp(row['since_us'])}, {row['failures']} times, the "
                f"last time because: {row['problem']}",
            )
            for row in await store.anchor_failures()
        ],
    ]  # fmt: skip


def _key(key: KeySource | None, signers: Sequence[SignerRow]) -> Health:
    if key is None:
        return Health("warning", "key", "no key is configured, so nothing is signed and nothing can be anchored")
    if not signers:
        return Health("ok", "key", "the ledger is not signed yet")
    wanted = signers[-1][0]
    try:
        found = str(key.load(wanted.partition("+")[0], False).verifier)
        pending = key.pending()
    except LedgerError as error:
        return Health("error", "key", str(error))
    if found == wanted or (pending is not None and str(pending.verifier) == wanted):
        return Health(
            "ok", "key", f"{wanted.split('+')[1]}, which the ledger is signed with, and nobody else may read it"
        )
    return Health(
        "error", "key", f"the ledger is signed with key {wanted.split('+')[1]}, and the one configured is another"
    )


def _companion(companion: CompanionSource, signers: Sequence[SignerRow]) -> Health:
    try:
        key = companion.load(signers[-1][0].partition("+")[0], False).verifier
    except LedgerError as error:
        return Health("error", "ml_dsa_44", str(error))
    return Health("ok", "ml_dsa_44", f"{key.id.hex()} signs beside it, and nobody else may read it")


def _newest(size: int, note: str | None, signers: Sequence[SignerRow]) -> Health:
    if note is None:
        return Health("warning" if size else "ok", "checkpoint", f"none yet, of {size:,} entries")
    try:
        newest = read_checkpoint(note)
        Trust(newest.origin, signers).open(note)
    except NoteError as error:
        return Health("error", "checkpoint", f"the newest one: {error}")
    if newest.size < size:
        return Health(
            "warning", "checkpoint", f"{size - newest.size:,} of {size:,} entries are newer than the last one"
        )
    return Health("ok", "checkpoint", f"covers all {size:,} entries")


async def _anchor(store: Published, anchor: Anchor, size: int, note: str | None) -> list[Health]:
    """Ask an anchor whether it is in order, and compare what it keeps with the ledger."""
    if note is None:
        return [Health("ok", "anchor", f"{anchor.name}: nothing to keep yet")]
    newest = read_checkpoint(note)
    try:
        await anchor.check()
        kept = await anchor.latest(newest.origin)
        if kept is None:
            return [Health("warning", "anchor", f"{anchor.name}: reached, and keeps nothing of this ledger yet")]
        return [await _kept(store, anchor, read_checkpoint(kept), newest, size)]
    except (AnchorError, NoteError) as error:
        return [Health("error", "anchor", str(error))]


async def _kept(store: Published, anchor: Anchor, old: Checkpoint, new: Checkpoint, size: int) -> Health:
    if old.origin != new.origin:
        return Health("error", "anchor", f"{anchor.name} keeps checkpoints of another log, {old.origin}")
    if old.size > new.size and old.size <= size:
        return Health("ok", "anchor", f"{anchor.name} keeps {old.size:,} of {size:,} entries")
    problem = await contradiction(store, old, new)
    if problem:
        return Health(
            "error", "anchor", f"{anchor.name} keeps {old.size:,} entries that CONTRADICT the ledger: {problem}"
        )
    behind = size - old.size
    return Health(
        "ok", "anchor", f"{anchor.name} agrees, {behind:,} entries behind" if behind else f"{anchor.name} agrees"
    )
