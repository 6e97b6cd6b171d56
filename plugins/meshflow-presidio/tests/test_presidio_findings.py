"""What is found, where, and what takes its place; at any depth."""

from __future__ import annotations

from collections import namedtuple
from hashlib import sha256
from types import MappingProxyType
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import pytest

from meshflow.plugin import UNSET, ConfigError, Decision, Effect, NodeInput, Obligation, Purpose, context_for
from meshflow_presidio import CODES, PresidioPlugin, PresidioSettings

CARD, SSN, IBAN = "4111 1111 1111 1111", "536-90-4399", "DE89370400440532013000"
AWS, GITHUB = "AKIA" + "QYLPMN5HHHFPZAM2", "ghp_" + "a1B2c3D4e5F6" * 3
PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEA7bq98vYk\n" * 4 + "-----END RSA PRIVATE KEY-----"


def context(value: Any, purpose: Purpose = Purpose.ENFORCE, obligations: Any = (), **step: Any) -> Any:
    made = context_for(NodeInput(node_id="n", input=value, **step))
    made._state.purpose = purpose
    made._state.obligations = tuple(obligations)
    return made


async def scan(plugin: PresidioPlugin, value: Any, **more: Any) -> Decision:
    return await plugin.scan_sensitive_data(context(value, **more))


@pytest.fixture(scope="module")
def plugin() -> PresidioPlugin:
    return PresidioPlugin(PresidioSettings())


async def test_digests_and_uuids_are_no_findings(plugin: PresidioPlugin) -> None:
    digests = [sha256(str(number).encode()).hexdigest() for number in range(400)]
    uuids = [str(uuid5(NAMESPACE_URL, digest)) for digest in digests]
    decision = await scan(plugin, {"digests": digests, "uuids": uuids})
    assert decision.fact.items == ()


@pytest.mark.parametrize(
    ("text", "entity", "secret"),
    [
        (f"pay with {CARD} today", "CREDIT_CARD", CARD),
        (f"my ssn is {SSN}", "US_SSN", SSN),
        (f"transfer to {IBAN}.", "IBAN_CODE", IBAN),
        ("write to jane.doe+x@mail.example.com, please", "EMAIL_ADDRESS", "jane.doe+x@mail.example.com"),
        ("https://a.example/login?email=bob@corp.example&x=1", "EMAIL_ADDRESS", "bob@corp.example"),
        ("call (212) 736-5000 now", "PHONE_NUMBER", "(212) 736-5000"),
        ("call +49 30 901820", "PHONE_NUMBER", "+49 30 901820"),
        ("phone 2127365000", "PHONE_NUMBER", "2127365000"),
        ("4abc1234-0000-4000-8000-00000000abcd-ef 212-736-5000", "PHONE_NUMBER", "212-736-5000"),
        ("London office 020 7946 0958", "PHONE_NUMBER", "020 7946 0958"),
        ("DEA AB1234563-77", "MEDICAL_LICENSE", "AB1234563"),
        (f"id {AWS} region", "SECRET", AWS),
        (f"token {GITHUB}", "SECRET", GITHUB),
        (f"here:\n{PEM}\nthanks", "SECRET", PEM),
        (PEM[:90] + " cut", "SECRET", PEM[32:56]),
        ("postgres://app:s3cretpw@db.example:5432/x", "SECRET", "s3cretpw"),
        ('{"api_key": "zx81-kempston-9000"}', "SECRET", "zx81-kempston-9000"),
    ],
)
async def test_structured_data_is_found_and_masked(plugin: PresidioPlugin, text: str, entity: str, secret: str) -> None:
    decision = await scan(plugin, text)
    assert decision.effect is Effect.ALLOW
    assert entity in {item.entity for item in decision.fact.items}
    assert secret not in decision.replacement
    assert f"<{entity}>" in decision.replacement
    assert secret not in repr(decision.evidence)
    assert secret not in repr(decision.fact)


