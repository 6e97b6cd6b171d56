"""Run steps in an environment and print what decided: `python probe.py '{"config": ..., "steps": [...]}'`.

Runs in the environment under test, so it imports nothing but what a user has installed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from meshflow import MeshflowError, NodeInput, StepRuntime
from meshflow.clock import ManualClock


def echo(value: Any) -> Any:
    return value


def served(runtime: StepRuntime) -> dict[str, list[list[str]]]:
    """Return name, distribution and version of each stage's providers."""
    return {
        choice.stage.name: [
            [slot.provider.name, slot.provider.distribution, slot.provider.version] for slot in choice.slots
        ]
        for choice in runtime.stages()
    }


async def probe(config: dict[str, Any], steps: list[dict[str, Any]], now_us: int | None) -> dict[str, Any]:
    clock = ManualClock(now_us) if now_us is not None else None
    outcomes = []
    async with StepRuntime(config=config, clock=clock) as runtime:
        for step in steps:
            outcome = await runtime.run(NodeInput(**{"node_id": "n", "handler": echo, **step}))
            record = outcome.record
            outcomes.append(
                {
                    "status": outcome.status.value,
                    "code": outcome.code,
                    "reason": outcome.reason,
                    "output": outcome.output,
                    "risk": record.risk,
                    "origin": record.origin,
                    "tenant": record.tenant_id,
                    "subject": record.principal.subject if record.principal is not None else None,
                    "plugins": {
                        stage: [result.plugin for result in outcome.results if result.stage == stage]
                        for stage in {result.stage for result in outcome.results}
                    },
                }
            )
        slowest = runtime.plugin("slowest").slowest_ns if "slowest" in runtime._core.providers else {}
        return {"served": served(runtime), "outcomes": outcomes, "slowest": slowest}


asked = json.loads(sys.argv[1])
try:
    print(json.dumps(asyncio.run(probe(asked.get("config", {}), asked.get("steps", []), asked.get("now_us")))))
except MeshflowError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
