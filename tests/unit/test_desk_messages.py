"""The desk's batch of messages: varied, well formed, and about orders that exist."""

from __future__ import annotations

import json
import re
from collections import Counter

from examples.desk.database import rows
from examples.desk.understanding import unquoted
from examples.desk.values import HERE, Message, load_expected, load_messages
from examples.desk.words import order_ids

MESSAGES = load_messages()
EXPECTED = load_expected()
TAGS = {
    "plain",
    "personal_data",
    "secret",
    "injection_direct",
    "injection_in_tool_result",
    "policy_denied",
    "large_refund",
    "export",
    "unknown_order",
    "crash",
    "spam",
}
FIELDS = {"id", "received_at", "channel", "sender", "tenant", "subject", "body", "attachments"}
LICENCES = {"WikiGold": "CC-BY 4.0", "Loan agreements": "CC-BY 3.0"}
CARD = re.compile(r"(?<![\w-])(?:\d ?){13,16}(?![\w-])")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?\b")


def passes_luhn(digits: str) -> bool:
    doubled = [sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def passes_mod_97(iban: str) -> bool:
    compact = iban.replace(" ", "")
    return int("".join(str(int(letter, 36)) for letter in compact[4:] + compact[:4])) % 97 == 1


def shingles(message: Message) -> frozenset[tuple[str, ...]]:
    words = re.findall(r"\w+", unquoted(message.body).lower())
    return frozenset(tuple(words[start : start + 8]) for start in range(len(words) - 7))


def test_there_are_enough_messages_and_each_has_its_own_id_in_order_of_arrival() -> None:
    assert len(MESSAGES) >= 220
    assert [message.id for message in MESSAGES] == [f"M-{number:04d}" for number in range(1, len(MESSAGES) + 1)]
    assert [message.received_at for message in MESSAGES] == sorted(message.received_at for message in MESSAGES)


def test_a_message_holds_nothing_but_what_its_sender_sent() -> None:
    for line in (HERE / "messages.jsonl").read_text(encoding="utf-8").splitlines():
        assert set(json.loads(line)) == FIELDS


def test_channels_and_tenants_are_those_of_the_desk() -> None:
    assert {message.channel for message in MESSAGES} == {"email", "chat", "form"}
    assert {message.tenant for message in MESSAGES} == {"halden-eu", "halden-us"}


def test_every_message_has_known_tags_and_plain_stands_alone() -> None:
    assert list(EXPECTED) == [message.id for message in MESSAGES]
    for tags in EXPECTED.values():
        assert tags
        assert set(tags) <= TAGS
        assert "plain" not in tags or tags == ["plain"]
    assert set(Counter(tag for tags in EXPECTED.values() for tag in tags)) == TAGS


def test_no_two_messages_share_two_fifths_of_their_eight_word_shingles() -> None:
    sets = [(message.id, shingles(message)) for message in MESSAGES]
    for index, (first, ours) in enumerate(sets):
        for second, theirs in sets[:index]:
            shared = len(ours & theirs)
            assert shared <= 0.4 * min(len(ours), len(theirs)), f"{first} and {second} share {shared} shingles"
    assert len({unquoted(message.body) for message in MESSAGES}) == len(MESSAGES)


def test_most_messages_have_a_letter_s_length() -> None:
    lengths = [len(message.body.split()) for message in MESSAGES]
    assert sum(60 <= length <= 350 for length in lengths) > len(lengths) / 2
    assert sum(length > 350 for length in lengths) >= 5
    assert sum(length < 20 for length in lengths) >= 5


def test_every_order_that_a_message_names_exists_unless_tagged() -> None:
    known = {order["order_id"] for order in rows("orders.csv")}
    for message in MESSAGES:
        unknown = set(order_ids(message.text())) - known
        assert bool(unknown) == ("unknown_order" in EXPECTED[message.id]), (message.id, unknown)


def test_card_numbers_pass_luhn() -> None:
    found = [
        (message.id, "".join(match.split()))
        for message in MESSAGES
        for match in CARD.findall(IBAN.sub("", message.body))
    ]
    assert len(found) >= 9
    assert [pair for pair in found if not passes_luhn(pair[1])] == []


def test_ibans_pass_their_checksum() -> None:
    found = [(message.id, match) for message in MESSAGES for match in IBAN.findall(message.body)]
    assert len(found) >= 12
    assert [pair for pair in found if not passes_mod_97(pair[1])] == []


def test_attachments_name_their_source_and_licence() -> None:
    attached = [item for message in MESSAGES for item in message.attachments]
    assert sum(bool(message.attachments) for message in MESSAGES) >= 25
    attribution = (HERE / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for item in attached:
        corpus = next(corpus for corpus in LICENCES if item.source.startswith(corpus))
        assert item.licence == LICENCES[corpus]
        assert item.licence in attribution
        assert re.search(r"passage \d+$", item.source)
        assert len(item.text) > 300
    assert len({item.text for item in attached}) == len({item.source for item in attached})
