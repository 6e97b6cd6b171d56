"""Both verifiers of bundles, on every tampering that was thought of: found, named by layer, and with one verdict."""

from __future__ import annotations

import asyncio
import copy
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from bundling import Docs, Verdict, dump, judge, read_docs, written
from hypothesis import given, settings
from hypothesis import strategies as st

from meshflow.clock import ManualClock
from meshflow.ledger import Intent, ReplayLedger

FULL = os.environ.get("MESHFLOW_SOAK") == "full"
_UNSIGNED = {("header", "writer"), ("checkpoint", "anchors")}
"""What a bundle says and nobody has signed."""


@dataclass
class Case:
    """A bundle of three runs, a fork among them, in a log of more; what an auditor holds; and another ledger's."""

    data: bytes
    bare: bytes
    whole: bytes
    keys: list[str]
    held: str
    other: bytes
    other_keys: list[str]
    folder: Path

    def judge(self, data: bytes, keys: list[str] | None = None, held: bool = False) -> Verdict:
        path = self.folder / "tampered.jsonl"
        path.write_bytes(data)
        return judge(path, self.keys if keys is None else keys, [self.held] if held else [])


async def _history(path: Path, tenant: str = "acme") -> tuple[str, list[str]]:
    async with ReplayLedger(path, clock=ManualClock()) as ledger:

        def step(run: str, number: int, **more: Any) -> dict[str, Any]:
            return {
                "run_id": run, "node_id": "n", "step_id": f"s{number}", "tenant_id": tenant, "cost_usd": 0.0015,
                "input_task": f"caf\u00e9 {number}", "output_content": {"n": number}, "metadata": {"m": 1.5},
            } | more  # fmt: skip

        for number in range(3):
            await ledger.write_intent(Intent(run_id="main", step_id=f"s{number}", node_id="n", tenant_id=tenant))
            await ledger.write(step("main", number))
            await ledger.write(step("other", number))
        held = await ledger.checkpoint()
        await ledger.rotate_key()
        await ledger.write(step("main", 3))
        await ledger.fork("main", 2, new_run_id="fork")
        await ledger.write(step("fork", 9))
        await ledger.erase_payloads("main", fields=["input"], reason="request", authority="dpo")
        for number in range(3):
            await ledger.write(step("other", number + 3))
        await ledger.close_run("main")
        await ledger.write(step("second", 0))
        await ledger.close_run("second")
        return held, await ledger.verifiers()


async def _make(folder: Path) -> Case:
    held, keys = await _history(folder / "runs.db")
    _, other_keys = await _history(folder / "others.db", "bolt")
    out, runs = folder / "out", ["fork", "main", "second"]
    async with ReplayLedger(folder / "runs.db") as ledger:
        await ledger.export_bundle(out, runs, checkpoints=held)
        data = out.read_bytes()
        await ledger.export_bundle(out, runs, checkpoints=held, payloads=False)
        bare = out.read_bytes()
        await ledger.export_bundle(out, None, checkpoints=held)
        whole = out.read_bytes()
    async with ReplayLedger(folder / "others.db") as ledger:
        await ledger.export_bundle(out, runs)
    return Case(data, bare, whole, keys[:1], held, out.read_bytes(), other_keys[:1], folder)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return asyncio.run(_make(tmp_path_factory.mktemp("bundles")))


def test_both_verifiers_pass_the_bundles_as_they_were_written(case: Case) -> None:
    for data in (case.data, case.bare, case.whole):
        assert case.judge(data, held=True).valid
        assert case.judge(written(read_docs(data)), held=True).valid
    assert case.judge(case.other, case.other_keys).valid


