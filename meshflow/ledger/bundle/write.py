"""Writing a bundle: one pass over a snapshot of the ledger, in the order of its log, line by line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256

import orjson

from meshflow import __version__
from meshflow.errors import LedgerError
from meshflow.ledger.bundle.lines import FORMAT, line_of
from meshflow.ledger.bundle.walk import cover, pass_over
from meshflow.ledger.format.checkpoints import Checkpoint, open_rotation, read_checkpoint
from meshflow.ledger.format.entry import UNBOUND, StoredEntry
from meshflow.ledger.format.merkle import Frontier, leaf_hash
from meshflow.ledger.format.notes import Verifier
from meshflow.ledger.snapshot import LedgerSnapshot, LogHead

WRITER = f"meshflow/{__version__}"


class UncoveredError(LedgerError):
    """Entries that the bundle needs have come after the newest checkpoint."""


@dataclass(frozen=True, slots=True)
class BundleOrder:
    """What a bundle is to hold.

    ``runs`` of None are all. ``checkpoints`` are notes that somebody holds, to which the bundle is to show the way;
    ``anchors`` those that an anchor of a name keeps.
    """

    runs: Collection[str] | None
    payloads: bool = True
    tenant: str | None = None
    checkpoints: Sequence[str] = ()
    anchors: Sequence[tuple[str, str]] = ()
    settled: bool = False
    """Whether to leave out what has come after the newest checkpoint, as long as nothing of it is an erasure."""


@dataclass(slots=True)
class _Extent:
    """How much of a run is wanted: steps to ``steps`` when inherited, else everything."""

    part: str
    steps: int = 0
    passed: bool = False

    def wants(self, entry: StoredEntry, kind: str) -> bool:
        """Say whether an entry belongs in; they come in order. Of a parent, what tells erasure from loss comes too."""
        if self.part != "inherited":
            return True
        before, index = self.passed, entry.step_index
        self.passed = before or (index is not None and index + 1 >= self.steps)
        return entry.seq == 0 or kind in UNBOUND or not before


class BundleWriter:
    """Yields the lines of one bundle."""

    def __init__(self, snapshot: LedgerSnapshot, order: BundleOrder) -> None:
        self._snapshot = snapshot
        self._order = order
        self._extents: dict[str, _Extent] | None = None
        self._frontier = Frontier()
        self._roots: dict[int, bytes] = {}
        self._digest = sha256()
        self._entries = 0

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the bundle; LedgerError where the ledger lacks a run, or contradicts its log."""
        head = await self._snapshot.head()
        if head.checkpoint is None:
            raise UncoveredError("the ledger has no checkpoint to prove anything with; sign one, with a signing key")
        newest = read_checkpoint(head.checkpoint)
        self._extents = await self._find_extents()
        await self._check_covered(newest.size)
        for line in self._front(head, newest):
            yield self._noted(line)
        self._check_root()
        runs = None if self._extents is None else list(self._extents)
        async for entry in self._snapshot.entries(runs, self._order.tenant, newest.size, self._order.payloads):
            if self._extents is None or self._extents[entry.run_id].wants(entry, _kind(entry)):
                async for line in self._skips(entry.position):
                    yield line
                yield self._noted(self._entry(entry))
                self._frontier.append(leaf_hash(entry.entry_hash))
                self._check_root()
        async for line in self._skips(newest.size):
            yield line
        yield line_of("end", entries=self._entries, sha256=self._digest.hexdigest())

    async def _find_extents(self) -> dict[str, _Extent] | None:
        """Return the runs that go in: those asked for, and of those that they fork what they inherit."""
        if self._order.runs is None:
            return None
        tenant, found = self._order.tenant, {}
        for run_id in self._order.runs:
            tenants = await self._snapshot.tenants(run_id)
            if not tenants or (tenant is not None and tenant not in tenants):
                raise LedgerError(f"the ledger has no run {run_id!r}")
            found[run_id] = _Extent("whole" if tenant is None or tenants == {tenant} else "tenant")
        for run_id in self._order.runs:
            line = await self._snapshot.lineage(run_id)
            wanted = line[0][1] if line else 0
            for ancestor, inherited in line[1:]:
                if not wanted or (tenant is not None and tenant not in await self._snapshot.tenants(ancestor)):
                    break
                extent = found.setdefault(ancestor, _Extent("inherited", passed=True))
                extent.steps = max(extent.steps, wanted)
                extent.passed = extent.passed and inherited >= wanted
                wanted = min(wanted, inherited)
        return dict(sorted(found.items()))

    async def _check_covered(self, size: int) -> None:
        kind = "erasure" if self._order.settled else None
        if await self._snapshot.has_beyond(size, self._extents, kind):
            raise UncoveredError(
                f"entries that belong in have come after the newest checkpoint, of {size} entries; open the ledger "
                "with its signing key, or wait until its writer has signed"
            )

    def _front(self, head: LogHead, newest: Checkpoint) -> list[bytes]:
        """Return header, keys and checkpoints, and note which roots the walk must meet."""
        lines = [
            line_of(
                "header", format=FORMAT, origin=head.origin, payloads=self._order.payloads, size=newest.size,
                runs=None if self._extents is None
                else [{"part": extent.part, "run_id": run_id} for run_id, extent in self._extents.items()],
                tenant=self._order.tenant, writer=WRITER,
            )
        ]  # fmt: skip
        previous: Verifier | None = None
        for key, since, note in head.signers:
            if previous is not None:
                self._expect(open_rotation(note, previous)[0], newest)
            previous = Verifier.parse(key)
            lines.append(line_of("key", key=key, note=note, since=since if note else 0))
        anchored: dict[str, set[str]] = {}
        for name, note in self._order.anchors:
            anchored.setdefault(note, set()).add(name)
        notes = {note: read_checkpoint(note) for note in (head.checkpoint or "", *self._order.checkpoints, *anchored)}
        for note in sorted(notes, key=lambda note: (notes[note].size, note)):
            self._expect(notes[note], newest)
            lines.append(line_of("checkpoint", anchors=sorted(anchored.get(note, ())), note=note))
        return lines

    def _expect(self, checkpoint: Checkpoint, newest: Checkpoint) -> None:
        if checkpoint.origin != newest.origin:
            raise LedgerError(f"a checkpoint is of log {checkpoint.origin!r}, and this ledger is {newest.origin!r}")
        if checkpoint.size > newest.size:
            raise LedgerError(
                f"a checkpoint is of {checkpoint.size} entries, and the ledger has {newest.size}: entries have been "
                "cut off, or an older copy was put in its place; verify the ledger"
            )
        if self._roots.setdefault(checkpoint.size, checkpoint.root) != checkpoint.root:
            raise LedgerError(f"two checkpoints of size {checkpoint.size} contradict each other; verify the ledger")

    async def _skips(self, stop: int) -> AsyncIterator[bytes]:
        """Yield the subtrees from here to a position, split where a root is to be met."""
        while self._frontier.size < stop:
            start = self._frontier.size
            until = min([size for size in self._roots if start < size < stop], default=stop)
            hashes = await self._snapshot.nodes(cover(start, until))
            pass_over(self._frontier, until, hashes)
            yield self._noted(line_of("skip", hashes=[one.hex() for one in hashes], stop=until))
            self._check_root()

    def _check_root(self) -> None:
        """Compare the log with a checkpoint of the size reached, so that no bundle is written that cannot verify."""
        size = self._frontier.size
        if size in self._roots and self._roots[size] != self._frontier.root():
            raise LedgerError(
                f"the first {size} entries of the ledger are not those that its checkpoint was signed for; verify it"
            )

    def _entry(self, entry: StoredEntry) -> bytes:
        self._entries += 1
        try:
            return line_of(
                "entry", body=entry.body.decode(), entry_hash=entry.entry_hash.hex(),
                payloads={name: {"data": data.decode(), "salt": salt.hex()}
                          for name, (salt, data) in entry.payloads.items()},
                position=entry.position, prev_hash=entry.prev_hash.hex(), run_id=entry.run_id, seq=entry.seq,
            )  # fmt: skip
        except (UnicodeDecodeError, AttributeError):
            raise LedgerError(f"entry {entry.seq} of run {entry.run_id!r} is damaged; verify the run") from None

    def _noted(self, line: bytes) -> bytes:
        self._digest.update(line)
        return line


def _kind(entry: StoredEntry) -> str:
    try:
        return str(orjson.loads(entry.body)["kind"])
    except (orjson.JSONDecodeError, TypeError, KeyError):
        raise LedgerError(f"entry {entry.seq} of run {entry.run_id!r} is damaged; verify the run") from None
