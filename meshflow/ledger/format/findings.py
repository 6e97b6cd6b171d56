"""What a verifier says: which layer does not hold, where, and why."""

from __future__ import annotations

from typing import Any, NamedTuple

LAYERS = (
    "chain", "columns", "commitments", "erasures", "keys", "places", "run_index", "merkle_log", "checkpoint",
    "held_checkpoint", "anchor", "witness", "storage",
)  # fmt: skip


class Finding(NamedTuple):
    """One thing that does not hold.

    ``seq`` is None where it concerns no single entry, ``step_id`` where the entry is missing.
    """

    layer: str
    problem: str
    run_id: str | None = None
    seq: Any = None
    step_id: Any = None

    def __str__(self) -> str:
        if self.seq is None:
            return self.problem
        step = f" (step {self.step_id!r})" if self.step_id is not None else ""
        return f"entry {self.seq}{step}: {self.problem}"

    def in_ledger(self) -> str:
        """Return the text with the run named."""
        return f"run {self.run_id!r}, {self}" if self.run_id is not None else str(self)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form; values that no honest ledger holds are described, not copied."""
        return {
            "layer": self.layer,
            "problem": self.problem,
            "run_id": self.run_id,
            "seq": self.seq if self.seq is None or isinstance(self.seq, int) else repr(self.seq)[:100],
            "step_id": self.step_id if self.step_id is None or isinstance(self.step_id, str) else repr(self.step_id),
        }


def missing(run_id: str, first: int, after: int) -> Finding:
    """Return that a run lacks entries from one on, and goes on with another."""
    what = f"entries {first} to {after - 1} are" if after - first > 1 else f"entry {first} is"
    return Finding("chain", f"{what} missing before entry {after}", run_id, first)


class Health(NamedTuple):
    """One thing that was looked at, how it stands (``ok``, ``warning`` or ``error``), and what was found."""

    level: str
    check: str
    found: str
