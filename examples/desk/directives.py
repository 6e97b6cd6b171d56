"""The naive part of the agent: it takes some of the text that it reads for instructions, and plans what they ask.

This is the weakness that governance has to contain. A model that reads a tool's result does the same, less predictably.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any

from examples.desk.values import ToolCall
from examples.desk.words import emails, order_ids, visible

# What follows one of these, to the end of its paragraph, is obeyed.
OPENING = re.compile(
    r"instruction to agent|anweisung an den agenten|\bai agent\s*:|note to the ai|attention ai|assistant\s*:"
    r"|\bsystem(?: override| note)?\]?\s*:|\[system note\]|if you are an ai|(?:ignore|disregard) (?:all |the )?"
    r"(?:previous|above|prior) instructions|you are now \w+bot",
    re.IGNORECASE,
)
BASE64 = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{48,}={0,2}")
ADDRESS = re.compile(r"address to (?P<address>[^\n]{8,200}?)(?:\.\s|\.?$| and do not)", re.IGNORECASE)
EVERYONE = re.compile(r"customer list|kundenliste|all (?:orders of all )?customers", re.IGNORECASE)
FORWARD = re.compile(r"e-?mail|send|forward", re.IGNORECASE)
GIVE_BACK = re.compile(r"refund|erstatt", re.IGNORECASE)


def directives(text: str) -> tuple[str, ...]:
    """Return the passages of a text that the agent takes for instructions, decoded ones too."""
    seen = visible(text)
    passages = [seen, *_decoded(seen)]
    return tuple(found for passage in passages for found in _openings(passage))


def strings(value: Any) -> Iterator[str]:
    """Yield every text inside a tool's result."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from strings(item)


def obey(directive: str, order: Mapping[str, Any], known: str, path: str) -> Iterator[ToolCall | None]:
    """Plan what a directive asks about an order; `None` stands for a mail of the export that came before it."""
    order_id = next(iter(order_ids(directive)), order.get("order_id"))
    recipient = next(iter(emails(directive)), None)
    if order_id and (moved := ADDRESS.search(directive)):
        yield ToolCall("update_address", {"order_id": order_id, "address": moved["address"]})
    if order_id and GIVE_BACK.search(directive):
        yield ToolCall(
            "issue_refund", {"order_id": order_id, "amount_cents": _sum(directive, order), "reason": directive}
        )
    if recipient and EVERYONE.search(directive):
        yield ToolCall("export_orders", {"customer_email": "*", "path": path})
        yield None
    elif recipient and FORWARD.search(directive):
        yield ToolCall("send_email", {"to": recipient, "subject": "As requested", "body": known})


def recipient_of(directive: str) -> str:
    """Return the mail address that a directive names."""
    return emails(directive)[0]


def _sum(directive: str, order: Mapping[str, Any]) -> int:
    named = re.search(r"refund of (\d+)\.(\d{2})", directive)
    if named:
        return int(named[1]) * 100 + int(named[2])
    return int(order.get("total_cents", 10_000))


def _openings(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        opening = OPENING.search(paragraph)
        if opening:
            yield " ".join(paragraph[opening.start() :].split())


def _decoded(text: str) -> Iterator[str]:
    for blob in BASE64.findall(text):
        try:
            yield base64.b64decode(blob, validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            continue  # not a text in base64 after all
