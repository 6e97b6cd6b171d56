"""An agent's answer while it is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from pydantic_ai import capture_run_messages
from pydantic_ai.messages import ModelMessage, PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta

from meshflow.agent.drive import finished, options, stopped
from meshflow.agent.result import AgentResult
from meshflow.agent.run import AgentRun

if TYPE_CHECKING:
    from meshflow.agent.agent import Agent

_END = object()


class AgentStream(AsyncIterator[str]):
    """The text of a run's answers, as the output guardrails release it; ``result`` once it has ended.

    Iteration ends however the run ended: look at ``result.status``. The run goes on in a task of its own, at most a few
    parts ahead of whoever reads; closing early cancels it.
    """

    def __init__(self, agent: Agent, run: AgentRun, prompt: Any, history: list[ModelMessage]) -> None:
        self._agent, self._run, self._prompt, self._history = agent, run, prompt, history
        self._parts: asyncio.Queue[Any] = asyncio.Queue(maxsize=64)
        self._task: asyncio.Task[AgentResult] | None = None
        self._result: AgentResult | None = None
        self._closed = False

    @property
    def result(self) -> AgentResult:
        """How the run ended; RuntimeError while it goes on."""
        if self._result is None:
            raise RuntimeError("the stream has not ended; read it to its end first")
        return self._result

    def __aiter__(self) -> AgentStream:
        return self

    async def __anext__(self) -> str:
        if self._result is not None or self._closed:
            raise StopAsyncIteration
        if self._task is None:
            self._task = asyncio.create_task(self._drive())
        part = await self._parts.get()
        if part is _END:
            self._result = await self._task
            raise StopAsyncIteration
        return str(part)

    async def _drive(self) -> AgentResult:
        given = options(self._agent, self._run, self._history, None)
        try:
            with capture_run_messages() as messages:
                try:
                    ended = await self._agent._inner.run(self._prompt, event_stream_handler=self._take, **given)
                except Exception as error:
                    return stopped(self._agent, self._run, error, list(messages) or self._history)
            return finished(self._agent, self._run, ended.output, ended.all_messages())
        except asyncio.CancelledError:
            if self._parts.full():  # nobody reads any more, or whoever does is told below that the rest will not come
                self._parts.get_nowait()
            raise
        finally:
            await self._parts.put(_END)

    async def _take(self, context: Any, events: AsyncIterator[Any]) -> None:
        async for event in events:
            if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart) and event.part.content:
                await self._parts.put(event.part.content)
            elif isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
                await self._parts.put(event.delta.content_delta)

    async def aclose(self) -> None:
        """Stop the run, if it has not ended."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
