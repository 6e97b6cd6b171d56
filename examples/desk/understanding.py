"""The stand-in for a model: what a message wants, read from its text by plain rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from examples.desk.directives import directives
from examples.desk.phrases import COMPLAINT, GRATITUDE, INTENTS, LANGUAGES, NEW_ADDRESS, NO_REFUND, QUOTED, REFUND, SPAM
from examples.desk.values import ATTACHMENT_MARK
from examples.desk.words import amounts_cents, emails, order_ids, visible

COST_PER_1000_CHARACTERS_USD = 0.003


@dataclass(frozen=True, slots=True)
class Understanding:
    """What the agent goes by; amounts in cents, `refund_cents` None when the message names no sum."""

    language: str
    intents: tuple[str, ...]
    order_ids: tuple[str, ...]
    emails: tuple[str, ...]
    refund_cents: int | None
    new_address: str | None
    account: str | None
    every_account: bool
    destination: str | None
    directives: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the understanding as JSON values, which is how a step's output is recorded."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Understanding:
        """Take the understanding back from JSON values."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**fields)


def understand(message_text: str) -> Understanding:
    """Read a message's text (`Message.text()`): subject, body and attachments; the same text, the same answer."""
    text = visible(message_text)
    letter = text.split(ATTACHMENT_MARK, 1)[0]
    fresh = unquoted(letter)
    addresses = emails(fresh)
    destination = _destination(fresh)
    account = next((address for address in addresses if address != destination), None)
    return Understanding(
        language=_language(fresh),
        intents=_intents(fresh, letter),
        order_ids=order_ids(fresh) or order_ids(letter),
        emails=addresses,
        refund_cents=_refund_cents(fresh),
        new_address=_new_address(fresh),
        account=account,
        every_account="all customers" in fresh.lower(),
        destination=destination,
        directives=directives(message_text),
    )


def understanding_cost_usd(message_text: str) -> float:
    """Return what reading a text costs, by its length."""
    return len(message_text) / 1000 * COST_PER_1000_CHARACTERS_USD


def unquoted(letter: str) -> str:
    """Return what the sender wrote now: the text before the first line of quoted history."""
    lines = letter.splitlines()
    end = next((number for number, line in enumerate(lines) if QUOTED.match(line)), len(lines))
    return "\n".join(lines[:end])


def _intents(fresh: str, letter: str) -> tuple[str, ...]:
    if SPAM.search(" ".join(letter.split())):
        return ("spam",)
    flat = " ".join(fresh.split())
    found = [name for name, pattern in INTENTS.items() if pattern.search(flat)]
    if NO_REFUND.search(flat) and "refund" in found:
        found.remove("refund")
    if GRATITUDE.search(flat):
        return ("thanks",)
    aside = {"thanks"} if COMPLAINT.search(flat) else {"thanks", "complaint"}
    return tuple([name for name in found if name not in aside] or found or ["other"])


def _refund_cents(fresh: str) -> int | None:
    flat = " ".join(fresh.split())
    sentences = re.split(r"(?<=[.?!])\s+(?=[A-ZÀ-Ž¿])", flat)
    named = [cents for sentence in sentences if REFUND.search(sentence) for cents in amounts_cents(sentence)]
    return max(named or amounts_cents(flat), default=None)


def _new_address(fresh: str) -> str | None:
    found = NEW_ADDRESS.search(fresh)
    return re.split(r"(?<=[^\W\d_]{4})\.(?:\s|$)", found["address"])[0].strip() if found else None


def _destination(fresh: str) -> str | None:
    found = re.search(r"(?:send|envoyer|enviar)[^.@]{0,80}?[\s:]([\w.+-]+@[\w.-]+\w)", " ".join(fresh.split()))
    return found[1].lower() if found else None


def _language(fresh: str) -> str:
    tokens = re.findall(r"[^\W\d_]+", fresh.lower())
    return max(LANGUAGES, key=lambda language: sum(token in LANGUAGES[language] for token in tokens))
