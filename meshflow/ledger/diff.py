"""What two runs did differently, step by step."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from meshflow.errors import LedgerError
from meshflow.ledger.align import Pair, pair_up
from meshflow.ledger.format.payload import payload_value
from meshflow.ledger.history import HistoryStore
from meshflow.ledger.outline import Doubt, Outline


@dataclass(frozen=True)
class RunDiff:
    """How run B differs from run A.

    ``only_in_a``, ``only_in_b`` and ``common`` are node ids in the order in which they first ran. ``changed`` holds a
    dict for each pair of steps of a common node whose verdict, code or output differs. Steps of a node that ran more
    often in one run, and have no partner, are in ``extra_in_a`` and ``extra_in_b``. ``not_compared`` names pairs whose
    outputs look the same, or are gone, and need not have been the same: erased, withheld, redacted or unencodable.
    Costs and tokens are those of the runs themselves: a fork does not count what it inherits.
    """

    run_a: str
    run_b: str
    only_in_a: list[str] = field(default_factory=list)
    only_in_b: list[str] = field(default_factory=list)
    common: list[str] = field(default_factory=list)
    changed: list[dict[str, Any]] = field(default_factory=list)
    cost_delta_usd: float = 0.0
    cost_delta_micro_usd: int = 0
    token_delta: int = 0
    extra_in_a: list[dict[str, Any]] = field(default_factory=list)
    extra_in_b: list[dict[str, Any]] = field(default_factory=list)
    not_compared: list[dict[str, Any]] = field(default_factory=list)

    @property
    def same_path(self) -> bool:
        """True when the same nodes ran as often and no difference was found, undecidable pairs aside."""
        return not (self.only_in_a or self.only_in_b or self.changed or self.extra_in_a or self.extra_in_b)

    @property
    def identical(self) -> bool:
        """True when no difference was found and nothing was undecidable."""
        return self.same_path and not self.not_compared

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


async def compare(store: HistoryStore, run_a: str, run_b: str, tenant: str | None) -> RunDiff:
    """Compare two runs; LedgerError for one that the ledger does not know."""
    outlines = []
    for run_id in (run_a, run_b):
        outline = await store.outline(run_id, tenant)
        if outline is None:
            raise LedgerError(f"the ledger has no run {run_id!r}")
        outlines.append(outline)
    a, b = outlines
    # Long runs take a while to compare; the event loop goes on meanwhile.
    found = await asyncio.to_thread(_Comparison, a, b)
    outputs_a = await store.outputs(run_a, [a.indexes[i] for i, _ in found.differing], tenant)
    outputs_b = await store.outputs(run_b, [b.indexes[j] for _, j in found.differing], tenant)
    return await asyncio.to_thread(_summed_up, found, outputs_a, outputs_b)


def _summed_up(found: _Comparison, outputs_a: Mapping[int, bytes], outputs_b: Mapping[int, bytes]) -> RunDiff:
    a, b = found.a, found.b
    changed = [found.change(pair, outputs_a, outputs_b) for pair in found.differing]
    cost = b.own_cost() - a.own_cost()
    return RunDiff(
        run_a=a.run_id,
        run_b=b.run_id,
        only_in_a=_without(a.nodes, b.nodes),
        only_in_b=_without(b.nodes, a.nodes),
        common=[node for node in dict.fromkeys(a.nodes) if node in found.nodes_b],
        changed=changed,
        cost_delta_usd=cost / 1_000_000,
        cost_delta_micro_usd=cost,
        token_delta=b.own_tokens() - a.own_tokens(),
        extra_in_a=found.unpaired(a, found.nodes_b, {i for i, _ in found.pairs}, found.times_a),
        extra_in_b=found.unpaired(b, found.nodes_a, {j for _, j in found.pairs}, found.times_b),
        not_compared=found.undecidable,
    )


def _without(nodes: Sequence[str], others: Sequence[str]) -> list[str]:
    gone = set(others)
    return [node for node in dict.fromkeys(nodes) if node not in gone]


class _Comparison:
    """The pairs of two outlines, and what is to be said of each."""

    def __init__(self, a: Outline, b: Outline) -> None:
        self.a, self.b = a, b
        self.nodes_a, self.nodes_b = set(a.nodes), set(b.nodes)
        self.times_a, self.times_b = _times(a.nodes), _times(b.nodes)
        self.pairs = pair_up(a.nodes, a.deeds(), b.nodes, b.deeds())
        self.differing: list[Pair] = []
        self.undecidable: list[dict[str, Any]] = []
        digests_a, digests_b, size = bytes(a.digests), bytes(b.digests), len(a.digest(0))
        for pair in self.pairs:
            i, j = pair
            if (
                a.ends[i] != b.ends[j]
                or digests_a[i * size : i * size + size] != digests_b[j * size : j * size + size]
                or a.doubts[i]
                or b.doubts[j]
            ):
                self._judge(pair)

    def _judge(self, pair: Pair) -> None:
        i, j = pair
        a, b = self.a, self.b
        doubt_a, doubt_b = a.doubts[i], b.doubts[j]
        same_output = a.digest(i) == b.digest(j)
        # What is gone says nothing, also beside an output that is there; else bytes that differ are a difference.
        unknown = max(doubt_a, doubt_b) >= Doubt.WITHHELD or (same_output and (doubt_a or doubt_b))
        if unknown:
            self.undecidable.append({
                **self._named(pair), "what": "output", "why_a": Doubt(doubt_a).label, "why_b": Doubt(doubt_b).label,
            })  # fmt: skip
        if a.ends[i] != b.ends[j] or not (same_output or unknown):
            self.differing.append(pair)

    def _named(self, pair: Pair) -> dict[str, Any]:
        i, j = pair
        return {
            "node_id": self.a.nodes[i], "occurrence": self.times_a[i], "occurrence_b": self.times_b[j],
            "step_index_a": self.a.indexes[i], "step_index_b": self.b.indexes[j],
        }  # fmt: skip

    def change(self, pair: Pair, outputs_a: Mapping[int, bytes], outputs_b: Mapping[int, bytes]) -> dict[str, Any]:
        """Return what differs between the steps of a pair."""
        i, j = pair
        (verdict_a, code_a), (verdict_b, code_b) = self.a.ends[i], self.b.ends[j]
        cost = self.b.costs[j] - self.a.costs[i]
        return {
            **self._named(pair),
            "verdict_a": verdict_a, "verdict_b": verdict_b, "code_a": code_a, "code_b": code_b,
            "output_a": _value(outputs_a.get(self.a.indexes[i])), "output_b": _value(outputs_b.get(self.b.indexes[j])),
            "cost_delta_usd": cost / 1_000_000, "cost_delta_micro_usd": cost,
            "token_delta": self.b.tokens[j] - self.a.tokens[i],
        }  # fmt: skip

    @staticmethod
    def unpaired(outline: Outline, common: set[str], paired: set[int], times: Sequence[int]) -> list[dict[str, Any]]:
        """Return the steps of common nodes that have no partner."""
        return [
            {"node_id": node, "occurrence": times[at], "step_index": outline.indexes[at]}
            for at, node in enumerate(outline.nodes)
            if at not in paired and node in common
        ]


def _value(data: bytes | None) -> Any:
    return None if data is None else payload_value(data)


def _times(nodes: Sequence[str]) -> list[int]:
    """Return for each step how often its node ran before."""
    counts: dict[str, int] = {}
    times = []
    for node in nodes:
        seen = counts.get(node, 0)
        times.append(seen)
        counts[node] = seen + 1
    return times
