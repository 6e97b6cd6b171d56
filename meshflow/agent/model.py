"""A model whose every request passes the kernel before it is sent, and every answer before it is used."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings

from meshflow.agent.pricing import Pricing, json_size, request_tokens
from meshflow.agent.reply import GovernedReply, Source
from meshflow.agent.run import AgentRun, RunStopped
from meshflow.agent.view import RequestView, media_in, response_from, response_view, response_with
from meshflow.step import Metered, NodeInput


class GovernedModel(WrapperModel):
    """Wraps the model of one run."""

    def __init__(self, wrapped: Model, run: AgentRun, pricing: Pricing, max_tokens: int) -> None:
        super().__init__(wrapped)
        self._run = run
        self._pricing = pricing
        self._max_tokens = max_tokens

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Ask the model in a step; RunStopped when the step does not complete."""
        view, settings = RequestView(messages, model_request_parameters), self._bounded(model_settings)
        replies: list[ModelResponse] = []

        async def ask(given: Any) -> Metered:
            restored, parameters = view.restored(given)
            reply = await self.wrapped.request(restored, settings, parameters)
            replies.append(reply)
            return Metered(response_view(reply), self._pricing.spent(reply), reply.usage.total_tokens)

        outcome = await self._run.run(self._step(messages, view, settings, ask))
        if not outcome.ok:
            self._run.stopped = outcome
            raise RunStopped(outcome)
        # An answer that a person has released comes from the ledger, and was asked for long ago.
        if not replies:
            return response_from(outcome.output, self.model_name)
        return response_with(replies[-1], outcome.output)

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: Any = None,
    ) -> AsyncGenerator[StreamedResponse]:
        """Ask the model in a step that streams; what is read from it is what the output guardrails released."""
        view, settings = RequestView(messages, model_request_parameters), self._bounded(model_settings)
        source = Source()

        async def ask(given: Any) -> AsyncIterator[Any]:
            restored, parameters = view.restored(given)
            async with self.wrapped.request_stream(restored, settings, parameters, run_context) as reply:
                async for part in source.read(reply):
                    yield part
                whole = reply.get()
                yield Metered(None, self._pricing.spent(whole), whole.usage.total_tokens)

        stream = self._run.stream(self._step(messages, view, settings, ask))
        async with stream:
            yield GovernedReply(
                model_request_parameters, stream=stream, source=source, run=self._run, name=self.model_name
            )

    def _step(self, messages: list[ModelMessage], view: RequestView, settings: ModelSettings, ask: Any) -> NodeInput:
        number = sum(isinstance(message, ModelResponse) for message in messages)
        asked = request_tokens(json_size(view.document), media_in(messages))
        return self._run.model_step(
            number, node_id=f"{self._run.template.node_id}.model", action=self.wrapped.model_id, input=view.document,
            handler=ask, estimate_usd=self._pricing.bound(asked, int(settings["max_tokens"])),
            estimate_tokens=asked + int(settings["max_tokens"]),
        )  # fmt: skip

    def _bounded(self, settings: ModelSettings | None) -> ModelSettings:
        """Return the settings with a bound on the answer, which the reservation rests on."""
        given: Any = dict(settings or {})
        asked = given.get("max_tokens")
        given["max_tokens"] = min(asked, self._max_tokens) if isinstance(asked, int) else self._max_tokens
        bounded: ModelSettings = given
        return bounded
