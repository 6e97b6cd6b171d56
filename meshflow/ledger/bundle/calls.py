"""The calls of a ledger that hand out bundles."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from meshflow.errors import LedgerError
from meshflow.ledger.bundle.write import BundleOrder, BundleWriter, UncoveredError
from meshflow.ledger.store import LedgerStore

if TYPE_CHECKING:
    from meshflow.ledger.anchors import Anchor

_TRIES = 5
_CHUNK = 2**20
_KEPT = 16
"""Of how many checkpoints that an anchor keeps a bundle tells."""


class BundleCalls:
    """The part of ReplayLedger that writes evidence into one file."""

    _store: LedgerStore

    def _scope(self, tenant: str | None) -> str | None:
        raise NotImplementedError

    async def export_bundle(
        self, output: str | Path, runs: str | Sequence[str] | None, *, payloads: bool = True,
        checkpoints: str | Sequence[str] = (), anchors: Sequence[Anchor] = (), tenant: str | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Write a bundle of one run, several, or with None the whole ledger; return what ``verify_bundle`` says of it.

        The file is written whole or not at all, readable by its owner alone, and what does not verify is not left
        there: LedgerError then. An existing file is replaced. See ``iter_bundle`` for the rest.
        """
        from meshflow.ledger.bundle.verify import verify_bundle

        path = Path(output)
        partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                waiting, size = [], 0
                async for line in self.iter_bundle(
                    runs, payloads=payloads, checkpoints=checkpoints, anchors=anchors, tenant=tenant
                ):
                    waiting.append(line)
                    size += len(line)
                    if size >= _CHUNK:
                        await asyncio.to_thread(file.writelines, waiting)
                        waiting, size = [], 0
                await asyncio.to_thread(_finish, file, waiting)
            result = await asyncio.to_thread(verify_bundle, partial)
            if not result["valid"]:
                raise LedgerError(f"the ledger does not verify, so no bundle was written: {result['errors'][0]}")
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return result

    async def iter_bundle(
        self, runs: str | Sequence[str] | None, *, payloads: bool = True, checkpoints: str | Sequence[str] = (),
        anchors: Sequence[Anchor] = (), tenant: str | None = None,
    ) -> AsyncIterator[bytes]:  # fmt: skip
        """Yield a bundle line by line, so that a long run need not fit into memory.

        Runs that one of them forks come along as far as it inherits from them. ``checkpoints`` are notes that somebody
        holds: the bundle then shows that the log went on from them. What ``anchors`` keep is put in likewise, and what
        witnesses have cosigned last. Without ``payloads`` the bundle proves what happened and not what was said. With
        a tenant the whole ledger is refused.
        """
        scope = self._scope(tenant)
        if runs is None and scope is not None:
            raise LedgerError("the whole ledger is not one tenant's; name the runs")
        wanted = [runs] if isinstance(runs, str) else runs
        if wanted is not None and not wanted:
            raise LedgerError("a bundle needs a run at least; name one, or ask for the whole ledger with None")
        held = [checkpoints] if isinstance(checkpoints, str) else list(checkpoints)
        kept = await self._kept_by(anchors)
        order = BundleOrder(None if wanted is None else frozenset(wanted), payloads, scope, held, kept)
        for tries_left in reversed(range(_TRIES)):
            async with self._store.snapshot() as snapshot:
                if snapshot is None:
                    raise LedgerError("there is no ledger yet")
                try:
                    async for line in BundleWriter(snapshot, order).lines():
                        yield line
                    return
                except UncoveredError:
                    if not tries_left:  # it is raised before the first line
                        raise
            if not await self._store.signers():
                raise LedgerError(
                    "the ledger has never been signed, so there is nothing to prove with; open it with a signing key "
                    "and take a checkpoint() first"
                )
            await self._store.checkpoint()
            order = BundleOrder(order.runs, payloads, scope, held, kept, settled=True)

    async def _kept_by(self, anchors: Sequence[Anchor]) -> list[tuple[str, str]]:
        """Return each anchor's name with each checkpoint that it keeps, before the ledger is looked at."""
        kept = [(one["anchor"], one["note"]) for one in await self._store.receipts() if one["note"]]
        if anchors:
            origin = await self._store.origin()
            kept += [(anchor.name, note) for anchor in anchors for note in await anchor.kept(_KEPT, origin)]
        return kept


def _finish(file: BinaryIO, lines: list[bytes]) -> None:
    file.writelines(lines)
    file.flush()
    os.fsync(file.fileno())