@pytest.mark.parametrize(
    "text",
    [
        "The invoice of 2024-03-01 for 1,234,567.89 USD covers 12 months, 10.5% more than 2019-2023.",
        "Order 2127365000 shipped; tracking 1Z999AA10123456784; commit 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b.",
        "Card ending 1111, room 4111, build 4111.1111, 12:34:56, std::string, v1.2, @app.route('/x'), a@b",
        "uuid 50318442-1234-4567-8901-123456789012 at 1700000000000000",
        # Wikipedia, "The Mad Capsule Markets", from WikiGold (Balasuriya et al., 2009), CC-BY 4.0.
        "010 is the tenth album from Japanese Punk Techno band The Mad Capsule Markets.\nThis album proved to be more "
        "commercial and more techno-based than Osc-Dis, with heavily synthesized songs like Introduction 010 and Come.",
        # Wikipedia, 139th Pennsylvania Infantry, from WikiGold (Balasuriya et al., 2009), CC-BY 4.0.
        "The 139th was formed at Camp Howe, near Pittsburgh, on September 1, 1862.\nFrederick H. Collier was the first "
        "colonel. This brigade included the 62d NY, 93d PVI, 98th PVI and the 102d PVI.",
        # A loan agreement filed with the SEC (Salinas Alvarado et al., 2015), CC-BY 3.0.
        "EVERGREEN SOLAR, INC ., a company incorporated in Delaware, U. S. A ., with registered number 2426798, whose "
        "registered office is situated at 138 Bartlett Street, Marlboro, Massachusetts 01752",
    ],
)
async def test_ordinary_text_comes_back_as_the_same_object(plugin: PresidioPlugin, text: str) -> None:
    value = {"text": [text, (1, 2.5, None, True)]}
    decision = await scan(plugin, value)
    assert decision.replacement is UNSET
    assert [item for item in decision.fact.items if item.action != "allow"] == []


@pytest.mark.parametrize(
    "hidden",
    [
        "4111\u200b1111\u200b1111\u200b1111",
        "４１１１１１１１１１１１１１１１",
        "٤١١١١١١١١١١١١١١١",
        "4111\u00a01111\u20111111\u20131111",
        "\U0001d7d2111111111111111",
        "4\u00ad111111111111111\U000e0041",
    ],
)
async def test_digits_in_other_clothes_do_not_hide_a_card(plugin: PresidioPlugin, hidden: str) -> None:
    decision = await scan(plugin, f"x {hidden.strip()} y")
    assert "<CREDIT_CARD>" in decision.replacement
    assert not any(char.isdigit() for char in decision.replacement)


async def test_every_kind_of_container_is_walked_and_keeps_its_type(plugin: PresidioPlugin) -> None:
    pair = namedtuple("pair", "a b")
    untouched = {"n": [1, 2]}
    value = MappingProxyType(
        {
            "list": [f"a {CARD}"],
            "tuple": (SSN, 1),
            "pair": pair("x", CARD),
            "set": {CARD},
            "bytes": CARD.encode(),
            "number": 4111111111111111,
            "binary": b"\xff\xfe",
            "keep": untouched,
            CARD: "as a key",
            "4111-1111-1111-1111": "too",
        }
    )
    new = (await scan(plugin, value)).replacement
    assert new["list"] == ["a <CREDIT_CARD>"]
    assert new["tuple"] == ("<US_SSN>", 1)
    assert new["pair"] == pair("x", "<CREDIT_CARD>")
    assert new["set"] == {"<CREDIT_CARD>"}
    assert new["bytes"] == b"<CREDIT_CARD>"
    assert new["number"] == "<CREDIT_CARD>"
    assert new["binary"] == b"\xff\xfe"
    assert new["keep"] is untouched
    assert {new["<CREDIT_CARD>"], new["<CREDIT_CARD>#2"]} == {"as a key", "too"}


async def test_a_key_gives_its_value_context_and_a_path_never_holds_data(plugin: PresidioPlugin) -> None:
    decision = await scan(plugin, {"customerSsn": "536904399", "n": {CARD: {"Api-Key": "tiddles"}}})
    assert decision.replacement == {"customerSsn": "<US_SSN>", "n": {"<CREDIT_CARD>": {"Api-Key": "<SECRET>"}}}
    paths = {item.entity: item.path for item in decision.fact.items}
    assert paths == {"US_SSN": "$.customerSsn", "CREDIT_CARD": "$.n", "SECRET": "$.n['<CREDIT_CARD>']['Api-Key']"}


