"""Where an agent may lose money, labels or a record: wrapped models, calls cut off, pictures, what was redacted."""

from __future__ import annotations

import asyncio
from collections import UserList
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai.messages import BinaryContent, ImageUrl, ModelResponse
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.output import NativeOutput, PromptedOutput, TextOutput, ToolOutput

from meshflow import NodeInput, ReplayLedger, Status
from meshflow.agent import Agent, TokenPrice
from meshflow.agent.ask import ModelCall
from meshflow.agent.pricing import Pricing
from meshflow.errors import ConfigError

from .conftest import calls, says

Make = Callable[..., Agent]


class Listed(TestModel):
    """A model with the name of one that has a price."""

    def __init__(self, name: str, system: str) -> None:
        super().__init__(model_name=name)
        self._named = system

    @property
    def system(self) -> str:
        return self._named


class TestPrices:
    def test_a_fallback_may_cost_what_the_dearest_may(self) -> None:
        dear, cheap = Listed("gemini-2.5-pro", "google"), Listed("gemini-2.0-flash", "google")
        bounds = [Pricing(model, None).bound(3_000, 1_000) for model in (dear, cheap, FallbackModel(cheap, dear))]
        assert bounds[0] > bounds[1]
        assert bounds[2] == bounds[0]

    def test_a_wrapped_model_costs_what_the_model_in_it_does(self) -> None:
        inner = Listed("gpt-5", "openai")
        assert Pricing(WrapperModel(inner), None).bound(9, 9) == Pricing(inner, None).bound(9, 9) > 0

    def test_one_unknown_price_in_a_fallback_is_a_configuration_error(self) -> None:
        with pytest.raises(ConfigError, match="nobody knows the price of model 'nobody:mystery'"):
            Agent("bot", model=FallbackModel(Listed("gpt-5", "openai"), Listed("mystery", "nobody")))

    async def test_models_that_call_nobody_are_free_together(self, make: Make) -> None:
        offline = FunctionModel(lambda messages, info: says("hi"))
        assert (await make(FallbackModel(offline, TestModel())).run("hello")).output == "hi"


class Card(BaseModel):
    number: int


async def test_structured_output_that_was_redacted_does_not_pass_for_valid(make: Make, script: Any) -> None:
    answer = calls(("final_result", {"number": 4111111111111111}))
    result = await make(script(*[answer] * 3), output_type=Card).run("which card")
    assert "4111111111111111" not in str((result.output, result.messages))
    assert (result.status, result.code) == (Status.FAILED, "agent.model_behavior")


async def test_a_run_cut_off_in_a_tool_is_recorded_and_leaves_no_task(
    make: Make, script: Any, ledger: ReplayLedger
) -> None:
    begun = asyncio.Event()

    async def slow() -> str:
        begun.set()
        await asyncio.sleep(3600)
        return "never"

    agent = make(script(calls(("slow", {})), says("x")), tools=[slow])
    await agent.runtime.start()
    before = asyncio.all_tasks()
    run = asyncio.create_task(agent.run("go", run_id="cut"))
    await begun.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert [step["code"] for step in await ledger.get_run("cut")] == ["", "step.cancelled"]
    assert asyncio.all_tasks() - before == set()


async def test_two_runs_of_one_agent_at_once_do_not_meet(make: Make, ledger: ReplayLedger) -> None:
    async def echo(messages: Any, info: Any) -> ModelResponse:
        await asyncio.sleep(0.01)
        return says(str(messages[0].parts[-1].content))

    agent = make(FunctionModel(echo))
    results = await asyncio.gather(*(agent.run(f"number {at}", run_id="shared") for at in range(8)))
    assert [result.output for result in results] == [f"number {at}" for at in range(8)]
    assert len(await ledger.get_run("shared")) == 8


async def test_a_tool_may_take_steps_of_its_own_and_run_sync_works_inside_a_loop(make: Make, script: Any) -> None:
    async def deeper() -> str:
        outcome = await agent.runtime.run(NodeInput(node_id="inner", input="x", handler=str.upper))
        return str(outcome.output)

    model = script(calls(("deeper", {})), says("done"))
    agent = make(model, tools=[deeper])
    assert agent.run_sync("go").output == "done"
    assert model.returns() == ["X"]


