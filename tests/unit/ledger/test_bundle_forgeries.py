"""What somebody with the signing key can put into a bundle, and what both verifiers find all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundling import Forge, Verdict, dump, judge, written

from meshflow.ledger.format.chain import genesis_hash
from meshflow.ledger.format.checkpoints import Checkpoint, rotation_text
from meshflow.ledger.format.notes import Signer, sign_note

LIFE = {"step_id": "", "attempt": 0}


def close(count: int) -> dict[str, Any]:
    return {"kind": "close", **LIFE, "count": count}


def erasure(number: int = 0, **erased: list[str]) -> dict[str, Any]:
    names = {seq.removeprefix("s"): fields for seq, fields in erased.items()}
    return {"kind": "erasure", "step_id": f"e{number}", "attempt": 0, "erased": names, "reason": "r", "authority": "a"}


def fork(parent: str, steps: int, digest: str) -> dict[str, Any]:
    return {"kind": "fork", **LIFE, "parent_run_id": parent, "parent_steps": steps, "parent_entry_hash": digest}


def body(**changes: Any) -> bytes:
    whole = {
        "v": 1,
        "kind": "step",
        "run_id": "r",
        "step_id": "s",
        "attempt": 1,
        "tenant_id": "acme",
        "commitments": {},
    }
    return dump(whole | changes)


@pytest.fixture
def verdict(tmp_path: Path) -> Callable[..., Verdict]:
    def of(forge: Forge, held: str = "", **more: Any) -> Verdict:
        path = tmp_path / "forged.jsonl"
        path.write_bytes(written(forge.docs(**more)))
        return judge(path, [forge.key], [held] if held else [])

    return of


Judge = Callable[..., Verdict]


def test_an_honest_forge_passes(verdict: Judge) -> None:
    forge = Forge()
    digests = [forge.add("r", payloads={"input": '"x"'}, commit={"output": "1"}) for _ in range(3)]
    forge.add("f", fork("r", 2, digests[1]))
    forge.add("f")
    forge.add("g", fork("nobody", 0, genesis_hash("nobody").hex()))
    forge.add("r", erasure(0, s0=["output"], s1=["output"]))
    forge.add("r", close(4))
    forge.add("r", erasure(1, s2=["output"]))
    forge.add("r", {"kind": "retention", **LIFE})
    assert verdict(forge).valid
    assert verdict(forge, runs={"r": "whole", "f": "inherited", "g": "whole"}).valid
    assert verdict(forge, held=forge.checkpoint(2)).valid


BODIES: dict[str, bytes] = {
    "a fraction": body(tokens=0.5),
    "a fraction that is whole": body(tokens=1).replace(b'"tokens":1', b'"tokens":1.0'),
    "not a number": body(tokens=1).replace(b'"tokens":1', b'"tokens":NaN'),
    "a number too large": body(tokens=2**53),
    "a number too small": body(tokens=-(2**53)),
    "a number of many digits": body(tokens=1).replace(b'"tokens":1', b'"tokens":1' + b"0" * 5_000),
    "minus nothing": body(tokens=0).replace(b'"tokens":0', b'"tokens":-0'),
    "a space": body().replace(b'":', b'": ', 1),
    "a member twice": body().replace(b'{"attempt":1', b'{"attempt":1,"attempt":1'),
    "an escape": body().replace(b'"step"', b'"\\u0073tep"'),
    "members out of order": body().replace(b'{"attempt":1,', b"{").replace(b'"v":1', b'"v":1,"attempt":1'),
    "a key beyond the plane": body(**{"\U0001f600": 1}),
    "half a character": body(tool="x").replace(b'"tool":"x"', b'"tool":"\\ud800"'),
    "a line separator escaped": body(tool="x").replace(b'"tool":"x"', b'"tool":"\\u2028"'),
    "too deep": body(tool="x").replace(b'"x"', b"[" * 64 + b"]" * 64),
    "far too deep": body(tool="x").replace(b'"x"', b"[" * 50_000 + b"]" * 50_000),
    "no object": b"[]",
    "nothing": b"",
    "text behind": body() + b" ",
    "another run": body(run_id="q"),
    "no run": body(run_id=7),
    "another version": body(v=2),
    "a version that is true": body().replace(b'"v":1', b'"v":true'),
    "an unknown kind": body(kind="dream"),
    "a kind that is none": body(kind=["step"]),
    "no attempt": body(attempt=None),
    "an attempt below zero": body(attempt=-1),
    "an attempt that is true": body(attempt=True),
    "no tenant": body(tenant_id=None),
    "no step": body(step_id=3),
    "commitments that are none": body(commitments=[]),
    "a commitment in capitals": body(commitments={"input": "A" * 64}),
    "a commitment to an unknown field": body(commitments={"secret": "a" * 64}),
    "a close that counts in words": body(kind="close", count="0"),
    "a close without a count": body(kind="close"),
    "a tombstone without a reason": body(kind="erasure", erased={}, authority="a"),
    "a tombstone over a list": body(kind="erasure", erased=[], reason="r", authority="a"),
    "a tombstone over a name": body(kind="erasure", erased={"x": ["input"]}, reason="r", authority="a"),
    "a tombstone over an unknown field": body(kind="erasure", erased={"0": ["x"]}, reason="r", authority="a"),
    "a fork of nobody": body(kind="fork", parent_steps=0, parent_entry_hash=""),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_no_ledger_writes_is_found(verdict: Judge, name: str) -> None:
    forge = Forge()
    forge.add("r", BODIES[name])
    found = verdict(forge)
    assert (found.valid, "body" in found.layers) == (False, True), found.said


def test_what_may_be_in_a_body_passes(verdict: Judge) -> None:
    forge = Forge()
    forge.add("r", body(step_id="", more={"a": [None, True, -1, 2**53 - 1, "\u2028\x7f\x01\U0001f600"]}, zz=[[[]]]))
    forge.add("r", body(step_id="deep").replace(b'"v":1', b'"v":1,"x":' + b"[" * 63 + b"]" * 63))
    assert verdict(forge).valid


def _twice(forge: Forge) -> None:
    forge.add("r", {"step_id": "a"})
    forge.add("r", {"step_id": "a"})


def _after_the_close(forge: Forge) -> None:
    forge.add("r")
    forge.add("r", close(1))
    forge.add("r")


def _closed_twice(forge: Forge) -> None:
    forge.add("r", close(0))
    forge.add("r", close(1) | {"attempt": 1})


def _counts_wrong(forge: Forge) -> None:
    forge.add("r")
    forge.add("r", close(2))


def _late_fork(forge: Forge) -> None:
    forge.add("r")
    forge.add("r", fork("p", 0, genesis_hash("p").hex()))


def _gone(forge: Forge) -> None:
    forge.add("r", commit={"input": "1"})


def _erased_and_there(forge: Forge) -> None:
    forge.add("r", payloads={"input": "1"})
    forge.add("r", erasure(0, s0=["input"]))


def _erased_twice(forge: Forge) -> None:
    forge.add("r", commit={"input": "1"})
    forge.add("r", erasure(0, s0=["input"]))
    forge.add("r", erasure(1, s0=["input"]))


def _erased_before(forge: Forge) -> None:
    forge.add("r", erasure(0, s1=["input"]))
    forge.add("r", commit={"input": "1"})


def _erased_itself(forge: Forge) -> None:
    forge.add("r", erasure(0, s0=["input"]))


def _erased_in_another_run(forge: Forge) -> None:
    forge.add("q", commit={"input": "1"})
    forge.add("r")
    forge.add("r", erasure(0, s0=["input"]))


def _erased_nothing(forge: Forge) -> None:
    forge.add("r")
    forge.add("r", erasure(0, s0=[]))


def _erased_a_field_twice(forge: Forge) -> None:
    forge.add("r", commit={"input": "1"})
    forge.add("r", erasure(0, s0=["input", "input"]))


def _skipping(forge: Forge) -> None:
    forge.add("r")
    forge.add("r", seq=2)


def _backwards(forge: Forge) -> None:
    forge.add("r")
    forge.add("r", seq=0)


def _unlinked(forge: Forge) -> None:
    forge.add("r")
    forge.add("r", prev_hash="a" * 64)


def _of_another_genesis(forge: Forge) -> None:
    forge.add("r", prev_hash=genesis_hash("q").hex())


def _fork_of_another_step(forge: Forge) -> None:
    first = forge.add("p")
    forge.add("p")
    forge.add("r", fork("p", 2, first))


def _fork_of_another_genesis(forge: Forge) -> None:
    forge.add("r", fork("p", 0, genesis_hash("q").hex()))


def _fork_of_what_is_not_there(forge: Forge) -> None:
    digest = forge.add("p")
    forge.add("r", fork("p", 2, digest))


def _fork_of_nobody(forge: Forge) -> None:
    forge.add("r", fork("p", 1, "a" * 64))


def _fork_of_itself(forge: Forge) -> None:
    forge.add("r", fork("r", 1, "a" * 64))


def _fork_before_its_parent(forge: Forge) -> None:
    other = Forge()
    digest = other.add("p")
    forge.add("r", fork("p", 1, digest))
    forge.add("p")


def _payload_of_another_entry(forge: Forge) -> None:
    forge.add("r", payloads={"input": "1"})
    forge.add("r", payloads={"input": "2"})
    forge.entries[0]["payloads"], forge.entries[1]["payloads"] = (
        forge.entries[1]["payloads"], forge.entries[0]["payloads"],
    )  # fmt: skip


def _payload_of_another_field(forge: Forge) -> None:
    forge.add("r", payloads={"input": "1", "output": "1"})
    there = forge.entries[0]["payloads"]
    there["input"], there["output"] = there["output"], there["input"]


def _payload_without_commitment(forge: Forge) -> None:
    forge.add("r")
    forge.entries[0]["payloads"]["input"] = {"data": "1", "salt": "0" * 32}


DEEDS: dict[Callable[[Forge], None], str] = {
    _twice: "keys", _after_the_close: "places", _closed_twice: "places", _counts_wrong: "places", _late_fork: "places",
    _gone: "erasures", _erased_and_there: "erasures", _erased_twice: "erasures", _erased_before: "erasures",
    _erased_itself: "erasures", _erased_in_another_run: "erasures", _erased_nothing: "erasures",
    _erased_a_field_twice: "erasures", _skipping: "chain", _backwards: "chain", _unlinked: "chain",
    _of_another_genesis: "chain", _fork_of_another_step: "forks", _fork_of_another_genesis: "forks",
    _fork_of_what_is_not_there: "forks", _fork_of_nobody: "forks", _fork_of_itself: "forks",
    _fork_before_its_parent: "forks", _payload_of_another_entry: "commitments",
    _payload_of_another_field: "commitments", _payload_without_commitment: "commitments",
}  # fmt: skip


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__.strip("_"))
def test_the_keys_owner_cannot_break_the_rules_of_a_run(verdict: Judge, deed: Callable[[Forge], None]) -> None:
    forge = Forge()
    deed(forge)
    found = verdict(forge)
    assert (found.valid, DEEDS[deed] in found.layers) == (False, True), found.said


def test_a_run_of_which_a_part_is_given_may_have_gaps_and_says_so(verdict: Judge) -> None:
    forge = Forge()
    _skipping(forge)
    assert verdict(forge, runs={"r": "inherited"}).valid
    assert not verdict(forge, runs={"r": "tenant"}).valid  # of which tenant
    assert verdict(forge, runs={"r": "tenant"}, tenant="acme").valid
    assert "form" in verdict(forge, runs={"r": "whole"}, tenant="bolt").layers
    _unlinked(forge)
    assert "chain" in verdict(forge, runs={"r": "inherited"}).layers


def test_claims_of_the_header_are_checked(verdict: Judge) -> None:
    forge = Forge()
    forge.add("r", payloads={"input": "1"})
    for more in ({"runs": {"r": "whole", "q": "whole"}}, {"runs": {"q": "whole"}}, {"runs": {}}, {"payloads": False},
                 {"tenant": "bolt"}, {"runs": {"r": "much"}}):  # fmt: skip
        assert "form" in verdict(forge, **more).layers, more
    assert "form" in verdict(Forge()).layers  # no entry at all


def test_a_checkpoint_of_another_log_size_key_or_content_is_found(verdict: Judge) -> None:
    forge = Forge()
    forge.add("r")
    early = forge.checkpoint()
    forge.add("r")
    stranger = Signer.generate(forge.origin)
    lie = Checkpoint(forge.origin, 2, b"x" * 32).sign(forge.signer)
    for notes, layer in (
        ([early], "form"), ([forge.checkpoint(origin="example.org/other")], "checkpoint"),
        ([forge.checkpoint(signer=stranger)], "checkpoint"), ([lie], "merkle_log"),
        ([Checkpoint(forge.origin, 1, b"x" * 32).sign(forge.signer), forge.checkpoint()], "merkle_log"),
        ([forge.checkpoint(), early], "form"), ([early, early, forge.checkpoint()], "form"),
        ([forge.checkpoint() + "\n"], "checkpoint"), (["hello\n"], "checkpoint"),
    ):  # fmt: skip
        found = verdict(forge, notes=notes)
        assert (found.valid, layer in found.layers) == (False, True), (layer, found.said)
    assert verdict(forge, notes=[early, forge.checkpoint()]).valid
    both = forge.checkpoint() + stranger.line(forge.checkpoint().split("\n\n")[0] + "\n")
    assert verdict(forge, notes=[both]).valid  # a witness may sign as well


def test_two_histories_do_not_both_follow_from_a_checkpoint(verdict: Judge) -> None:
    signer = Signer.generate("example.org/ledger")
    one, other = Forge(signer), Forge(signer)
    for forge, tokens in ((one, 1), (other, 2)):
        forge.add("r", {"tokens": tokens})
    held = one.checkpoint()
    for forge in (one, other):
        forge.add("r")
    assert verdict(one, held=held).valid
    found = verdict(other, held=held)
    assert (found.valid, found.layers) == (False, {"held_checkpoint"})
    assert verdict(other).valid  # nothing but a checkpoint from outside tells
    assert "held_checkpoint" in verdict(one, held=Forge().checkpoint()).layers
    one.entries.pop()
    one.entries.pop()
    one.add("r", {"tokens": 1})
    one.add("x")
    late = one.checkpoint()
    one.entries.pop()
    assert "held_checkpoint" in verdict(one, held=late).layers


def _rotated(old: Forge, new: Signer, size: int, **changes: Any) -> dict[str, Any]:
    tree = old.checkpoint(size).split("\n")
    note = sign_note(
        rotation_text(Checkpoint.parse("\n".join(tree[:3]) + "\n"), old.signer.verifier, new.verifier),
        changes.pop("by", old.signer),
    )
    return {"type": "key", "key": str(new.verifier), "note": note, "since": size} | changes


def test_a_key_takes_over_only_by_a_note_of_the_one_before(tmp_path: Path) -> None:
    forge, new = Forge(), Signer.generate("example.org/new")
    for _ in range(4):
        forge.add("r")

    def of(rotation: dict[str, Any], notes: list[str], key: str = forge.key) -> Verdict:
        docs = forge.docs(notes=notes)
        path = tmp_path / "rotated.jsonl"
        path.write_bytes(written([*docs[:2], rotation, *docs[2:]]))
        return judge(path, [key])

    good = _rotated(forge, new, 2)
    newest = forge.checkpoint(signer=new)
    assert of(good, [newest]).valid
    assert of(good, [forge.checkpoint(1), forge.checkpoint(2), newest]).valid
    assert of(good, [newest], str(new.verifier)).valid
    for rotation, notes, layer in (
        (_rotated(forge, new, 2, by=new), [newest], "signers"),
        (good | {"since": 3}, [newest], "signers"),
        (good | {"key": str(Signer.generate("example.org/new").verifier)}, [newest], "signers"),
        (good | {"note": ""}, [newest], "signers"),
        (good, [forge.checkpoint()], "checkpoint"),  # the old key, after its time
        (good, [forge.checkpoint(1, signer=new), newest], "checkpoint"),  # the new one, before its time
    ):
        found = of(rotation, notes)
        assert (found.valid, layer in found.layers) == (False, True), (layer, found.said)
    wrong = Forge(forge.signer)
    wrong.add("q")
    wrong.add("q")
    assert "merkle_log" in of(_rotated(wrong, new, 2), [newest]).layers
