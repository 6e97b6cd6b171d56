"""Publishing checkpoints of a ledger to anchors, and comparing two checkpoints that different people hold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from meshflow.errors import LedgerError
from meshflow.ledger.anchors import Anchor, AnchorError, ContradictionError, NewerKeptError, Receipt
from meshflow.ledger.format.checkpoints import Checkpoint, log_keys, open_checkpoint, read_checkpoint
from meshflow.ledger.format.companions import split_keys
from meshflow.ledger.format.merkle import verify_consistency
from meshflow.ledger.format.notes import NoteError, NoteVerifier
from meshflow.ledger.format.signers import SignerRow, Trust
from meshflow.ledger.format.steps import timestamp

log = logging.getLogger(__name__)
_TRIES = 3


class Published(Protocol):
    """What publishing needs of a store."""

    async def checkpoint(self) -> str | None:
        """Return a signed checkpoint of the log as it is."""
        ...

    async def signers(self) -> list[SignerRow]:
        """Return the keys that the log was signed with."""
        ...

    async def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Return the consistency proof between two sizes of the log."""
        ...


class Recording(Published, Protocol):
    """What recording needs of a store beside that."""

    async def keep_receipt(self, anchor: str, size: int, place: str, note: str, token: str, at_us: int) -> None:
        """Keep what an anchor gave back."""
        ...

    async def keep_failure(self, anchor: str, problem: str, at_us: int) -> None:
        """Keep that an anchor took no checkpoint."""
        ...

    async def receipts(self) -> list[dict[str, Any]]:
        """Return the newest receipt of each anchor."""
        ...

    async def anchor_failures(self) -> list[dict[str, Any]]:
        """Return the anchors that took no checkpoint the last time."""
        ...


async def publish(store: Recording, anchor: Anchor, now_us: Callable[[], int]) -> Receipt:
    """Publish a checkpoint of the log as it is, once it is certain that it extends what the anchor keeps.

    The anchor is asked before the checkpoint is made, so an honest log is never behind what is kept.
    ContradictionError when history was rewritten; without this comparison a log that was cut off and grew again would
    pass. Success and failure are recorded.
    """
    try:
        note, receipt = await _publish(store, anchor)
    except AnchorError as error:
        try:
            await store.keep_failure(anchor.name, str(error), now_us())
        except LedgerError as other:  # of a ledger that refuses writes; what the anchor said matters more
            log.error("that an anchor failed could not be recorded: %s", other)
        raise
    cosigned = note + receipt.cosigned if receipt.cosigned else ""
    size = read_checkpoint(note).size
    await store.keep_receipt(anchor.name, size, receipt.where, cosigned, receipt.token, now_us())
    return receipt


async def publish_to_all(store: Recording, anchors: Sequence[Anchor], now_us: Callable[[], int]) -> list[Receipt]:
    """Publish to every anchor; AnchorError of one, a contradiction before all others, once each has been tried."""
    receipts, errors = [], []
    for anchor in anchors:
        try:
            receipts.append(await publish(store, anchor, now_us))
        except AnchorError as error:
            errors.append(error)
    if errors:
        raise next((error for error in errors if isinstance(error, ContradictionError)), errors[0])
    return receipts


async def _publish(store: Published, anchor: Anchor) -> tuple[str, Receipt]:
    origin = read_checkpoint(await _checkpoint(store)).origin
    newer: NewerKeptError | None = None
    for _ in range(_TRIES):
        kept = await anchor.latest(origin)
        note = await _checkpoint(store)
        new = read_checkpoint(note)
        if newer is not None and new.size < newer.size:
            raise ContradictionError(str(newer))  # this checkpoint was made later, so nobody was merely faster
        if kept is not None:
            await _extends(store, anchor.name, kept, new)

        async def prove(old_size: int, size: int = new.size) -> Sequence[bytes]:
            return await store.consistency(old_size, size)

        try:
            return note, await anchor.publish(note, prove)
        except NewerKeptError as error:
            newer = error
    raise AnchorError(f"{anchor.name}: other processes were faster {_TRIES} times in a row; what they published stands")


