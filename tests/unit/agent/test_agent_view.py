"""What gates see of messages, and that nothing they did not change is lost or altered on the way back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_ai.messages import (
    BinaryContent,
    CachePoint,
    ImageUrl,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    StructuredContent,
    SystemPromptPart,
    TextContent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters

from meshflow.agent.view import RequestView, ViewError, response_view, response_with

CARD = "4111 1111 1111 1111"
IMAGE = BinaryContent(b"\x89PNG\x00\xff", media_type="image/png")
texts = st.text(max_size=12)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
media = st.sampled_from([IMAGE, ImageUrl("https://example.com/a.png"), CachePoint()])
items = texts | media | st.builds(TextContent, texts)
parts = (
    st.builds(SystemPromptPart, texts)
    | st.builds(UserPromptPart, texts | st.lists(items, max_size=3))
    | st.builds(ToolReturnPart, st.just("t"), documents | st.lists(texts | st.just(IMAGE), max_size=3), st.just("c"))
)
answers = (
    st.builds(TextPart, texts)
    | st.builds(ThinkingPart, texts, signature=st.none() | texts)
    | st.builds(ToolCallPart, st.just("t"), st.dictionaries(texts, documents, max_size=2) | texts, st.just("c"))
)
conversations = st.lists(
    st.builds(ModelRequest, st.lists(parts, min_size=1, max_size=3))
    | st.builds(ModelResponse, st.lists(answers, min_size=1, max_size=3)),
    max_size=4,
)


def view_of(*messages: Any) -> RequestView:
    return RequestView(messages, ModelRequestParameters())


@given(conversations)
def test_messages_that_no_gate_changed_come_back_as_they_were(messages: list[Any]) -> None:
    view = view_of(*messages)
    back, _ = view.restored(copy.deepcopy(view.document))
    assert all(new is old for new, old in zip(back, messages, strict=True))


@given(conversations, conversations)
def test_what_a_gate_changed_leaves_the_rest_as_it_was(before: list[Any], after: list[Any]) -> None:
    view = view_of(*before, ModelRequest([UserPromptPart([IMAGE, f"card {CARD}"])]), *after)
    given_back = copy.deepcopy(view.document)
    place = sum(len(message.parts) for message in before)
    given_back["messages"][place]["content"][1] = "card <CARD>"
    back, _ = view.restored(given_back)
    assert back[len(before)].parts[0].content == [IMAGE, "card <CARD>"]
    assert [*back[: len(before)], *back[len(before) + 1 :]] == [*before, *after]


@given(conversations)
def test_a_conversation_survives_json(messages: list[Any]) -> None:
    again = ModelMessagesTypeAdapter.validate_python(ModelMessagesTypeAdapter.dump_python(messages, mode="json"))
    assert view_of(*again).document == view_of(*messages).document


def test_an_image_among_the_results_of_a_tool_stays_an_image() -> None:
    view = view_of(ModelRequest([ToolReturnPart("t", {"photo": IMAGE, "note": CARD}, "c")]))
    assert "base64" not in str(view.document)
    changed = copy.deepcopy(view.document)
    changed["messages"][0]["content"]["note"] = "<CARD>"
    back, _ = view.restored(changed)
    assert back[0].parts[0].content == {"photo": IMAGE, "note": "<CARD>"}


def test_structured_content_that_was_redacted_does_not_keep_its_value() -> None:
    view = view_of(ModelRequest([UserPromptPart([StructuredContent({"card": CARD})])]))
    changed = copy.deepcopy(view.document)
    changed["messages"][0]["content"][0] = "<CARD>"
    back, _ = view.restored(changed)
    assert CARD not in str(back)
    assert CARD not in str([vars(item) for item in back[0].parts[0].content])


@pytest.mark.parametrize("content", ["gone", [], ["a", "b", "c"], [{"media": "Other"}, "x"]])
def test_media_that_a_gate_replaced_is_refused(content: Any) -> None:
    view = view_of(ModelRequest([UserPromptPart([IMAGE, "x"])]))
    changed = copy.deepcopy(view.document)
    changed["messages"][0]["content"] = content
    with pytest.raises(ViewError):
        view.restored(changed)


def hides(view: dict[str, Any]) -> dict[str, Any]:
    return {**view, "content": view["content"].replace("hunter2", "***")}


@pytest.mark.parametrize("kinds", [{"text"}, {"whole-text"}, {"text", "whole-text"}])
def test_what_a_gate_takes_out_of_the_parts_or_of_the_whole_stays_out(kinds: set[str]) -> None:
    reply = ModelResponse([TextPart("it is hunter2, "), ToolCallPart("t", {}), TextPart("bye")])
    views = [hides(view) if view["kind"] in kinds else view for view in response_view(reply)]
    kept = [part for part in response_with(reply, views).parts if isinstance(part, TextPart)]
    assert "".join(part.content for part in kept) == "it is ***, bye"
