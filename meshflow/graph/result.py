"""How a run ended, for callers who would rather ask than catch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from meshflow.graph.errors import NodeStoppedError
from meshflow.graph.markers import Interrupt
from meshflow.record import RuntimeOutcome, Status

if TYPE_CHECKING:
    from meshflow.graph.run import Run


@dataclass(frozen=True, slots=True)
class GraphResult:
    """What ``run`` and ``arun`` return.

    ``status`` is COMPLETED only where nothing is left to run. PAUSED: ``interrupts`` are what it waits for (none at a
    breakpoint) and ``next`` the nodes that go on. DENIED and FAILED: ``error`` is what ``invoke`` would have raised,
    and ``outcome`` the kernel's, of a governed node. ``values`` are those of the state as far as it was applied.
    """

    status: Status
    values: dict[str, Any]
    run_id: str
    thread_id: str | None = None
    interrupts: tuple[Interrupt, ...] = ()
    next: tuple[str, ...] = ()
    error: BaseException | None = field(default=None, repr=False)
    outcome: RuntimeOutcome | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """True when the run did all that it should."""
        return self.status is Status.COMPLETED

    def unwrap(self) -> dict[str, Any]:
        """Return the values of a completed run; raise for any other."""
        if self.error is not None:
            raise self.error
        if not self.ok:
            raise RuntimeError(
                f"the run is {self.status.value}; next {list(self.next)}, waiting for {list(self.interrupts)}"
            )
        return self.values


def result_of(run: Run, error: BaseException | None = None) -> GraphResult:
    """Return how a run ended; ``error`` is what one of its nodes raised."""
    outcome = error.outcome if isinstance(error, NodeStoppedError) else None
    if error is not None:
        # Without a checkpointer nobody can go on with a paused run: the outcome says that it waits, and for what.
        status = outcome.status if outcome is not None else Status.FAILED
    else:
        status = Status.PAUSED if run.paused else Status.COMPLETED
    frontier = run.frontier
    left = run.left if run.left is not None else (*(send.node for send in frontier.sends), *frontier.names)
    values = run.result()
    values.pop("__interrupt__", None)
    return GraphResult(
        status=status,
        values=values,
        run_id=run.settings.run_id,
        thread_id=run.settings.thread_id,
        interrupts=run.interrupts,
        next=() if status is Status.COMPLETED else left,
        error=error,
        outcome=outcome,
    )