async def test_names_and_places_are_said_not_to_be_covered_without_a_model(plugin: PresidioPlugin) -> None:
    decision = await scan(plugin, "Ada Lovelace of London")
    assert decision.fact.not_covered == ("LOCATION", "PERSON")
    assert decision.fact.items == ()


async def test_what_was_masked_is_left_alone_the_second_time(plugin: PresidioPlugin) -> None:
    first = (await scan(plugin, {"password": "x1y2z3", "t": f"{CARD} {SSN} {AWS} a@b.example"})).replacement
    assert (await scan(plugin, first)).replacement is UNSET


async def test_the_record_masks_what_is_allowed_and_what_is_forbidden() -> None:
    settings = PresidioSettings(
        entities={"SECRET": "deny", "EMAIL_ADDRESS": "allow"},
        allow_in={"mail": ["to"]},  # type: ignore[dict-item]
    )
    plugin = PresidioPlugin(settings)
    value = {"input": {"to": "a@b.example", "key": AWS, "ip": "10.1.2.3"}}
    decision = await scan(plugin, value, purpose=Purpose.RECORD, kind="tool", tool="mail")
    assert decision.effect is Effect.ALLOW
    assert decision.replacement == {"input": {"to": "<EMAIL_ADDRESS>", "key": "<SECRET>", "ip": "<IP_ADDRESS>"}}


async def test_a_forbidden_entity_denies_without_naming_its_value() -> None:
    plugin = PresidioPlugin(PresidioSettings(entities={"SECRET": "deny"}))  # type: ignore[dict-item]
    decision = await scan(plugin, {"a": f"use {AWS}"})
    assert decision.code == "sensitive_data_scan.forbidden_entity"
    assert decision.code in CODES
    assert AWS not in repr(decision)
    output = await plugin.guard_output(context("x"), f"use {AWS}")
    assert output is not None
    assert output.code == "output_guardrails.forbidden_entity"
    assert (await scan(plugin, "clean", metadata={"note": AWS})).code == "sensitive_data_scan.forbidden_entity"


async def test_an_argument_named_in_allow_in_reaches_its_tool_alone() -> None:
    settings = PresidioSettings(allow_in={"mail": ["to"]}, entities={"SECRET": "deny"})  # type: ignore[dict-item]
    plugin = PresidioPlugin(settings)
    value = {"to": ["a@b.example"], "body": "cc c@d.example"}
    decision = await scan(plugin, value, kind="tool", tool="mail")
    assert decision.replacement == {"to": ["a@b.example"], "body": "cc <EMAIL_ADDRESS>"}
    other = await scan(plugin, value, kind="tool", tool="post")
    assert other.replacement["to"] == ["<EMAIL_ADDRESS>"]
    nested = await scan(plugin, {"x": value}, kind="tool", tool="mail")
    assert nested.replacement["x"]["to"] == ["<EMAIL_ADDRESS>"]
    assert (await scan(plugin, {"to": AWS}, kind="tool", tool="mail")).effect is Effect.DENY


async def test_mask_entities_is_met_at_both_stages() -> None:
    plugin = PresidioPlugin(PresidioSettings(scan_output=False))
    asked = [Obligation("mask_entities", {"entities": ["IP_ADDRESS"]})]
    assert (await scan(plugin, "10.1.2.3")).replacement is UNSET
    assert (await scan(plugin, "10.1.2.3", obligations=asked)).replacement == "<IP_ADDRESS>"
    output = await plugin.guard_output(context("x", obligations=asked), ["10.1.2.3"])
    assert output is not None
    assert output.replacement == ["<IP_ADDRESS>"]
    assert await plugin.guard_output(context("x"), ["10.1.2.3"]) is None
    everything = [Obligation("mask_entities", {"entities": []})]
    assert (await scan(plugin, "10.1.2.3", obligations=everything)).replacement == "<IP_ADDRESS>"


