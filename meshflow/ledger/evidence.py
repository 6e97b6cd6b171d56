"""Evidence: checkpoints, proofs, keys and verification, as a ledger offers them and as it needs them of a store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from meshflow.clock import Clock
from meshflow.errors import LedgerError
from meshflow.ledger.format.companions import CompanionSource, signed_by_companion, split_keys
from meshflow.ledger.format.cosignatures import Cosigner
from meshflow.ledger.format.findings import Finding, Health
from meshflow.ledger.format.keys import KeySource, key_source
from meshflow.ledger.format.notes import Verifier
from meshflow.ledger.format.signers import SignerRow
from meshflow.ledger.outside import Held, Outside, Quorum, gather

if TYPE_CHECKING:
    from meshflow.ledger.anchors import Anchor, Receipt

LEDGER_LAYERS = ("chain", "columns", "commitments", "merkle_log")
"""What ``verify_ledger`` can look at; a chain needs no key, and the log needs no payloads."""


class EvidenceStore(Protocol):
    """What a ledger needs of a store to prove and to verify; part of LedgerStore."""

    async def checkpoint(self) -> str | None:
        """Return a signed checkpoint of the log as it is; None for an empty ledger, LedgerError without a key."""
        ...

    async def origin(self) -> str | None:
        """Return the name of the log; None where there is no ledger yet."""
        ...

    async def cosigned(self) -> list[str]:
        """Return the checkpoints that witnesses cosigned, as they came back when they were published."""
        ...

    async def keep_receipt(self, anchor: str, size: int, place: str, note: str, token: str, at_us: int) -> None:
        """Keep where an anchor keeps a checkpoint and what it gave back; see ``anchors.Receipt``."""
        ...

    async def keep_failure(self, anchor: str, problem: str, at_us: int) -> None:
        """Keep that an anchor took no checkpoint, until it takes one again."""
        ...

    async def receipts(self) -> list[dict[str, Any]]:
        """Return the newest receipt of each anchor."""
        ...

    async def anchor_failures(self) -> list[dict[str, Any]]:
        """Return the anchors that took no checkpoint the last time, since when and why."""
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

    async def stored_checkpoint(self) -> tuple[int, str | None]:
        """Return the size of the log and the newest checkpoint stored, without signing one."""
        ...

    async def health(self, now_us: int) -> list[Health]:
        """Look at the place itself: schema, append-only tables, disk, clock."""
        ...

    async def consistency(self, old_size: int, new_size: int) -> list[bytes]:
        """Return the consistency proof between two sizes of the log; LedgerError when it never had them."""
        ...

    async def verify(
        self, run_id: str, tenant: str | None, held: Sequence[Held] = (), keys: Sequence[Verifier] | None = None
    ) -> dict[str, Any]:
        """Check a run against itself, the log, and checkpoints and keys from outside; see ``verify_run``."""
        ...

    async def verify_ledger(
        self, held: Sequence[Held], keys: Sequence[Verifier] | None, layers: Collection[str], processes: int | None,
        progress: Callable[[int, int], None] | None,
    ) -> dict[str, Any]:  # fmt: skip
        """Check every run, the log and every checkpoint; see ``verify_whole``."""
        ...


class EvidenceCalls:
    """The calls of a ledger that prove and verify."""

    _beside: Path
    key: KeySource | None
    companion: CompanionSource | None
    _clock: Clock
    _store: EvidenceStore

    def _scope(self, tenant: str | None) -> str | None:
        raise NotImplementedError

    async def checkpoint(self) -> str:
        """Return a signed checkpoint of the whole ledger as it is; keep it elsewhere to verify against later."""
        note = await self._store.checkpoint()
        if note is None:
            raise LedgerError("the ledger is empty and has no checkpoint")
        return note

    async def newest_checkpoint(self) -> str | None:
        """Do as ``checkpoint``, but return None for an empty ledger."""
        return await self._store.checkpoint()

    async def anchor(self, *anchors: Anchor) -> list[Receipt]:
        """Publish a checkpoint of the ledger as it is to every anchor; return where each keeps it.

        Each is asked for what it keeps first. ContradictionError when the ledger does not extend that. An anchor that
        fails does not keep the others from it; the first error is raised in the end. What comes of it is recorded in
        the ledger, apart from its entries.
        """
        from meshflow.ledger.anchoring import publish_to_all

        return await publish_to_all(self._store, anchors, self._clock.now_us)

    async def receipts(self) -> list[dict[str, Any]]:
        """Return where the newest checkpoint is that each anchor took, and since when an anchor fails and why."""
        from meshflow.ledger.anchoring import standing

        return await standing(self._store)

    async def compare(self, first: str, second: str, *, keys: Sequence[str] | None = None) -> dict[str, Any]:
        """Say whether two checkpoints that two people hold are of one history, with the proof if they are.

        The result has ``consistent``, ``problem``, ``old_size``, ``new_size`` and ``path``. ``keys`` are public keys
        from outside; without them the ledger's own are believed.
        """
        from meshflow.ledger.anchoring import compare

        return await compare(self._store, first, second, keys)

    async def verifiers(self) -> list[str]:
        """Return the public keys that checkpoints were signed with, the oldest first."""
        return [verifier for verifier, _, _ in await self._store.signers()]

    async def health(self, *, anchors: Sequence[Anchor] = ()) -> list[Health]:
        """Examine file, append-only tables, disk, clock, key and newest checkpoint, and ask ``anchors``.

        Nothing is changed, and the entries are not read: ``verify_ledger`` does that.
        """
        from meshflow.ledger.health import examine

        return await examine(self._store, self.key, self.companion, anchors, self._clock.now_us())

    async def companion_verifier(self) -> str | None:
        """Return the public ML-DSA-44 key that signs beside the first; None where none does."""
        if self.companion is None:
            return None
        await self.checkpoint()
        origin = await self._store.origin()
        return str(self.companion.load(origin or "", False).verifier)

    async def rotate_key(self, new: str | Path | None = None) -> str:
        """Have the signing key hand over to a new one and return the new public key.

        Without ``new`` the file of the old key is replaced. Whoever trusts the old key can go on to the new one.
        """
        return await self._store.rotate_key(None if new is None else key_source(new, self._beside))

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
        anchors: Sequence[Anchor] = (), witnesses: Sequence[str] = (), quorum: int | None = None,
        cosigned_within_s: int | None = None, tenant: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Check a run; return ``valid``, ``state``, ``steps_verified``, ``errors``, ``checked`` and ``not_checked``.

        ``state`` is ``open``, ``closed`` or ``unknown``; an unknown run is never valid. ``checkpoint`` is what was
        kept outside the database, one or several, and ``keys`` are public keys from outside; without them the stored
        ones are believed. ``anchors`` and ``witnesses`` count as in ``verify_ledger``. ``findings`` names the layer of
        each error, ``held_size`` the newest checkpoint from outside.
        """
        scope = self._scope(tenant)
        outside = await self._outside(checkpoint, anchors, witnesses, quorum, cosigned_within_s)
        first, second = _keys(keys)
        result = outside.complete(await self._store.verify(run_id, scope, outside.held, first))
        return await self._by_companion(result, second)

    async def verify_ledger(
        self, *, since: str | Sequence[str] | None = None, keys: Sequence[str] | None = None,
        anchors: Sequence[Anchor] = (), witnesses: Sequence[str] = (), quorum: int | None = None,
        cosigned_within_s: int | None = None, layers: Collection[str] = LEDGER_LAYERS, processes: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Check every run, the log rebuilt from the entries, and every checkpoint.

        ``since`` are checkpoints from outside, to which those that ``anchors`` keep are added. ``witnesses`` are the
        public keys of witnesses, of which ``quorum`` (all, unless said) must have cosigned a checkpoint, in the last
        ``cosigned_within_s`` seconds where that is given: one of those
        given, one that an anchor keeps, or one that the ledger got back when it published. ``progress`` is called
        in the event loop with entries done and entries in all. The result has ``valid``, ``errors``, ``findings``,
        ``checked``, ``not_checked``, counts, and in ``held_size`` the newest checkpoint from outside: what came after
        it could have been rewritten by somebody with the key. It sees all tenants, so a ledger of one refuses it.
        """
        if self._scope(None) is not None:
            raise LedgerError("a ledger open for one tenant cannot verify the whole of it; verify run by run")
        outside = await self._outside(since, anchors, witnesses, quorum, cosigned_within_s)
        loop = asyncio.get_running_loop()

        def report(done: int, total: int) -> None:
            if progress is not None:
                loop.call_soon_threadsafe(progress, done, total)

        first, second = _keys(keys)
        result = await self._store.verify_ledger(outside.held, first, layers, processes, report)
        return await self._by_companion(outside.complete(result), second)

    async def _by_companion(self, result: dict[str, Any], keys: list[Cosigner]) -> dict[str, Any]:
        """Demand that the newest checkpoint is signed by one of the ML-DSA-44 keys, where some were given."""
        if keys:
            problem = signed_by_companion((await self._store.stored_checkpoint())[1], keys)
            found = Outside(checked=["ml_dsa_44"])
            found.findings += [Finding("checkpoint", problem)] if problem else []
            found.complete(result, keep=True)
        return result

    async def _outside(
        self, given: str | Sequence[str] | None, anchors: Sequence[Anchor], witnesses: Sequence[str],
        quorum: int | None, within_s: int | None,
    ) -> Outside:  # fmt: skip
        """Gather what is held outside, before the ledger is looked at."""
        notes = [given] if isinstance(given, str) else list(given or ())
        since_s = None if within_s is None else self._clock.now_us() // 1_000_000 - within_s
        wanted = Quorum(witnesses, quorum, since_s) if witnesses or quorum is not None or within_s is not None else None
        if not anchors and wanted is None:
            return await gather(None, notes, (), None)
        origin = await self._store.origin()
        receipts = await self._store.cosigned() if wanted is not None else []
        return await gather(origin, notes, anchors, wanted, receipts)


def _keys(keys: Sequence[str] | None) -> tuple[list[Verifier] | None, list[Cosigner]]:
    """Return the Ed25519 keys from outside, None for the stored ones, and the ML-DSA-44 keys."""
    if keys is None:
        return None, []
    first, second = split_keys(list(keys))
    return (first if first or not second else None), second
