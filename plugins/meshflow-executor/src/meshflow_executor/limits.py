"""The limits of a step: the tool's own where it has some, else the general ones."""

from __future__ import annotations

import random
from dataclasses import dataclass

from meshflow.plugin import NodeInput, RiskTier, StepContext
from meshflow_executor.settings import Circuit, ExecutorSettings, Retry


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for one tool or, as the general limits, for every step without an entry."""

    timeout_ms: int
    retry: Retry
    circuit: Circuit
    max_concurrent: int | None

    def timeout_of(self, step: NodeInput) -> int | None:
        """Return the step's time in milliseconds, or None where it asks for nonsense. A step can only lower it."""
        asked = step.timeout_ms
        if asked is None:
            return self.timeout_ms
        if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
            return None
        return min(asked, self.timeout_ms)

    def may_retry(self, context: StepContext, error: BaseException | None, tries: int) -> bool:
        """Say whether a failed call may be made again. A step with effects never is, unless it is idempotent."""
        if tries >= self.retry.max_attempts or not isinstance(error, Exception):
            return False
        idempotent = context.step.idempotent
        if idempotent is None:
            idempotent = context.risk is RiskTier.READ_ONLY
        if idempotent is not True:
            return False
        names = self.retry.on
        return not names or any(base.__name__ in names for base in type(error).__mro__)

    def wait_s(self, tries: int) -> float:
        """Return the seconds to wait after ``tries`` calls: doubling up to the cap, a share of it random."""
        wait_ms = min(self.retry.backoff_ms << min(tries - 1, 32), self.retry.max_backoff_ms)
        return wait_ms / 1_000 * (1 - self.retry.jitter * random.random())


class LimitsByTool:
    """Finds the limits of a step."""

    def __init__(self, settings: ExecutorSettings) -> None:
        self._general = Limits(settings.timeout_ms, settings.retry, settings.circuit, settings.max_concurrent)
        self._tools = {
            name: Limits(
                settings.timeout_ms if tool.timeout_ms is None else tool.timeout_ms,
                settings.retry if tool.retry is None else tool.retry,
                settings.circuit if tool.circuit is None else tool.circuit,
                settings.max_concurrent if tool.max_concurrent is None else tool.max_concurrent,
            )
            for name, tool in settings.tools.items()
        }

    def of(self, step: NodeInput) -> Limits:
        """Return the limits of the step's tool, or the general ones."""
        return self._tools.get(step.tool, self._general) if step.tool else self._general
