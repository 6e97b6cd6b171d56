"""``meshflow policy eval`` and ``meshflow policy bench``."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshflow.cli.exits import ExitCode
from meshflow.cli.options import Chosen
from meshflow.cli.output import flat, line, ms, print_json, print_pairs
from meshflow.cli.policy_bundle import chosen_bundle, chosen_engine, document_from, entry_of
from meshflow.errors import ConfigError

if TYPE_CHECKING:
    from meshflow.decision import Decision
    from meshflow.policy import PolicyEngine

_EXIT = {"deny": ExitCode.FAILED, "escalate": ExitCode.PAUSED}


def evaluate_policy(
    options: Chosen, path: Path | None, data: Path | None, engine: str | None, stage: str, given: str | None,
    *, fail_on_denied: bool,
) -> ExitCode:  # fmt: skip
    """Print the decision of a bundle."""
    document = document_from(given, stage)
    evaluator = chosen_engine(options, chosen_bundle(options, path, data), engine)
    decision = asyncio.run(_decided(evaluator, stage, document))
    if options.as_json:
        print_json(decision_document(decision))
    else:
        print_decision(decision)
    return _EXIT.get(decision.effect.value, ExitCode.OK) if fail_on_denied else ExitCode.OK


def print_decision(decision: Decision) -> None:
    """Print a decision in lines."""
    print_pairs(
        [
            ("effect", decision.effect.value),
            ("code", decision.code),
            ("reason", decision.reason),
            ("obligations", ", ".join(f"{duty.name}({line(flat(duty.parameters))})" for duty in decision.obligations)),
            *((name, flat(value)) for name, value in decision.evidence.items()),
        ]
    )


def decision_document(decision: Decision) -> dict[str, Any]:
    """Return a decision as JSON values."""
    return {
        "effect": decision.effect.value,
        "code": decision.code,
        "reason": decision.reason,
        "obligations": [{"name": duty.name, "parameters": dict(duty.parameters)} for duty in decision.obligations],
        "evidence": dict(decision.evidence),
    }


async def _decided(engine: PolicyEngine, stage: str, document: dict[str, Any]) -> Decision:
    from meshflow.policy import decision_from

    entry = entry_of(stage)
    async with _Started(engine, stage):
        answer = await engine.evaluate(entry.rule, document)
    evidence = {"engine": f"{engine.name} {engine.version}", "bundle_digest": engine.bundle_digest}
    return decision_from(answer, f"{stage}.", evidence)


class _Started:
    """An engine from its start to its close, for an entry point that its bundle has."""

    def __init__(self, engine: PolicyEngine, stage: str) -> None:
        self._engine = engine
        self._stage = stage

    async def __aenter__(self) -> None:
        await self._engine.start()
        rule = entry_of(self._stage).rule
        if not self._engine.has(rule):
            await self._engine.close()
            raise ConfigError(f"the bundle has no rule {rule}; name another entry point with --stage")

    async def __aexit__(self, *_: object) -> None:
        await self._engine.close()


def bench_policy(
    options: Chosen, path: Path | None, data: Path | None, engine: str | None, stage: str, given: str | None,
    seconds: float, at_once: int,
) -> None:  # fmt: skip
    """Print how long decisions take."""
    from meshflow.policy.tools.bench import Timing, measure

    document = document_from(given, stage)
    evaluator = chosen_engine(options, chosen_bundle(options, path, data), engine)

    async def run() -> Timing:
        async with _Started(evaluator, stage):
            return await measure(evaluator, entry_of(stage).rule, document, seconds, at_once)

    timing = asyncio.run(run())
    if options.as_json:
        print_json({"engine": f"{evaluator.name} {evaluator.version}", "stage": stage, **asdict(timing)})
        return
    print_pairs(
        [
            ("engine", f"{evaluator.name} {evaluator.version}"),
            ("decisions", f"{timing.decisions:,}"),
            ("a second", f"{timing.per_second:,.0f}"),
            ("p50, ms", ms(timing.p50_ms)),
            ("p95, ms", ms(timing.p95_ms)),
            ("p99, ms", ms(timing.p99_ms)),
            ("effect", timing.effect),
        ]
    )
