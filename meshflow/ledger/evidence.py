"""Evidence: checkpoints, proofs, keys and verification, as a ledger offers them and as it needs them of a store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from meshflow.errors import LedgerError
from meshflow.ledger.format.checkpoints import verifiers_of
from meshflow.ledger.format.keys import KeySource, key_source
from meshflow.ledger.format.notes import Verifier
from meshflow.ledger.format.signers import SignerRow

if TYPE_CHECKING:
    from meshflow.ledger.anchors import Anchor, Receipt

LEDGER_LAYERS = ("chain", "columns", "commitments", "merkle_log")
"""What ``verify_ledger`` can look at; a chain needs no key, and the log needs no payloads."""


class EvidenceStore(Protocol):
    """What a ledger needs of a store to prove and to verify; part of LedgerStore."""

    async def checkpoint(self) -> str | None:
        """Return a signed checkpoint of the log as it is; None for an empty ledger, LedgerError without a key."""
        ...

    async def rotate_key(self, new: KeySource | None) -> str:
        """Have the key in use hand over to a new one, of another source or made by the same; return the verifier."""
        ...

    async def signers(self) -> list[SignerRow]:
        """Return the keys that the log was signed with, the oldest first."""
        ...

    async def prove(self, run_id: str, seq: int | None, step_index: int | None, tenant: str | None) -> dict[str, Any]:
        """Return an entry with its path to the newest checkpoint, which is signed now if it does not cover it."""
        ...

    async def prove_consistency(self, old_size: int) -> dict[str, Any]:
        """Return what shows that the newest checkpoint extends the log as it was at an older size."""
        ...

    async def verify(
        self, run_id: str, tenant: str | None, held: Sequence[str] = (), keys: Sequence[Verifier] | None = None
    ) -> dict[str, Any]:
        """Check a run against itself, the log, and checkpoints and keys from outside; see ``verify_run``."""
        ...

    async def verify_ledger(
        self, held: Sequence[str], keys: Sequence[Verifier] | None, layers: Collection[str], processes: int | None,
        progress: Callable[[int, int], None] | None,
    ) -> dict[str, Any]:  # fmt: skip
        """Check every run, the log and every checkpoint; see ``verify_whole``."""
        ...


class EvidenceCalls:
    """The calls of a ledger that prove and verify."""

    path: Path
    _store: EvidenceStore

    def _scope(self, tenant: str | None) -> str | None:
        raise NotImplementedError

    async def checkpoint(self) -> str:
        """Return a signed checkpoint of the whole ledger as it is; keep it elsewhere to verify against later."""
        note = await self._store.checkpoint()
        if note is None:
            raise LedgerError("the ledger is empty and has no checkpoint")
        return note

    async def anchor(self, *anchors: Anchor) -> list[Receipt]:
        """Publish a checkpoint of the ledger as it is to every anchor; return where each keeps it."""
        note = await self.checkpoint()
        return [await anchor.publish(note) for anchor in anchors]

    async def verifiers(self) -> list[str]:
        """Return the public keys that checkpoints were signed with, the oldest first."""
        return [verifier for verifier, _, _ in await self._store.signers()]

    async def rotate_key(self, new: str | Path | None = None) -> str:
        """Have the signing key hand over to a new one and return the new public key.

        Without ``new`` the file of the old key is replaced. Whoever trusts the old key can go on to the new one.
        """
        return await self._store.rotate_key(None if new is None else key_source(new, self.path))

    async def prove(
        self, run_id: str, seq: int | None = None, *, step_index: int | None = None, tenant: str | None = None
    ) -> dict[str, Any]:
        """Return an entry with its proof of inclusion in the newest checkpoint, for ``checkpoints.check_inclusion``."""
        if (seq is None) is (step_index is None):
            raise LedgerError("name the entry by seq or by step_index, and by one of them alone")
        return await self._store.prove(run_id, seq, step_index, self._scope(tenant))

    async def prove_consistency(self, old_size: int) -> dict[str, Any]:
        """Return what shows that the newest checkpoint extends the log as it was at an older size."""
        return await self._store.prove_consistency(old_size)

    async def verify_chain(
        self, run_id: str, *, checkpoint: str | Sequence[str] | None = None, keys: Sequence[str] | None = None,
        tenant: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Check a run; return ``valid``, ``state``, ``steps_verified``, ``errors``, ``checked`` and ``not_checked``.

        ``state`` is ``open``, ``closed`` or ``unknown``; an unknown run is never valid. ``checkpoint`` is what was
        kept outside the database, one or several, and ``keys`` are public keys from outside; without them the stored
        ones are believed. ``findings`` names the layer of each error, ``held_size`` the newest checkpoint from outside.
        """
        return await self._store.verify(run_id, self._scope(tenant), _held(checkpoint), _keys(keys))

    async def verify_ledger(
        self, *, since: str | Sequence[str] | None = None, keys: Sequence[str] | None = None,
        anchors: Sequence[Anchor] = (), layers: Collection[str] = LEDGER_LAYERS, processes: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Check every run, the log rebuilt from the entries, and every checkpoint.

        ``since`` are checkpoints from outside, to which those that ``anchors`` keep are added. ``progress`` is called
        in the event loop with entries done and entries in all. The result has ``valid``, ``errors``, ``findings``,
        ``checked``, ``not_checked``, counts, and in ``held_size`` the newest checkpoint from outside: what came after
        it could have been rewritten by somebody with the key. It sees all tenants, so a ledger of one refuses it.
        """
        if self._scope(None) is not None:
            raise LedgerError("a ledger open for one tenant cannot verify the whole of it; verify run by run")
        kept = [(anchor.name, await anchor.latest()) for anchor in anchors]
        held = _held(since) + [note for _, note in kept if note is not None]
        loop = asyncio.get_running_loop()

        def report(done: int, total: int) -> None:
            if progress is not None:
                loop.call_soon_threadsafe(progress, done, total)

        result = await self._store.verify_ledger(held, _keys(keys), layers, processes, report)
        if any(note is not None for _, note in kept):
            result["checked"].append("anchor")
            result["not_checked"].remove("anchor")
        result["anchors"] = {name: note is not None for name, note in kept}
        return result


def _held(checkpoint: str | Sequence[str] | None) -> list[str]:
    if checkpoint is None:
        return []
    return [checkpoint] if isinstance(checkpoint, str) else list(checkpoint)


def _keys(keys: Sequence[str] | None) -> list[Verifier] | None:
    return None if keys is None else verifiers_of(keys)
