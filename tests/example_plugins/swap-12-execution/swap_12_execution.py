"""Stage 12: runs the handler as the default executor does, and shouts its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from meshflow.plugin import Decision, Execution, StepContext, hookimpl
from meshflow_executor import ExecutorPlugin


class LoudExecutor(ExecutorPlugin):
    """Time-outs, retries and streams are those of the default."""

    @hookimpl
    async def execute_step(self, context: StepContext) -> Execution | Decision | None:
        answer = await super().execute_step(context)
        if not isinstance(answer, Execution) or answer.failure_code:
            return answer
        if answer.stream is not None:
            return replace(answer, stream=shouted(answer.stream))
        return replace(answer, output=loud(answer.output))


def loud(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


async def shouted(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
    try:
        async for part in stream:
            yield loud(part)
    finally:
        await stream.aclose()  # type: ignore[attr-defined]
