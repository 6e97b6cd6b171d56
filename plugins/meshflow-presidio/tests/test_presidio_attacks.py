"""Hostile sizes and shapes, gates without false negatives, no network, no light import made heavy."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshflow.clock import ManualClock, SystemClock
from meshflow.plugin import Effect, Host, NodeInput, Purpose, context_for
from meshflow_presidio import CODES, PresidioPlugin, PresidioSettings
from meshflow_presidio.canonical import canonical
from meshflow_presidio.engine import Analyzer, Deadline, ScanTimeoutError, _GuardedPattern
from meshflow_presidio.gates import gate_of, without_assertions
from meshflow_presidio.scanner import TextScanner

CARD = "4111 1111 1111 1111"
ADVERSARIAL: dict[str, Callable[[int], str]] = {
    "dotted local part": lambda n: "a." * (n // 2) + " x@y.com",
    "plus local part": lambda n: "a+b." * (n // 4) + " x@y.com",
    "slashes": lambda n: "12/" * (n // 3) + " x@y.com",
    "words and slashes": lambda n: "word/" * (n // 5) + " x@y.com",
    "dot leaders": lambda n: "." * n,
    "dashes": lambda n: "-" * n,
    "octets": lambda n: "1.1.1." * (n // 6),
    "single digits": lambda n: "1 " * (n // 2),
    "jwt heads": lambda n: "eyJ" * (n // 3),
    "at signs": lambda n: "a@" * (n // 2),
    "addresses": lambda n: "a@b.co " * (n // 7),
    "iban heads": lambda n: "AA11 BBBB " * (n // 10),
    "card heads": lambda n: "4111-" * (n // 5),
    "colons": lambda n: "ab:" * (n // 3),
    "pem heads": lambda n: "-----BEGIN RSA PRIVATE KEY-----" * (n // 31),
    "masks": lambda n: "<SECRET>" * (n // 8),
    "masks and spaces": lambda n: ("<SECRET>" + " " * 500 + "a" * 80 + " ") * (n // 589),
    "one long run": lambda n: "-----BEGIN PRIVATE KEY-----" + "A" * n,
    "key headers": lambda n: "-----BEGIN PRIVATE KEY-----" + "Proc-Type: 4\n" * (n // 13),
    "credentials": lambda n: "://a:" * (n // 5),
    "schemes": lambda n: "http://" * (n // 7),
    "zero width": lambda n: "\u200b1" * (n // 2),
    "spaces": lambda n: " " * n,
}


def context(value: Any, purpose: Purpose = Purpose.ENFORCE) -> Any:
    made = context_for(NodeInput(node_id="n", input=value))
    made._state.purpose = purpose
    return made


def loaded(**more: Any) -> PresidioPlugin:
    plugin = PresidioPlugin(PresidioSettings(**more))
    plugin._scanner.load()
    return plugin


@pytest.fixture(scope="module")
def uncached() -> TextScanner:
    return loaded(entities={"URL": "mask"}, cache_entries=0)._scanner


def _seconds(scanner: TextScanner, text: str) -> float:
    scanner.start(600_000)
    begun = time.process_time()
    scanner.spans(text)
    return time.process_time() - begun


@pytest.mark.parametrize("shape", ADVERSARIAL)
def test_a_hundred_thousand_hostile_characters_take_at_most_a_second(uncached: TextScanner, shape: str) -> None:
    taken = []
    for size in (25_000, 100_000):
        text = ADVERSARIAL[shape](size)
        taken.append(min(_seconds(uncached, text) for _ in range(3)))
    assert taken[1] <= 1.0
    # Four times the text: a quadratic scan would take sixteen times as long.
    assert taken[1] <= max(0.3, 10 * taken[0])


_PIECES = [
    "4111111111111111", "4111 1111 1111 1111", "536-90-4399", "536904399", "ssn ", "DE89370400440532013000", "@",
    "jane@example.com", "10.0.0.1", "fe80::1", "+49 30 901820", "(212) 736-5000", "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",
    "AB1234567", "BB9388567", "912-70-1234", " ", "\n", "\u00a0", "\u0130", "\u017f", "\u212a", "\u0661", "-", ".", ":",
    "a", "Z", "9", "é", "中", "\u200b", "us", "passport", "943 476 5919", "AA123456B", "https://a.example/b", "/",
]  # fmt: skip


@pytest.fixture(scope="module")
def every_country() -> Analyzer:
    deadline = Deadline(SystemClock())
    chosen = PresidioSettings(
        countries=("us", "uk", "de", "es", "it", "in", "pl"), entities={"URL": "mask", "DATE_TIME": "mask"}
    )  # type: ignore[dict-item]
    return Analyzer(chosen, deadline, Path())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(_PIECES), max_size=12).map("".join) | st.text(max_size=60))
def test_a_gate_never_closes_on_what_its_recogniser_finds(every_country: Analyzer, text: str) -> None:
    plain, _ = canonical(text)
    every_country._deadline.start(60_000)
    found = {r.entity_type for r in every_country.analyze(plain, sorted(every_country.covered), ())}
    assert found <= set(every_country.possible(plain))


def test_assertions_are_taken_out_of_a_gate() -> None:
    assert without_assertions(r"\b(?<![\w(])a(?=x(?:y))[\b\]]\(b$") == r"a[\b\]]\(b"
    assert gate_of([r"(a)\1"]) is None
    assert gate_of([r"x*"]) is None


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.text(max_size=20),
    secret=st.sampled_from([CARD, "jane.roe@example.com", "536-90-4399", "AKIA" + "QYLPMN5HHHFPZAM2"]),
    after=st.text(max_size=20),
    purpose=st.sampled_from([Purpose.ENFORCE, Purpose.RECORD]),
)
def test_no_masked_text_still_holds_what_was_found(
    masker: PresidioPlugin, before: str, secret: str, after: str, purpose: Purpose
) -> None:
    text = f"{before} {secret} {after}"
    decision = masker._answer("sensitive_data_scan", context({"v": [text]}, purpose), {"v": [text]})
    assert decision.effect is Effect.ALLOW
    assert secret not in decision.replacement["v"][0]


@pytest.fixture(scope="module")
def masker() -> PresidioPlugin:
    return loaded(timeout_ms=60_000)


def test_no_socket_is_opened_and_no_name_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was reached for")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    plugin = loaded(entities={"URL": "mask"})
    value = ["jane@example.co.uk http://example.com/x www.example.org", CARD, "+49 30 901820"]
    decision = plugin._answer("sensitive_data_scan", context(value), value)
    assert decision.replacement[0] == "<EMAIL_ADDRESS> <URL> <URL>"


def test_importing_the_plugin_imports_no_heavy_library() -> None:
    code = "import sys, json, meshflow_presidio; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout))
    assert modules.isdisjoint({"presidio_analyzer", "presidio_anonymizer", "spacy", "phonenumbers", "redact_secret"})


async def test_a_scan_that_runs_out_of_time_denies() -> None:
    class Hurried(ManualClock):
        def monotonic_ns(self) -> int:
            self.advance(0.4)
            return super().monotonic_ns()

    plugin = PresidioPlugin(PresidioSettings(timeout_ms=500), Host(clock=Hurried()))
    decision = await plugin.scan_sensitive_data(context(f"a {CARD}"))
    assert decision.code == "sensitive_data_scan.timeout"
    output = await plugin.guard_output(context("x"), f"a {CARD}")
    assert output is not None
    assert output.code == "output_guardrails.timeout"


def test_a_pattern_that_times_out_raises_what_presidio_does_not_swallow() -> None:
    import regex

    deadline = Deadline(SystemClock())
    deadline.start(100)
    with pytest.raises(ScanTimeoutError):
        list(_GuardedPattern(regex.compile(r"(a|aa)+$"), deadline).finditer("a" * 60 + "b"))
    assert not issubclass(ScanTimeoutError, TimeoutError)


def test_every_stock_pattern_stands_behind_the_deadline(every_country: Analyzer) -> None:
    patterns = [p for r in every_country._engine.registry.recognizers for p in getattr(r, "patterns", ())]
    assert patterns
    assert all(isinstance(p.compiled_regex, _GuardedPattern) for p in patterns)


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("x" * 2_000_001, "too_large"),
        ([0] * 200_001, "too_large"),
        (["x" * 100_000] * 21, "too_large"),
        (b"x" * 2_000_001, "too_large"),
    ],
)
async def test_more_than_can_be_scanned_denies(masker: PresidioPlugin, value: Any, cause: str) -> None:
    decision = await masker.scan_sensitive_data(context(value))
    assert decision.code == f"sensitive_data_scan.{cause}"
    assert decision.code in CODES


async def test_deep_and_endless_values_deny(masker: PresidioPlugin) -> None:
    deep: Any = "x"
    for _ in range(5_000):
        deep = [deep]
    assert (await masker.scan_sensitive_data(context(deep))).code == "sensitive_data_scan.too_deep"
    endless: dict[str, Any] = {}
    endless["self"] = endless
    assert (await masker.scan_sensitive_data(context(endless))).code == "sensitive_data_scan.too_deep"


async def test_lone_surrogates_and_null_bytes_are_text_like_any_other(masker: PresidioPlugin) -> None:
    decision = await masker.scan_sensitive_data(context(f"\ud800 {CARD} \x00 \udfff"))
    assert decision.replacement == "\ud800 <CREDIT_CARD> \x00 \udfff"


async def test_what_cannot_be_scanned_is_named_in_evidence(masker: PresidioPlugin) -> None:
    decision = await masker.scan_sensitive_data(context({"o": object(), "b": b"\xff", ("t", CARD): 1}))
    assert decision.evidence["unscanned"] == {"binary": 1, "key tuple": 1, "object": 1}


def test_a_text_is_scanned_once_and_the_cache_keeps_its_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    scanner = loaded(cache_entries=3, cache_spans=4)._scanner
    scanner.start(60_000)
    calls: list[str] = []
    scan = scanner._scan
    monkeypatch.setattr(scanner, "_scan", lambda text, words: calls.append(text) or scan(text, words))
    for _ in range(5):
        scanner.spans(f"a {CARD}")
    assert len(calls) == 1
    for i in range(50):
        scanner.spans(f"text {i} " + f"{CARD}, " * random.Random(i).randint(0, 6))
    assert len(scanner._cache._entries) <= 3
    assert scanner._cache._spans == sum(map(len, scanner._cache._entries.values())) <= 4
    assert CARD not in repr(scanner._cache._entries)


def test_clean_prose_costs_tens_of_microseconds(uncached: TextScanner) -> None:
    # Wikipedia, 139th Pennsylvania Infantry, from WikiGold (Balasuriya et al., 2009), CC-BY 4.0.
    text = (
        "The next day, the regiment pursued the Confederate army and fought in a skirmish at Williamsport.\nThe 139th "
        "was transferred in October 1862 to the VI Corps.\nIn the Battle of Fredericksburg, it suffered minor "
        "casualties "
        "from artillery fire, but didn't get a chance to fight.\nFive months later, however, it did participate in the "
        "2nd Battle of Fredericksburg.\nAt the Battle of Gettysburg in July, it helped defend the left flank of the "
        "Union "
        "army.\nThroughout the spring and into early summer of 1864, the 139th fought in Grant's Overland Campaign.\n"
    ) * 2
    uncached.start(600_000)
    best = min(_cpu_us(lambda: uncached._scan(text, ())) for _ in range(5))
    assert best < 200


def _cpu_us(call: Callable[[], Any], repeats: int = 50) -> float:
    begun = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - begun) / repeats * 1e6