def _values(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the paths to all values, those that hold others too."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from _values(one, *path, key)


def _others(value: Any) -> list[Any]:
    """Return values of like form that are not the one given."""
    if isinstance(value, bool):
        return [not value, 1 - value]
    if isinstance(value, int):
        return [value + 1, value - 1, -value - 1, str(value), value + 0.0, 2**53]
    if isinstance(value, str):
        flipped = value[:-1] + chr(ord(value[-1]) ^ 1) if value else "x"
        return [flipped, value + "0", value.upper() + "!", value[1:] if value else "y", None, f" {value}"]
    if isinstance(value, list):
        return [value[1:], [*value, *value[:1]], value[::-1], None, {}]
    if isinstance(value, dict):
        return [*({k: v for k, v in value.items() if k != key} for key in value), {**value, "more": 1}, None, []]
    return ["x", 0, False, []]


def _changes(docs: Docs) -> Iterator[tuple[int, tuple[Any, ...], Any]]:
    """Yield every change of one value: line, path and what is put there."""
    for number, doc in enumerate(docs[:-1]):
        for path in _values(doc):
            # How much of a run is claimed may be understated, and of one that nobody closed nobody knows.
            if path and (doc["type"], path[0]) not in _UNSIGNED and path[-1] != "part":
                before = _at(doc, path)
                for other in _others(before):
                    if other != before or type(other) is not type(before):
                        yield number, path, other


def _try(case: Case, which: str, share: int) -> None:
    docs = read_docs(getattr(case, which))
    changes = list(_changes(docs))
    assert len(changes) > 500
    for number, path, other in random.Random(7).sample(changes, len(changes) // share):
        changed = copy.deepcopy(docs)
        _at(changed[number], path[:-1])[path[-1]] = other
        assert not case.judge(written(changed), held=True).valid, (number, path, other)


@pytest.mark.parametrize("which", ["data", "bare"])
def test_no_value_of_any_line_can_be_another(case: Case, which: str) -> None:
    _try(case, which, 6)


@pytest.mark.soak
@pytest.mark.skipif(not FULL, reason="MESHFLOW_SOAK=full runs the full count")
@pytest.mark.parametrize("which", ["data", "bare", "whole"])
def test_no_value_of_any_line_can_be_another_in_full(case: Case, which: str) -> None:
    _try(case, which, 1)


def _at(doc: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        doc = doc[key]
    return doc


def test_what_nobody_signed_is_no_evidence_and_nothing_rests_on_it(case: Case) -> None:
    docs = read_docs(case.data)
    docs[0]["writer"] = "somebody"
    next(doc for doc in docs if doc["type"] == "checkpoint")["anchors"] = ["a place"]
    assert case.judge(written(docs)).valid
    assert not case.judge(written(docs, seal=False)).valid


@pytest.mark.parametrize("which", ["data", "bare", "whole"])
def test_no_line_can_be_left_out_doubled_or_moved(case: Case, which: str) -> None:
    docs = read_docs(getattr(case, which))
    for number in range(len(docs)):
        rest = docs[:number] + docs[number + 1 :]
        # An older checkpoint adds nothing where the log itself is shown at its size.
        old = docs[number]["type"] == docs[number + 1 if number + 1 < len(docs) else number]["type"] == "checkpoint"
        assert case.judge(written(rest), held=True).valid is old, number
        assert not case.judge(written([*docs[: number + 1], *docs[number:]])).valid, number
        for place in {0, number - 1, number + 2, len(docs) - 1} - {number, number + 1, -1}:
            moved = [*rest]
            moved.insert(place if place < number else place - 1, docs[number])
            if moved != docs:
                assert not case.judge(written(moved)).valid, (number, place)


def test_no_line_of_another_ledger_fits(case: Case) -> None:
    docs, others = read_docs(case.data), read_docs(case.other)
    for number, doc in enumerate(docs):
        for other in others:
            if other["type"] == doc["type"] != "end":
                changed = [*docs[:number], other, *docs[number + 1 :]]
                assert not case.judge(written(changed), held=True).valid, number
    assert not case.judge(case.other).valid
    assert not case.judge(case.data, case.other_keys).valid


def _raw(case: Case) -> dict[str, tuple[bytes, set[str]]]:
    """Return what can be done to the bytes, with the layers that may name it."""
    data, form = case.data, {"form"}
    first, _, rest = data.partition(b"\n")
    entry = next(line for line in data.splitlines() if b'"type":"entry"' in line)

    def respelled(line: bytes) -> bytes:
        docs = data.splitlines(keepends=True)
        return written([*(line if one.rstrip() == entry else one for one in docs[:-1]), read_docs(docs[-1])[0]])

    position = dump({"position": read_docs(entry)[0]["position"]})[1:-1]
    label, number = position.split(b":")
    return {
        "nothing": (b"", form),
        "a newline": (b"\n", form),
        "a zero byte": (b"\0", form),
        "the header alone": (first + b"\n", form),
        "no newline at the end": (data[:-1], form),
        "a newline more": (data + b"\n", form),
        "garbage behind": (data + b"{}\n", form),
        "another bundle behind": (data + data, form),
        "a byte order mark": (b"\xef\xbb\xbf" + data, form),
        "an UTF-16 file": (data.decode().encode("utf-16"), form),
        "line ends of Windows": (data.replace(b"\n", b"\r\n"), form),
        "a blank line": (first + b"\n\n" + rest, form),
        "a space before": (b" " + data, form),
        "one array": (b"[" + data.replace(b"\n", b",").rstrip(b",") + b"]\n", form),
        "a space": (respelled(entry.replace(b'":', b'": ', 1) + b"\n"), form),
        "an escape": (respelled(entry.replace(b'"type"', b'"\\u0074ype"') + b"\n"), form),
        "an escape in upper case": (respelled(entry.replace("caf\u00e9".encode(), b"caf\\u00E9") + b"\n"), form),
        "a slash escaped": (respelled(entry.replace(b'"type"', b'"\\/type"') + b"\n"), form),
        "composed otherwise": (respelled(entry.replace("\u00e9".encode(), "e\u0301".encode()) + b"\n"),
                               {"commitments", "form"}),
        "a member twice": (respelled(entry[:-1] + b"," + position + b"}\n"), form),
        "a member twice, another first": (respelled(b'{"body":"",' + entry[1:] + b"\n"), form),
        "members in another order": (
            respelled(b"{" + position + b"," + entry.replace(position + b",", b"")[1:] + b"\n"), form
        ),
        "a fraction": (respelled(entry.replace(position, label + b":" + number + b".0") + b"\n"), form),
        "an exponent": (respelled(entry.replace(position, label + b":" + number + b"e0") + b"\n"), form),
        "a zero before": (respelled(entry.replace(position, label + b":0" + number) + b"\n"), form),
        "a plus": (respelled(entry.replace(position, label + b":+" + number) + b"\n"), form),
        "minus nothing": (respelled(entry.replace(position, label + b":-0") + b"\n"), form),
        "not a number": (respelled(entry.replace(position, label + b":NaN") + b"\n"), form),
        "a very long number": (respelled(entry.replace(position, label + b":" + b"9" * 9_000) + b"\n"), form),
        "half a character": (respelled(entry.replace(b'"type"', b'"\\ud83d"') + b"\n"), form),
        "bytes that are no text": (respelled(entry.replace(b'"type"', b'"\xff\xfe"') + b"\n"), form),
        "very deep": (first + b"\n" + b"[" * 200_000 + b"\n", form),
    }  # fmt: skip


def test_no_byte_of_the_form_is_without_meaning(case: Case) -> None:
    attacks = _raw(case)
    assert len(attacks) > 30
    for name, (data, layers) in attacks.items():
        assert data != case.data, name
        verdict = case.judge(data)
        assert not verdict.valid, name
        assert verdict.layers & layers, (name, verdict.said)


def test_a_bundle_cut_off_anywhere_is_found(case: Case) -> None:
    for stop in range(0, len(case.data), 97 if FULL else 997):
        verdict = case.judge(case.data[:stop])
        assert (verdict.valid, "form" in verdict.layers) == (False, True), stop
    ends = [at for at, byte in enumerate(case.data) if byte == 10]
    for stop in ends[:-1]:
        assert not case.judge(case.data[: stop + 1]).valid


def _meaning(data: bytes) -> Docs:
    """Return what a bundle says, without what nobody signed."""
    docs = read_docs(data)
    for doc in docs:
        for kind, name in _UNSIGNED:
            if doc["type"] == kind:
                del doc[name]
        doc.pop("sha256", None)
    return docs


def test_no_flipped_byte_passes_whatever_it_is(case: Case) -> None:
    @settings(max_examples=3_000 if FULL else 100, deadline=None)
    @given(
        which=st.sampled_from(["data", "bare", "whole"]),
        flips=st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=3),
    )
    def flip(which: str, flips: list[tuple[int, int]]) -> None:
        honest = getattr(case, which)
        flipped = bytearray(honest)
        for at, mask in flips:
            flipped[at % len(honest)] ^= mask
        changed = bytes(flipped)
        if changed == honest:
            return
        assert not case.judge(changed).valid
        try:
            sealed = written([*changed.splitlines(keepends=True)[:-1], read_docs(honest)[-1]])
        except ValueError:
            return
        if case.judge(sealed).valid:
            assert _meaning(sealed) == _meaning(honest)

    flip()
