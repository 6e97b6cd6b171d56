"""What a model call costs and may cost, by genai-prices or by a price that the application gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

from meshflow.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_ai.messages import ModelResponse
    from pydantic_ai.models import Model

_PER_MILLION = Decimal(1_000_000)
_BYTES_PER_TOKEN = 3
_OVERHEAD_TOKENS = 512
_PICTURE_TOKENS = 6_000
"""More than the providers that are known count for one picture."""
_MEDIA_BYTES_PER_TOKEN = 4

Spent = Callable[[int, int], Decimal | None]


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """USD for a million tokens, as providers state it."""

    input_usd_per_million: Decimal | float | int | str
    output_usd_per_million: Decimal | float | int | str

    def __post_init__(self) -> None:
        for name in ("input_usd_per_million", "output_usd_per_million"):
            value = Decimal(str(getattr(self, name)))
            if not value.is_finite() or value < 0:
                raise ConfigError("a price is a finite number of USD, not negative", where=f"TokenPrice.{name}")

    def of(self, input_tokens: int, output_tokens: int) -> Decimal:
        """Return the price of so many tokens."""
        into, out = Decimal(str(self.input_usd_per_million)), Decimal(str(self.output_usd_per_million))
        return (into * input_tokens + out * output_tokens) / _PER_MILLION


FREE = TokenPrice(0, 0)


def json_size(value: Any) -> int:
    """Return about how many bytes a value takes as JSON, whatever is in it."""
    try:
        return len(orjson.dumps(value, default=str))
    except TypeError:  # whole numbers beyond 64 bits, lone surrogates
        return len(json.dumps(value, default=str))


def request_tokens(request_bytes: int, media: Iterable[Mapping[str, Any]]) -> int:
    """Return about how many tokens a request takes at most: three bytes a token, and its media.

    Text of rare scripts can take more than that; the over-run is then recorded, and blocks the next call.
    """
    return request_bytes // _BYTES_PER_TOKEN + _media_tokens(media)


def _media_tokens(media: Iterable[Mapping[str, Any]]) -> int:
    """Return about how many tokens media take at most: a picture by count, and what is longer by its bytes.

    What only an address is known of counts as a picture.
    """
    total = 0
    for one in media:
        size, picture = one.get("bytes"), str(one.get("media_type", "")).startswith("image/")
        long = size // _MEDIA_BYTES_PER_TOKEN if isinstance(size, int) and not picture else 0
        total += max(_PICTURE_TOKENS, long)
    return total


class Pricing:
    """Prices the calls of one model. A model whose price nobody knows is a ConfigError, not a call for nothing.

    A call of a FallbackModel may cost what the dearest of its models may.
    """

    def __init__(self, model: Model, price: TokenPrice | None, *, where: str = "Agent") -> None:
        self._models = _asked(model)
        self._price = price if price is not None else FREE if all(map(_offline, self._models)) else None
        for one in self._models if self._price is None else ():
            if _listed(one, 1, 1) is None:
                raise ConfigError(
                    f"nobody knows the price of model {one.model_id!r}; give it with price=TokenPrice(input, output) "
                    "in USD for a million tokens",
                    where=where,
                )

    def bound(self, request_tokens: int, max_tokens: int) -> Decimal:
        """Return what a call may cost: its request, and every token of the answer it may have."""
        return self._of(request_tokens + _OVERHEAD_TOKENS, max_tokens) or Decimal(0)

    def spent(self, reply: ModelResponse) -> Decimal | None:
        """Return what an answer cost; None where it does not say, and then all that was reserved is spent."""
        if self._price is not None:
            return self._price.of(reply.usage.input_tokens, reply.usage.output_tokens)
        try:
            return reply.cost().total_price
        except (LookupError, ValueError, AssertionError):
            return None

    def _of(self, input_tokens: int, output_tokens: int) -> Decimal | None:
        if self._price is not None:
            return self._price.of(input_tokens, output_tokens)
        return max(_listed(one, input_tokens, output_tokens) or Decimal(0) for one in self._models)


def _listed(model: Model, input_tokens: int, output_tokens: int) -> Decimal | None:
    from genai_prices import Usage, calc_price

    if _offline(model):
        return Decimal(0)
    usage = Usage(input_tokens=input_tokens, output_tokens=output_tokens)
    try:
        return calc_price(usage, model.model_name, provider_id=model.system).total_price
    except LookupError:
        return None


def _asked(model: Model) -> tuple[Model, ...]:
    """Return the models that a model may ask, through whatever wraps them: prices are looked up by their name."""
    from pydantic_ai.models.fallback import FallbackModel
    from pydantic_ai.models.wrapper import WrapperModel

    if isinstance(model, FallbackModel):
        return tuple(one for member in model.models for one in _asked(member))
    return _asked(model.wrapped) if isinstance(model, WrapperModel) else (model,)


def _offline(model: Model) -> bool:
    """Say whether a model calls nobody; a class made from one may call anybody."""
    from pydantic_ai.models.function import FunctionModel
    from pydantic_ai.models.test import TestModel

    return type(model) in (FunctionModel, TestModel)
