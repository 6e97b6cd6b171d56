"""What is held of a ledger outside of it: checkpoints that somebody kept, anchors, and what witnesses cosigned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from meshflow.errors import LedgerError
from meshflow.ledger.format.checkpoints import Checkpoint, read_checkpoint
from meshflow.ledger.format.cosignatures import Cosigner, cosignatures
from meshflow.ledger.format.findings import Finding
from meshflow.ledger.format.notes import NoteError
from meshflow.ledger.format.steps import timestamp

if TYPE_CHECKING:
    from meshflow.ledger.anchors import Anchor

_OLD = "an older copy was put back, or publishing has stopped: not enough witnesses have cosigned since"
MOST_COMPARED = 10_000
"""Checkpoints of one anchor that are compared; of more, as many spread evenly with the first and last among them."""


class Held(NamedTuple):
    """A checkpoint from outside; the layer of what does not fit it, and what messages call it."""

    note: str
    layer: str = "held_checkpoint"
    source: str = "the checkpoint given"


class Quorum:
    """Witnesses, and how many of them must have cosigned a checkpoint.

    A witness with keys of several algorithms counts once, by its name. With ``since_s``, in seconds since 1970, enough
    of them must have done so since then: an old copy of a ledger brings its old cosignatures with it.
    """

    def __init__(
        self, witnesses: Iterable[str | Cosigner], needed: int | None = None, since_s: int | None = None
    ) -> None:
        self.since_s = since_s
        keys = [key if isinstance(key, Cosigner) else Cosigner.parse(key) for key in witnesses]
        self.keys = list(dict.fromkeys(keys))
        names = {key.name for key in self.keys}
        if len({key.public for key in self.keys}) != len(self.keys):
            raise LedgerError("one key is given under several names; a witness counts once")
        self.of = len(names)
        self.needed = self.of if needed is None else needed
        if not 0 < self.needed <= self.of:
            raise LedgerError(f"a quorum of {self.needed} cannot be reached by {self.of} witnesses")


@dataclass(slots=True)
class Outside:
    """What was gathered, and what was found wrong with it before the ledger was even looked at."""

    held: list[Held] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    anchors: dict[str, dict[str, Any]] = field(default_factory=dict)
    witness: dict[str, Any] | None = None

    def complete(self, result: dict[str, Any], *, keep: bool = False) -> dict[str, Any]:
        """Add to the result of a verification what it could not know; with ``keep``, to what was added before."""
        result["valid"] = result["valid"] and not self.findings
        result["errors"] += [str(finding) for finding in self.findings]
        result["findings"] += [finding.as_dict() for finding in self.findings]
        result["checked"] += [name for name in self.checked if name not in result["checked"]]
        result["not_checked"] = [name for name in result["not_checked"] if name not in self.checked]
        if not keep:
            result["anchors"] = self.anchors
            result["witness"] = self.witness
        return result


async def gather(
    origin: str | None, given: Sequence[str], anchors: Sequence[Anchor], quorum: Quorum | None,
    receipts: Iterable[str] = (),
) -> Outside:  # fmt: skip
    """Return what is held of the log of a name; AnchorError when an anchor cannot be asked.

    ``receipts`` are cosigned checkpoints that the ledger itself keeps; they count for what witnesses signed, and for
    nothing else.
    """
    found = Outside([Held(note) for note in given])
    for anchor in anchors:
        kept = await anchor.kept(MOST_COMPARED, origin)
        sizes = [read_checkpoint(note).size for note in kept]
        found.anchors[anchor.name] = {"compared": len(kept), "newest": max(sizes, default=None)}
        found.held += [Held(note, "anchor", f"a checkpoint that {anchor.name} keeps") for note in kept]
        if kept and "anchor" not in found.checked:
            found.checked.append("anchor")
    if quorum is not None:
        _count(found, origin, quorum, [*(held.note for held in found.held), *receipts])
    return found


def count(origin: str | None, quorum: Quorum, notes: Sequence[str]) -> tuple[dict[str, Any], list[Finding]]:
    """Return which checkpoint of a log is the newest that enough witnesses cosigned, and what is wrong with notes."""
    found = Outside()
    _count(found, origin, quorum, notes)
    return found.witness or {}, found.findings


def _count(found: Outside, origin: str | None, quorum: Quorum, notes: Sequence[str]) -> None:
    """Find the newest checkpoint that enough witnesses cosigned, and hold the ledger to all that any of them did."""
    times: dict[Checkpoint, dict[str, int]] = {}
    example: dict[Checkpoint, str] = {}
    for note in notes:
        try:
            checkpoint, signed = read_checkpoint(note), cosignatures(note, quorum.keys)
        except NoteError as error:
            found.findings.append(Finding("witness", f"a cosigned checkpoint: {error}"))
            continue
        if checkpoint.origin == origin and signed:
            example.setdefault(checkpoint, note)
            by_name = times.setdefault(checkpoint, {})
            by_name |= {one.cosigner.name: max(one.at_s, by_name.get(one.cosigner.name, 0)) for one in signed}
    enough = [checkpoint for checkpoint, names in times.items() if len(names) >= quorum.needed]
    newest = max(enough, key=lambda checkpoint: checkpoint.size, default=None)
    found.checked.append("witness")
    found.witness = {
        "needed": quorum.needed,
        "of": quorum.of,
        "size": newest.size if newest is not None else None,
        "cosigned": times[newest] if newest is not None else {},
    }
    if newest is None:
        found.findings.append(Finding("witness", _too_few(quorum, times)))
    elif quorum.since_s is not None and sum(at_s >= quorum.since_s for at_s in times[newest].values()) < quorum.needed:
        latest = timestamp(max(times[newest].values()) * 1_000_000)
        found.findings.append(Finding("witness", f"{_OLD} {timestamp(quorum.since_s * 1_000_000)}, but at {latest}"))
    found.held += [
        Held(note, "witness", f"a checkpoint that {' and '.join(sorted(times[checkpoint]))} cosigned")
        for checkpoint, note in example.items()
    ]


def _too_few(quorum: Quorum, times: Mapping[Checkpoint, Mapping[str, int]]) -> str:
    best = max(map(len, times.values()), default=0)
    return f"no checkpoint is cosigned by {quorum.needed} of the {quorum.of} witnesses; the most have {best}"
