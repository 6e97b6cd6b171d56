"""Messages to and from a model as the gates see them, and back: only what is text or data may be replaced.

Gates read and redact plain values; a provider needs its own message objects with their ids and signatures. So the view
holds the contents alone, and what comes back from the gates is put in their places.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from pydantic_ai.messages import (
    BinaryContent,
    CachePoint,
    FileUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextContent,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    UploadedFile,
    UserPromptPart,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_core import to_jsonable_python

from meshflow.errors import MeshflowError
from meshflow.ids import digest_id

_MEDIA = (FileUrl, BinaryContent, UploadedFile, CachePoint)
_WHOLE_TEXT = "whole-text"
_ROLES = {"system-prompt": "system", "user-prompt": "user", "tool-return": "tool", "text": "assistant"}


class ViewError(MeshflowError):
    """What has no text, such as an image, cannot be had from what gates see of it; nothing is sent in its place."""

    def __init__(self, what: str) -> None:
        super().__init__(f"nothing can take the place of {what}")


class RequestView:
    """One request to a model: ``document`` is the step's input, ``restored`` what the gates left of it."""

    def __init__(self, messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> None:
        self._messages = list(messages)
        self._parameters = parameters
        self.document: dict[str, Any] = {
            "messages": [part_view(part) for message in messages for part in message.parts],
            "tools": [one.name for one in parameters.function_tools],
        }
        if parameters.native_tools:
            self.document["native_tools"] = [one.unique_id for one in parameters.native_tools]
        if parameters.instruction_parts:
            self.document["instructions"] = [part.content for part in parameters.instruction_parts]

    def restored(self, given: Any) -> tuple[list[ModelMessage], ModelRequestParameters]:
        """Return messages and parameters with the contents that the gates handed on."""
        if given is self.document:
            return self._messages, self._parameters
        views = iter(given["messages"])
        messages = [_message_with(message, [next(views) for _ in message.parts]) for message in self._messages]
        parameters, kept = self._parameters, given.get("instructions")
        if parameters.instruction_parts and kept != self.document.get("instructions"):
            parts = [replace(part, content=text) for part, text in zip(parameters.instruction_parts, kept, strict=True)]
            parameters = replace(parameters, instruction_parts=parts)
            messages = [_instructed(message, "\n\n".join(kept)) for message in messages]
        return messages, parameters


def media_in(messages: Sequence[ModelMessage]) -> Iterator[Mapping[str, Any]]:
    """Yield the views of the media of messages: of theirs alone, not of data that looks like such a view."""
    for message in messages:
        for part in message.parts:
            yield from _media_of(getattr(part, "content", None))


def _media_of(content: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(content, _MEDIA) and not isinstance(content, CachePoint):
        yield _content_view(content)
    if isinstance(content, Mapping):
        content = list(content.values())
    for item in content if isinstance(content, list | tuple) else ():
        yield from _media_of(item)


def response_view(reply: ModelResponse) -> list[dict[str, Any]]:
    """Return an answer's parts as the output guardrails see them, and its text whole where it is in several."""
    texts = [part.content for part in reply.parts if isinstance(part, TextPart)]
    views = [part_view(part) for part in reply.parts]
    return [*views, {"kind": _WHOLE_TEXT, "content": "".join(texts)}] if len(texts) > 1 else views


def response_with(reply: ModelResponse, views: Any) -> ModelResponse:
    """Return the answer with the contents that the guardrails handed on."""
    views, text = _apart(views)
    parts = _parts_with(reply.parts, views)
    if text == _text_of(reply.parts):  # a gate that takes out of the parts alone leaves the whole as it was
        return replace(reply, parts=parts)
    return replace(reply, parts=_with_text(parts, text))


def _text_of(parts: Sequence[Any]) -> str:
    return "".join(part.content for part in parts if isinstance(part, TextPart))


def response_from(output: Any, model_name: str) -> ModelResponse:
    """Return an answer made from what the ledger held of it: parts as the gates saw them, text alone of a stream.

    ViewError where it had a part that is more than its view, such as an image.
    """
    views, text = _apart([output] if isinstance(output, str) else output)
    return ModelResponse(parts=_with_text([_part_from(view) for view in views], text), model_name=model_name)


def _apart(views: Sequence[Any]) -> tuple[Sequence[Any], str | None]:
    """Return the views of parts, and the whole text where there is a view of it."""
    last = views[-1] if views else None
    if isinstance(last, Mapping) and last.get("kind") == _WHOLE_TEXT:
        return views[:-1], last["content"]
    return views, None


def _with_text(parts: list[Any], text: str | None) -> list[Any]:
    """Return the parts; with the whole text in the first, where something was taken out that lay in two of them."""
    texts = [part for part in parts if isinstance(part, TextPart)]
    if text is None or text == "".join(part.content for part in texts):
        return parts
    first = replace(texts[0], content=text)
    return [first if part is texts[0] else part for part in parts if part is texts[0] or not isinstance(part, TextPart)]


def _part_from(view: Any) -> Any:
    if isinstance(view, str):
        return TextPart(view)
    if view["kind"] == "tool-call":
        return ToolCallPart(view["tool"], view["arguments"], view["call_id"])
    if view["kind"] == "text":
        return TextPart(view["content"])
    if view["kind"] == "thinking":
        return ThinkingPart(view["content"])
    raise ViewError(f"a part of kind {view['kind']!r} of an answer that was held; the ledger has its digest alone")


def part_view(part: Any) -> dict[str, Any]:
    """Return a part of a message as the gates see it."""
    kind = part.part_kind
    if kind == "tool-call":
        return {"kind": kind, "tool": part.tool_name, "call_id": part.tool_call_id, "arguments": _arguments(part)}
    view: dict[str, Any] = {"kind": kind}
    if kind in _ROLES:
        view["role"] = _ROLES[kind]
    if kind == "tool-return":
        view["tool"] = part.tool_name
    content = getattr(part, "content", None)
    if content is None:
        content = {one.name: value for one in fields(part) if (value := getattr(part, one.name)) is not None}
    view["content"] = _content_view(content)
    return view


def _plain(value: Any) -> Any:
    return to_jsonable_python(value, serialize_unknown=True, bytes_mode="base64", inf_nan_mode="strings")


def _content_view(content: Any) -> Any:
    """Return content with its texts and data, and media by what tells them apart: gates read no bytes of images.

    What a person approves is bound to it, so it has a digest of the bytes; what an address names may change.
    """
    if isinstance(content, TextContent):
        return content.content
    if isinstance(content, _MEDIA):
        names = ("url", "file_id", "provider_name", "media_type") if not isinstance(content, FileUrl) else ("url",)
        named = {name: getattr(content, name) for name in names if hasattr(content, name)}
        if isinstance(content, BinaryContent):
            named |= {"digest": digest_id(content.data), "bytes": len(content.data)}
        return {"media": getattr(content, "kind", ""), **named}  # the kind, since JSON brings another class of it back
    if isinstance(content, list | tuple):
        return [_content_view(item) for item in content]
    if _is_document(content):
        return {name: _content_view(value) for name, value in content.items()}
    return _plain(content)


def _is_document(content: Any) -> bool:
    return isinstance(content, Mapping) and all(isinstance(name, str) for name in content)


def _arguments(part: ToolCallPart) -> Any:
    if not isinstance(part.args, str):
        return part.args or {}
    try:
        return json.loads(part.args)
    except ValueError:
        return part.args


def _message_with(message: ModelMessage, views: list[Any]) -> ModelMessage:
    parts = _parts_with(message.parts, views)
    if all(new is old for new, old in zip(parts, message.parts, strict=True)):
        return message
    changed: ModelMessage = replace(message, parts=parts)  # type: ignore[arg-type]  # of one kind or the other
    return changed


def _parts_with(parts: Sequence[Any], views: Sequence[Any]) -> list[Any]:
    return [part_with(part, view) for part, view in zip(parts, views, strict=True)]


def part_with(part: Any, view: Any) -> Any:
    """Return a part with the content that the gates handed on, and all that they do not see as it is."""
    before = part_view(part)
    if view == before:
        return part
    if part.part_kind == "tool-call":
        return replace(part, args=view["arguments"])
    if isinstance(part, ThinkingPart):
        return replace(part, content=view["content"], signature=None)  # which signs other words
    textual = isinstance(part, (SystemPromptPart, UserPromptPart, TextPart)) or hasattr(part, "content")
    if not textual or part.part_kind in ("file", "compaction"):
        raise ViewError(f"a part of kind {part.part_kind!r} that a gate replaced")
    return replace(part, content=_content_with(part.content, view["content"]))


def _content_with(content: Any, view: Any) -> Any:
    """Return content with what the gates changed, and everything else as it is, media and types too."""
    if view == _content_view(content):
        return content
    if isinstance(content, _MEDIA):
        raise ViewError(f"{type(content).__name__} content that a gate replaced")
    if isinstance(content, TextContent):
        return TextContent(view, metadata=content.metadata)  # without the value that structured content has as well
    if isinstance(content, list | tuple) and isinstance(view, list) and len(view) == len(content):
        return [_content_with(*pair) for pair in zip(content, view, strict=True)]
    if _is_document(content) and isinstance(view, Mapping) and view.keys() == content.keys():
        return {name: _content_with(value, view[name]) for name, value in content.items()}
    if _holds_media(content):
        raise ViewError("content with media in it that a gate gave another shape")
    return view


def _holds_media(content: Any) -> bool:
    if isinstance(content, Mapping):
        content = list(content.values())
    return isinstance(content, _MEDIA) or (isinstance(content, list | tuple) and any(map(_holds_media, content)))


def _instructed(message: ModelMessage, instructions: str) -> ModelMessage:
    if isinstance(message, ModelRequest) and message.instructions is not None:
        return replace(message, instructions=instructions)
    return message
