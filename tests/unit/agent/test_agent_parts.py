"""Parts of answers that are no text: pictures, native tools, thoughts; whole and streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic_ai import BinaryContent, BinaryImage
from pydantic_ai.messages import (
    FilePart,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    NativeToolCallPart,
    NativeToolReturnPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters, StreamedResponse
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.native_tools import WebSearchTool
from pydantic_ai.usage import RequestUsage

from meshflow import Policy, ReplayLedger, Status
from meshflow.agent import Agent, TokenPrice
from meshflow.agent.view import RequestView, ViewError, response_from, response_view, response_with

Make = Callable[..., Agent]
CARD = ("4111 1111", " 1111 1111")
CAT = BinaryImage(b"\x89PNG cat", media_type="image/png")
DOG = BinaryImage(b"\x89PNG dog", media_type="image/png")


@dataclass
class Streamed(StreamedResponse):
    """A provider's stream of whole parts, and of texts in pieces."""

    parts: list[Any] = field(default_factory=list)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    async def _get_event_iterator(self) -> AsyncIterator[Any]:
        for number, part in enumerate(self.parts):
            if isinstance(part, str):
                for event in self._parts_manager.handle_text_delta(vendor_part_id=number, content=part):
                    yield event
            else:
                yield self._parts_manager.handle_part(vendor_part_id=number, part=part)
        self._usage = RequestUsage(input_tokens=11, output_tokens=22)
        self.finish_reason = "stop"
        self.provider_response_id = "resp-1"

    async def close_stream(self) -> None:
        pass

    model_name = "parts"  # type: ignore[assignment]
    provider_name = None  # type: ignore[assignment]
    provider_url = None  # type: ignore[assignment]

    @property
    def timestamp(self) -> datetime:
        return self.at


class PartsModel(FunctionModel):
    """Answers with the parts it was given, one list a request; streamed or whole."""

    def __init__(self, *answers: list[Any]) -> None:
        super().__init__(self._whole, stream_function=self._never)
        self.answers = list(answers)
        self.sent: list[Any] = []

    def _next(self, messages: Any) -> list[Any]:
        self.sent.append(list(messages))
        return self.answers[sum(isinstance(message, ModelResponse) for message in messages)]

    def _whole(self, messages: Any, info: Any) -> ModelResponse:
        return ModelResponse([TextPart(part) if isinstance(part, str) else part for part in self._next(messages)])

    async def _never(self, messages: Any, info: Any) -> AsyncIterator[str]:
        yield ""

    @asynccontextmanager
    async def request_stream(self, messages: Any, settings: Any, parameters: Any, context: Any = None) -> Any:
        yield Streamed(parameters, parts=self._next(messages))


FREE = TokenPrice(0, 0)


async def streamed(agent: Agent) -> tuple[str, Any]:
    async with agent.stream("go") as stream:
        text = "".join([part async for part in stream])
    return text, stream.result


def parts_of(result: Any) -> list[Any]:
    messages = ModelMessagesTypeAdapter.validate_python(result.messages)
    return [part for message in messages if isinstance(message, ModelResponse) for part in message.parts]


ANSWER = [
    ThinkingPart("let me see", signature="sig", provider_name="function"),
    NativeToolCallPart("web_search", {"query": "cats"}, tool_call_id="n1", provider_name="function"),
    NativeToolReturnPart("web_search", {"found": 3}, "n1", provider_name="function"),
    FilePart(CAT),
    "a cat",
]


class TestStreamedParts:
    async def test_nothing_of_an_answer_is_lost(self, make: Make) -> None:
        text, result = await streamed(make(PartsModel(ANSWER), price=FREE))
        assert (text, result.output, result.status) == ("a cat", "a cat", Status.COMPLETED)
        assert parts_of(result) == [*ANSWER[:4], TextPart("a cat")]

    async def test_it_is_the_same_streamed_and_whole(self, make: Make) -> None:
        _, one = await streamed(make(PartsModel(ANSWER), price=FREE))
        other = await make(PartsModel(ANSWER), price=FREE).run("go")
        assert parts_of(one) == parts_of(other)

    async def test_how_it_ended_and_what_it_took_is_kept(self, make: Make) -> None:
        _, result = await streamed(make(PartsModel(["done"]), price=FREE))
        (answer,) = (one for one in result.messages if one["kind"] == "response")
        assert (answer["finish_reason"], answer["provider_response_id"]) == ("stop", "resp-1")
        assert (answer["usage"]["input_tokens"], answer["usage"]["output_tokens"]) == (11, 22)

    async def test_guards_see_the_arguments_of_native_tools(self, make: Make, ledger: ReplayLedger) -> None:
        _, result = await streamed(make(PartsModel(ANSWER), price=FREE))
        (step,) = await ledger.get_run(result.run_id)
        assert "cats" in json.dumps(step["output_content"])

    async def test_a_thought_that_was_redacted_is_not_signed_any_more(self, make: Make) -> None:
        thought = ThinkingPart(f"the card is {''.join(CARD)}", signature="sig", provider_name="function")
        for result in (
            (await streamed(make(PartsModel([thought, "ok"]), price=FREE)))[1],
            await make(PartsModel([thought, "ok"]), price=FREE).run("go"),
        ):
            assert parts_of(result)[0] == ThinkingPart("the card is <CREDIT_CARD>", provider_name="function")


BETWEEN: list[list[Any]] = [
    [],
    [ThinkingPart("hm")],
    [FilePart(CAT)],
    [ThinkingPart("hm"), FilePart(CAT), ThinkingPart("hm")],
    [""],
]


