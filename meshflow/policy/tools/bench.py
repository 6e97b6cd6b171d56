"""Measure how long an engine takes for one decision, and how many it makes a second."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

from meshflow.policy.answer import decision_from
from meshflow.policy.engine import PolicyEngine

_WARM_UP = 20


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured."""

    decisions: int
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    effect: str


async def measure(
    engine: PolicyEngine, rule: str, document: Mapping[str, Any], seconds: float, at_once: int = 1
) -> Timing:
    """Ask a started engine the same again and again, ``at_once`` callers side by side, for a time."""
    answer = await engine.evaluate(rule, document)
    for _ in range(_WARM_UP):
        await engine.evaluate(rule, document)
    begun = perf_counter_ns()
    end = begun + int(seconds * 1e9)
    taken: list[int] = []

    async def caller() -> None:
        while (start := perf_counter_ns()) < end:
            await engine.evaluate(rule, document)
            taken.append(perf_counter_ns() - start)
            await asyncio.sleep(0)

    await asyncio.gather(*(caller() for _ in range(at_once)))
    elapsed = perf_counter_ns() - begun
    taken.sort()
    p50, p95, p99 = (taken[min(len(taken) - 1, int(len(taken) * share))] / 1e6 for share in (0.5, 0.95, 0.99))
    effect = decision_from(answer, "policy_evaluation.", {}).effect.value
    return Timing(len(taken), len(taken) * 1e9 / elapsed, p50, p95, p99, effect)
