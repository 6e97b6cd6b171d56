"""The labels of what steps have put out, by tenant, run and step, as much as memory allows."""

from __future__ import annotations

from collections import OrderedDict

from meshflow.plugin import Confidentiality, Origin, TaintLabels

_MAX_SOURCES = 16
_MAX_TENANTS = 1_000


def join(one: TaintLabels, other: TaintLabels) -> TaintLabels:
    """Return the least label that covers both, with a bounded list of sources.

    Labels travel through loops of thousands of steps: an unbounded list of sources would grow with each.
    """
    if other.origin <= one.origin and other.confidentiality <= one.confidentiality and _covers(one, other):
        return one
    sources = tuple(dict.fromkeys(one.sources + other.sources))
    if len(sources) > _MAX_SOURCES:
        sources = (*[source for source in sources if source != "more"][: _MAX_SOURCES - 1], "more")
    return TaintLabels(max(one.origin, other.origin), max(one.confidentiality, other.confidentiality), sources)


def _covers(one: TaintLabels, other: TaintLabels) -> bool:
    return other.sources == one.sources or all(source in one.sources for source in other.sources)


def at_least(labels: TaintLabels, confidentiality: Confidentiality, source: str) -> TaintLabels:
    """Return the labels with the confidentiality raised, if it has to be."""
    if labels.confidentiality >= confidentiality:
        return labels
    return join(labels, TaintLabels(Origin.TRUSTED, confidentiality, (source,)))


class RunLabels:
    """The labels of one run: by step, and the join of all of them."""

    __slots__ = ("_max_steps", "_steps", "evicted", "mark")

    def __init__(self, max_steps: int) -> None:
        self._steps: OrderedDict[str, TaintLabels] = OrderedDict()
        self._max_steps = max_steps
        self.evicted = False
        self.mark: TaintLabels | None = None

    def of(self, step_id: str) -> TaintLabels | None:
        """Return a step's output labels. Once steps have been forgotten, the mark stands in: it covers each."""
        labels = self._steps.get(step_id)
        return self.mark if labels is None and self.evicted else labels

    def remember(self, step_id: str, labels: TaintLabels) -> None:
        """Join labels to a step's; all attempts at one step share an entry."""
        known = self._steps.pop(step_id, None)
        self._steps[step_id] = labels if known is None else join(known, labels)
        self.mark = labels if self.mark is None else join(self.mark, labels)
        if len(self._steps) > self._max_steps:
            self._steps.popitem(last=False)
            self.evicted = True


class LabelMemory:
    """The newest runs of each tenant. Runs of one tenant never push out, or are read by, those of another.

    One made with ``previous`` goes on with all that it remembers.
    """

    def __init__(self, max_runs: int, max_steps: int, previous: LabelMemory | None = None) -> None:
        self._tenants: OrderedDict[str, OrderedDict[str, RunLabels]] = (
            previous._tenants if previous is not None else OrderedDict()
        )
        self._max_runs = max_runs
        self._max_steps = max_steps

    def run(self, tenant: str, run_id: str) -> RunLabels | None:
        """Return what is known of a run, changing nothing."""
        runs = self._tenants.get(tenant)
        return None if runs is None else runs.get(run_id)

    def remember(self, tenant: str, run_id: str, step_id: str, labels: TaintLabels) -> None:
        """Keep a step's output labels, forgetting the runs that were used longest ago."""
        runs = self._tenants.get(tenant)
        if runs is None:
            runs = self._tenants[tenant] = OrderedDict()
            if len(self._tenants) > _MAX_TENANTS:
                self._tenants.popitem(last=False)
        else:
            self._tenants.move_to_end(tenant)
        run = runs.get(run_id)
        if run is None:
            run = runs[run_id] = RunLabels(self._max_steps)
            if len(runs) > self._max_runs:
                runs.popitem(last=False)
        else:
            runs.move_to_end(run_id)
        run.remember(step_id, labels)