async def standing(store: Recording) -> list[dict[str, Any]]:
    """Return how it stands with each anchor that was ever published to."""
    found: dict[str, dict[str, Any]] = {}
    for row in await store.receipts():
        found[row["anchor"]] = {
            "anchor": row["anchor"], "size": row["size"], "at": timestamp(row["at_us"]), "where": row["place"],
            "cosigned": row["note"], "token": row["token"], "failing": None,
        }  # fmt: skip
    for row in await store.anchor_failures():
        nothing = {"size": None, "at": None, "where": "", "cosigned": "", "token": ""}
        one = found.setdefault(row["anchor"], {"anchor": row["anchor"], **nothing})
        one["failing"] = {
            "since": timestamp(row["since_us"]), "last": timestamp(row["at_us"]), "times": row["failures"],
            "problem": row["problem"],
        }  # fmt: skip
    return [found[name] for name in sorted(found)]


async def _checkpoint(store: Published) -> str:
    note = await store.checkpoint()
    if note is None:
        raise LedgerError("the ledger is empty and has no checkpoint")
    return note


async def _extends(store: Published, name: str, kept: str, new: Checkpoint) -> None:
    old = read_checkpoint(kept)
    if old.origin != new.origin:
        raise AnchorError(f"{name} keeps checkpoints of log {old.origin!r}, not of {new.origin!r}; use another place")
    try:
        Trust(new.origin, await store.signers()).open(kept)
    except NoteError as error:
        raise AnchorError(f"{name} keeps a checkpoint that this ledger did not sign: {error}") from None
    problem = await contradiction(store, old, new)
    if problem:
        raise ContradictionError(
            f"{name} keeps a checkpoint of {old.size} entries that this ledger of {new.size} contradicts: {problem}. "
            "Keep both, and verify the ledger against the one kept"
        )


async def contradiction(store: Published, old: Checkpoint, new: Checkpoint) -> str:
    """Return why two checkpoints of one log are of two histories, as far as the log can prove the opposite."""
    if old.size > new.size:
        return "entries were cut off"
    path = await store.consistency(old.size, new.size)
    fits = verify_consistency(old.size, new.size, old.root, new.root, path)
    return "" if fits else "entries were rewritten"


async def compare(store: Published, first: str, second: str, keys: Sequence[str] | None) -> dict[str, Any]:
    """Say whether two checkpoints that were shown to two people are of one history, with the proof if they are.

    ``keys`` are public keys from outside; without them the ledger's own are believed. Two of one size are compared
    alone, and what the ledger does not prove is not taken for granted.
    """
    origin = read_checkpoint(first).origin
    trust = Trust(origin, await store.signers(), None if keys is None else split_keys(keys)[0])
    old, new = sorted((trust.open(first), trust.open(second)), key=lambda one: one.size)
    try:
        path = await store.consistency(old.size, new.size)
    except LedgerError:
        path = []  # the ledger does not reach so far, so it proves nothing
    return _compared(old, new, path)


def compare_by(path: Iterable[str], first: str, second: str, keys: Iterable[str | NoteVerifier]) -> dict[str, Any]:
    """Compare two checkpoints by a proof that was saved, with nothing but the public keys."""
    verifiers = log_keys(keys)
    origin = read_checkpoint(first).origin
    opened = (open_checkpoint(first, verifiers, origin), open_checkpoint(second, verifiers, origin))
    old, new = sorted(opened, key=lambda one: one.size)
    return _compared(old, new, [bytes.fromhex(step) for step in path])


def _compared(old: Checkpoint, new: Checkpoint, path: Sequence[bytes]) -> dict[str, Any]:
    if old.size == new.size:
        problem = "" if old.root == new.root else f"the log signed two roots for its first {old.size} entries"
    elif verify_consistency(old.size, new.size, old.root, new.root, path):
        problem = ""
    else:
        problem = f"nothing shows that the log of {new.size} entries begins with that of {old.size}"
    return {
        "consistent": not problem,
        "problem": problem,
        "origin": old.origin,
        "old_size": old.size,
        "new_size": new.size,
        "path": [step.hex() for step in path],
    }