async def test_mask_entities_for_what_nothing_finds_denies(plugin: PresidioPlugin) -> None:
    asked = [Obligation("mask_entities", {"entities": ["PERSON"]})]
    assert (await scan(plugin, "Ada", obligations=asked)).code == "sensitive_data_scan.entity_not_covered"


async def test_patterns_of_ones_own_and_countries() -> None:
    plugin = PresidioPlugin(PresidioSettings(patterns={"EMPLOYEE_ID": r"\bEMP-\d{6}\b"}, countries=("uk",)))
    decision = await scan(plugin, "EMP-123456, NHS number 943 476 5919, nino AA 12 34 56 B")
    assert {item.entity for item in decision.fact.items} >= {"EMPLOYEE_ID", "UK_NHS", "UK_NINO"}
    assert "EMP-" not in decision.replacement


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"entities": {"SHOE_SIZE": "mask"}}, "plugins.presidio.entities"),
        ({"countries": ("zz",)}, "plugins.presidio.countries"),
        ({"phone_regions": ("ZZ",)}, "plugins.presidio.phone_regions"),
        ({"model": "no_such_model_anywhere"}, "plugins.presidio.model"),
    ],
)
async def test_a_setting_that_cannot_work_is_an_error_at_startup(settings: Any, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await PresidioPlugin(PresidioSettings(**settings)).startup()
    assert caught.value.path == path


def test_a_pattern_that_re2_refuses_is_an_error_of_the_setting() -> None:
    with pytest.raises(ValueError, match="RE2 refuses"):
        PresidioSettings(patterns={"X": r"(?=a)b"})


async def test_a_model_that_is_named_covers_names(tmp_path: Any) -> None:
    import spacy

    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "PERSON", "pattern": "Ada Lovelace"}])
    nlp.to_disk(tmp_path / "model")
    plugin = PresidioPlugin(PresidioSettings(model=str(tmp_path / "model")))
    decision = await scan(plugin, f"Ada Lovelace paid with {CARD}")
    assert decision.replacement == "<PERSON> paid with <CREDIT_CARD>"
    assert decision.fact.not_covered == ()


async def test_a_whole_stream_that_still_holds_data_is_said_to_have_leaked(plugin: PresidioPlugin) -> None:
    from meshflow.plugin import StreamState

    made = context("x")
    made._state.stream = StreamState(released="", final=False)
    part = await plugin.guard_output(made, f"part {CARD}")
    assert part is not None
    assert part.replacement == "part <CREDIT_CARD>"
    made._state.stream = StreamState(released=f"part {CARD}", final=True)
    whole = await plugin.guard_output(made, f"part {CARD}")
    assert whole is not None
    assert whole.code == "output_guardrails.sensitive_data_released"


@pytest.mark.parametrize("size", [1, 7, 64, 333, 1024, 5000])
async def test_a_key_longer_than_a_streams_window_never_gets_out(plugin: PresidioPlugin, size: int) -> None:
    from meshflow.plugin import StreamState

    lines = [f"{i:02d}" + "kQ7vXz81mT" * 6 + "ab" for i in range(50)]
    key = "-----BEGIN RSA PRIVATE KEY-----\n" + "\n".join(lines) + "\n-----END RSA PRIVATE KEY-----"
    text = f"Here it is:\n{key}\nand the card {CARD}. Keep it safe, and write to us if it does not work. " * 2
    released, pending, keep = "", "", 512
    made = context("x")
    for begin in range(0, len(text) + size, size):
        last = begin >= len(text)
        pending += text[begin : begin + size]
        if len(pending) >= 2 * keep or last:
            made._state.stream = StreamState(released=released[-keep:], final=False)
            decision = await plugin.guard_output(made, pending)
            assert decision is not None
            pending = pending if decision.replacement is UNSET else decision.replacement
            cut = len(pending) if last else max(0, len(pending) - keep)
            released, pending = released + pending[:cut], pending[cut:]
    assert not [line for line in lines if line[:40] in released]
    assert CARD not in released
    assert released.count("Keep it safe") == 2
