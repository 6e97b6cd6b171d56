from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.usage import RequestUsage

from meshflow import ReplayLedger
from meshflow.agent import Agent

Script = list[ModelResponse]


class Scripted:
    """A model that gives the answers it was handed, one a request, and keeps what it was sent."""

    def __init__(self, *answers: ModelResponse) -> None:
        self.answers = list(answers)
        self.sent: list[list[ModelMessage]] = []
        self.model = FunctionModel(self._answer)

    def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.sent.append(list(messages))
        number = sum(isinstance(message, ModelResponse) for message in messages)
        return self.answers[number]

    def returns(self) -> list[Any]:
        """What the tools told the model in its newest request."""
        return [part.content for part in self.sent[-1][-1].parts if isinstance(part, ToolReturnPart)]


def calls(*asked: tuple[str, dict[str, Any]]) -> ModelResponse:
    """Return an answer that calls tools, with ids c0, c1, ..."""
    return ModelResponse([ToolCallPart(name, arguments, f"c{place}") for place, (name, arguments) in enumerate(asked)])


def says(text: str, usage: RequestUsage | None = None) -> ModelResponse:
    return ModelResponse([TextPart(text)], usage=usage or RequestUsage())


@pytest.fixture
async def ledger() -> AsyncIterator[ReplayLedger]:
    async with ReplayLedger(":memory:", key=None) as opened:
        yield opened


@pytest.fixture
async def make(ledger: ReplayLedger) -> AsyncIterator[Callable[..., Agent]]:
    made: list[Agent] = []

    def agent(model: Any, **options: Any) -> Agent:
        given = {} if "runtime" in options else {"ledger": ledger}
        made.append(Agent(options.pop("name", "bot"), model=getattr(model, "model", model), **given, **options))
        return made[-1]

    yield agent
    for one in made:
        await one.aclose()


@pytest.fixture
def script() -> type[Scripted]:
    return Scripted
