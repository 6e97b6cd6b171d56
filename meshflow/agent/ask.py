"""One request to a model outside of any conversation: what a workflow's model node runs as its step."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from meshflow.agent.library import need_pydantic_ai
from meshflow.agent.pricing import Pricing, TokenPrice, json_size, request_tokens
from meshflow.errors import ConfigError
from meshflow.step import Metered

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelMessage

_NO_ANSWER = {
    "length": "was cut off at max_tokens",
    "content_filter": "was withheld by the provider",
    "error": "ended in an error of the provider",
}


class AnswerError(Exception):
    """A model's answer that is none, or not all of it; it has cost what it cost."""

    def __init__(self, message: str, cost_usd: Decimal | None, tokens: int) -> None:
        self.cost_usd = cost_usd
        self.tokens = tokens
        super().__init__(message)


class ModelCall:
    """Asks a model of pydantic-ai: the handler of a step, and what the step may cost.

    ``model`` is a name such as ``openai:gpt-5`` or a model object. A model that is not there, or whose price nobody
    knows, is a ConfigError when this is made.
    """

    def __init__(self, model: Any, *, price: TokenPrice | None = None, max_tokens: int = 4_096) -> None:
        need_pydantic_ai()
        from pydantic_ai.exceptions import UserError
        from pydantic_ai.models import infer_model

        try:
            self._model = infer_model(model)
        except (UserError, ImportError, ValueError) as error:
            raise ConfigError(f"model {str(model)[:80]!r} cannot be used: {error}", where="model") from None
        self._pricing = Pricing(self._model, price, where="model")
        self._max_tokens = max_tokens

    @property
    def model_id(self) -> str:
        """The model's full name, ``provider:model``."""
        return self._model.model_id

    def estimate(self, given: Any) -> tuple[Decimal, int]:
        """Return what asking may cost at most, in USD and in tokens."""
        asked = request_tokens(json_size(given), ())
        return self._pricing.bound(asked, self._max_tokens), asked + self._max_tokens

    async def __call__(self, given: Any) -> Metered:
        """Ask, and return the answer's text with its cost; AnswerError where it is not whole.

        ``given`` is the prompt, or a mapping of ``instructions`` and ``prompt``. What is not text is sent as JSON.
        """
        from pydantic_ai.direct import model_request

        reply = await model_request(self._model, [_request(given)], model_settings={"max_tokens": self._max_tokens})
        cost, tokens = self._pricing.spent(reply), reply.usage.total_tokens
        problem = _NO_ANSWER.get(reply.finish_reason or "", "" if reply.text is not None else "has no text")
        if problem:
            raise AnswerError(f"the answer of {self.model_id} {problem}", cost, tokens)
        return Metered(reply.text, cost, tokens)


def _request(given: Any) -> ModelMessage:
    from pydantic_ai.messages import ModelRequest, SystemPromptPart, UserPromptPart

    instructions, prompt = None, given
    if isinstance(given, Mapping) and given.keys() == {"instructions", "prompt"}:
        instructions, prompt = given["instructions"], given["prompt"]
    asked = UserPromptPart(prompt if isinstance(prompt, str) else orjson.dumps(prompt).decode())
    return ModelRequest([asked] if instructions is None else [SystemPromptPart(str(instructions)), asked])