class TestASecretInTwoParts:
    """A card number that a model cuts in two, and whoever reads the answer would join again."""

    @pytest.mark.parametrize("between", BETWEEN)
    async def test_a_whole_answer_does_not_give_it_away(self, make: Make, between: list[Any]) -> None:
        model = PartsModel([f"it is {CARD[0]}", *between, f"{CARD[1]}, keep it"])
        result = await make(model, price=FREE).run("go")
        assert result.output == "it is <CREDIT_CARD>, keep it"
        assert CARD[1] not in json.dumps(result.messages)

    @pytest.mark.parametrize("between", BETWEEN)
    async def test_a_streamed_answer_does_not_complete_it(
        self, make: Make, ledger: ReplayLedger, between: list[Any]
    ) -> None:
        text, result = await streamed(
            make(PartsModel([f"it is {CARD[0]}", *between, f"{CARD[1]}, keep it"]), price=FREE)
        )
        assert CARD[1] not in text + str(result.output) + json.dumps(result.messages)
        if not any(between):
            assert text == result.output == "it is <CREDIT_CARD>, keep it"
        else:
            assert (result.status, result.output) == (Status.DENIED, None)

    @pytest.mark.parametrize("size", [1, 2, 5])
    async def test_a_thought_after_every_few_letters_does_not_help(self, make: Make, size: int) -> None:
        whole = "".join(CARD)
        cut: list[Any] = []
        for start in range(0, len(whole), size):
            cut += [whole[start : start + size], ThinkingPart("hm")]
        text, result = await streamed(make(PartsModel(cut), price=FREE))
        assert whole not in text
        assert result.status is Status.DENIED

    async def test_a_clean_answer_in_several_texts_stays_as_it_is(self, make: Make) -> None:
        answer = ["one ", ThinkingPart("hm"), "two"]
        result = await make(PartsModel(answer), price=FREE).run("go")
        assert parts_of(result) == [TextPart("one "), ThinkingPart("hm"), TextPart("two")]


class TestPictures:
    """What a person approves, and what the ledger says, is bound to the bytes of a picture."""

    POLICY = 'package meshflow.policy\ndecision := {"allow": true, "escalate": input.node.kind == "model"}'

    async def test_an_approval_does_not_cover_another_picture(self, make: Make, ledger: ReplayLedger) -> None:
        agent = make(PartsModel(["a cat"]), price=FREE, policy=Policy.from_rego(self.POLICY))
        paused = await agent.run(["what is this?", CAT])
        (approval,) = paused.approvals
        await ledger.decide_approval(approval, approve=True, approver="grace")
        assert paused.checkpoint is not None
        kept = json.dumps(paused.checkpoint)
        cat, dog = (json.dumps(ModelMessagesTypeAdapter.dump_python(_asking(one), mode="json")) for one in (CAT, DOG))
        data = [json.loads(one)[0]["parts"][0]["content"][1]["data"] for one in (cat, dog)]
        assert data[0] in kept
        swapped = await agent.resume(json.loads(kept.replace(*data)))
        assert (swapped.status, swapped.code) == (Status.DENIED, "approval.arguments_changed")
        result = await agent.resume(json.loads(kept))
        assert (result.status, result.output) == (Status.COMPLETED, "a cat")

    async def test_the_ledger_tells_pictures_apart_and_has_none(self, make: Make, ledger: ReplayLedger) -> None:
        seen = []
        for picture in (CAT, DOG, CAT, BinaryContent(CAT.data, media_type="application/pdf")):
            result = await make(PartsModel(["ok"]), price=FREE).run(["what?", picture])
            (step,) = await ledger.get_run(result.run_id)
            seen.append(step["input_task"]["messages"][0]["content"][1])
        assert seen[0] == seen[2] != seen[1]
        assert seen[3] != seen[0]
        assert "PNG" not in str(seen)
        assert {one["media_type"] for one in seen} == {"image/png", "application/pdf"}

    @pytest.mark.parametrize("number", range(20))
    async def test_a_digest_is_not_taken_for_something_sensitive(self, make: Make, number: int) -> None:
        picture = BinaryImage(f"picture {number}".encode(), media_type="image/png")
        assert (await make(PartsModel(["ok"]), price=FREE).run(["what?", picture])).ok


def _asking(picture: Any) -> Any:
    return [ModelRequest([UserPromptPart(["what is this?", picture])])]


class TestHeldAnswers:
    def test_one_of_text_thoughts_and_calls_is_made_again_from_the_ledger(self) -> None:
        parts = [ThinkingPart("hm"), ToolCallPart("add", {"a": 1}, "c1"), TextPart("one"), TextPart("two")]
        assert response_from(response_view(ModelResponse(parts)), "m").parts == parts
        assert response_from("streamed text", "m").parts == [TextPart("streamed text")]
        assert response_from(["some", {"kind": "thinking", "content": "hm"}], "m").parts == [
            TextPart("some"), ThinkingPart("hm"),
        ]  # fmt: skip

    def test_one_with_a_picture_is_refused(self) -> None:
        with pytest.raises(ViewError, match="file"):
            response_from(response_view(ModelResponse([TextPart("look"), FilePart(CAT)])), "m")

    def test_what_was_taken_out_across_parts_stays_out(self) -> None:
        reply = ModelResponse([TextPart("41"), FilePart(CAT), TextPart("11"), TextPart("!")])
        views = response_view(reply)
        views[-1] = {**views[-1], "content": "<N>!"}
        assert response_with(reply, views).parts == [TextPart("<N>!"), FilePart(CAT)]


def test_native_tools_are_in_what_gates_see() -> None:
    view = RequestView([], ModelRequestParameters(native_tools=[WebSearchTool()]))
    assert view.document["native_tools"] == ["web_search"]