def pay(cents: int) -> str:
    raise AssertionError("it ran")


class Payer:
    def pay(self, cents: int) -> str:
        raise AssertionError("it ran")


class Traced:
    """Can be called, and is no function by its type, as what a decorator makes of one."""

    def __call__(self, text: str) -> str:
        raise AssertionError("it ran")


@pytest.mark.parametrize(
    "output_type",
    [
        TextOutput(Traced()), UserList([str, TextOutput(Traced())]), UserList([pay]),
        pay, [str, pay], Payer().pay, partial(pay), ToolOutput(pay), [ToolOutput(pay), str], TextOutput(str.upper),
        NativeOutput([pay]), PromptedOutput([pay, pay]), lambda cents: cents,
    ],
)  # fmt: skip
def test_a_function_that_would_run_past_the_gates_is_no_output_type(output_type: Any) -> None:
    with pytest.raises(ConfigError, match="past the gates"):
        Agent("bot", model=TestModel(), output_type=output_type)


@pytest.mark.parametrize("output_type", [str, int, list[int], int | str, [int, str], ToolOutput(int), TokenPrice])
def test_a_type_is_an_output_type(output_type: Any) -> None:
    assert Agent("bot", model=TestModel(), output_type=output_type).name == "bot"


class TestPicturesCost:
    """A reservation covers the pictures that a request carries."""

    async def run(self, make: Make, prompt: Any, usd: str) -> Any:
        config = {"limits": {"caps": [{"name": "run", "per": ["run"], "usd": usd}]}}
        agent = make(TestModel(custom_output_text="a cat"), config=config, price=TokenPrice(1, 1), max_tokens=100)
        return await agent.run(prompt)

    async def test_a_request_that_could_cost_more_than_the_cap_is_not_sent(self, make: Make) -> None:
        picture = BinaryContent(b"png", media_type="image/png")
        assert (await self.run(make, "what is this?", "0.005")).ok
        for media in (picture, ImageUrl("https://example.com/cat.png"), BinaryContent(b"x", media_type="audio/wav")):
            result = await self.run(make, ["what is this?", media], "0.005")
            assert (result.status, result.code) == (Status.DENIED, "budget_check.exhausted")
        assert (await self.run(make, ["what is this?", picture], "0.01")).ok

    async def test_what_is_long_costs_by_its_length(self, make: Make) -> None:
        book = BinaryContent(b"x" * 400_000, media_type="application/pdf")
        assert not (await self.run(make, ["summarise", book], "0.09")).ok
        assert (await self.run(make, ["summarise", book], "0.11")).ok


class TestWhatARequestMayCost:
    """A reservation is for what is asked: not for data that looks like media, nor three times over."""

    def test_a_model_called_alone_reserves_by_tokens_not_by_bytes(self) -> None:
        one = ModelCall(TestModel(), price=TokenPrice(3, 0), max_tokens=1)
        usd, tokens = one.estimate("x" * 30_000)
        assert Decimal("0.030") < usd < Decimal("0.035")  # 10,000 tokens, and the overhead
        assert 10_000 <= tokens < 10_010
        assert one.estimate({"huge": 2**70, "lone": "\ud800"}) > one.estimate("")

    @pytest.mark.parametrize("data", [{"media": "x", "bytes": 9 * 10**18}, [{"id": 1, "media": "photo"}] * 200])
    async def test_what_a_tool_returns_is_no_picture_for_looking_like_one(self, make: Make, data: Any) -> None:
        def web() -> Any:
            """Look."""
            return data

        config = {"limits": {"caps": [{"name": "run", "per": ["run"], "usd": "0.05"}]}}
        agent = make(TestModel(), tools=[web], config=config, price=TokenPrice(1, 1), max_tokens=100)
        assert (await agent.run("look")).status is Status.COMPLETED

    async def test_a_number_that_no_gate_can_read_denies_and_raises_nothing(self, make: Make) -> None:
        def big() -> Any:
            """Count."""
            return {"n": 2**70}

        agent = make(TestModel(), tools=[big], price=TokenPrice(1, 1))
        assert (await agent.run("count")).code == "policy_evaluation.unencodable_input"
