"""Objectives: promises about latency over a window of steps, and how often they were broken."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any

from meshflow.plugin import StepRecord
from meshflow_sla.settings import Objective

log = logging.getLogger("meshflow.sla")


class Watch:
    """Follows one objective. A breach is logged when it begins and when it ends, not with every step in between."""

    __slots__ = ("_late", "_limit_ns", "_match", "_window", "breached", "breaches", "objective")

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.breached = False
        self.breaches = 0
        self._match = objective.match
        self._limit_ns = int(objective.under_ms * 1_000_000)
        self._window: deque[bool] = deque()
        self._late = 0

    @property
    def late_share(self) -> float:
        """Which share of the window was late."""
        return self._late / len(self._window) if self._window else 0.0

    def add(self, record: StepRecord, agent: str) -> bool:
        """Look at a step; return whether a breach begins with it."""
        match = self._match
        if (
            (match.node is not None and match.node != record.node_id)
            or (match.tool is not None and match.tool != record.tool)
            or (match.tenant is not None and match.tenant != record.tenant_id)
            or (match.agent is not None and match.agent != agent)
        ):
            return False
        late = record.duration_ns > self._limit_ns
        window = self._window
        window.append(late)
        self._late += late
        if len(window) > self.objective.window:
            self._late -= window.popleft()
        return self._judge(len(window))

    def _judge(self, seen: int) -> bool:
        if seen < self.objective.min_steps:
            return False
        # In whole steps: 1 - 0.99 is a little more than 0.01, and one late step in a hundred keeps p99.
        allowed = int(seen * (1 - self.objective.p) + 1e-9)
        breached, before = self._late > allowed, self.breached
        self.breached = breached
        if breached and not before:
            self.breaches += 1
            log.warning(
                "objective %s is breached: %d of the last %d steps took more than %g ms; %d may",
                self.objective.name, self._late, seen, self.objective.under_ms, allowed,
            )  # fmt: skip
            return True
        if before and not breached:
            log.info("objective %s is met again", self.objective.name)
        return False

    def to_dict(self) -> dict[str, Any]:
        """Return how the objective stands."""
        return {
            "p": self.objective.p,
            "under_ms": self.objective.under_ms,
            "steps": len(self._window),
            "late": self._late,
            "breached": self.breached,
            "breaches": self.breaches,
        }
