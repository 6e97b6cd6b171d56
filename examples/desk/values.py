"""The values that pass between the desk's messages, its agent and whoever drives it."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent

ATTACHMENT_MARK = "--- attachment: "


@dataclass(frozen=True, slots=True)
class Attachment:
    """A text that came with a message, and where the text is from."""

    name: str
    text: str
    source: str
    licence: str


@dataclass(frozen=True, slots=True)
class Sender:
    """Who a message says it is from."""

    name: str
    email: str


@dataclass(frozen=True, slots=True)
class Message:
    """One inbound customer message."""

    id: str
    received_at: datetime
    channel: Literal["email", "chat", "form"]
    sender: Sender
    tenant: str
    subject: str
    body: str
    attachments: tuple[Attachment, ...] = ()

    def text(self) -> str:
        """Return all that a reader sees: subject, body, and each attachment under a marking line."""
        parts = [self.subject, self.body]
        parts += [f"{ATTACHMENT_MARK}{item.name} ---\n{item.text}" for item in self.attachments]
        return "\n\n".join(parts)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One step that the agent asks for; `kind` tells the model step from the tools."""

    name: str
    arguments: Mapping[str, Any]
    kind: Literal["tool", "model"] = "tool"


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What became of a call; `value` is set only when the status is ok."""

    status: Literal["ok", "denied", "paused", "failed"]
    value: Any = None
    reason: str = ""

    @property
    def ok(self) -> bool:
        """The call was executed and its value released."""
        return self.status == "ok"


@dataclass(frozen=True, slots=True)
class Reply:
    """How the agent left a message: done, with a person, or stopped without a word to the sender."""

    message_id: str
    outcome: Literal["done", "handed_over", "stopped"]
    summary: str
    intents: tuple[str, ...] = field(default=())


Work = Generator[ToolCall, ToolResult, Reply]


def load_messages(path: Path = HERE / "messages.jsonl") -> list[Message]:
    """Read the batch of messages, in the order of their arrival."""
    with path.open(encoding="utf-8") as lines:
        return [_message(json.loads(line)) for line in lines]


def load_expected(path: Path = HERE / "expected.json") -> dict[str, list[str]]:
    """Read what tests expect of each message: its id, mapped to its tags."""
    expected: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return expected


def _message(raw: dict[str, Any]) -> Message:
    return Message(
        id=raw["id"],
        received_at=datetime.fromisoformat(raw["received_at"]),
        channel=raw["channel"],
        sender=Sender(**raw["sender"]),
        tenant=raw["tenant"],
        subject=raw["subject"],
        body=raw["body"],
        attachments=tuple(Attachment(**item) for item in raw["attachments"]),
    )
