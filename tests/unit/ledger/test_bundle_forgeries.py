"""What somebody with the signing key can put into a bundle, and what both verifiers find all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundling import Forge, Verdict, judge, written
from deeds import BODIES, DEEDS, body, honest, skipping, unlinked
from forgery import Entry

from meshflow.ledger.format.checkpoints import Checkpoint, rotation_text
from meshflow.ledger.format.notes import Signer, sign_note


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
    honest(forge)
    assert verdict(forge).valid
    assert verdict(forge, runs={"r": "whole", "f": "inherited", "g": "whole"}).valid
    assert verdict(forge, held=forge.checkpoint(2)).valid


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_no_ledger_writes_is_found(verdict: Judge, name: str) -> None:
    forge = Forge()
    forge.add("r", BODIES[name])
    step = "s" if name == "another run" else None  # of a body that is none, nobody knows the step
    verdict(forge).assert_found("body", Entry("r", 0, step))


def test_what_may_be_in_a_body_passes(verdict: Judge) -> None:
    forge = Forge()
    forge.add("r", body(step_id="", more={"a": [None, True, -1, 2**53 - 1, "\u2028\x7f\x01\U0001f600"]}, zz=[[[]]]))
    forge.add("r", body(kind="dream"))  # of a later version, and without a rule that this one would have to know
    forge.add("r", body(step_id="deep").replace(b'"v":1', b'"v":1,"x":' + b"[" * 63 + b"]" * 63))
    assert verdict(forge).valid


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
def test_the_keys_owner_cannot_break_the_rules_of_a_run(verdict: Judge, deed: Callable[[Forge], None]) -> None:
    forge = Forge()
    deed(forge)
    layer, where = DEEDS[deed]
    verdict(forge).assert_found(layer, where)


def test_a_run_of_which_a_part_is_given_may_have_gaps_and_says_so(verdict: Judge) -> None:
    forge = Forge()
    skipping(forge)
    assert verdict(forge, runs={"r": "inherited"}).valid
    assert not verdict(forge, runs={"r": "tenant"}).valid  # of which tenant
    assert verdict(forge, runs={"r": "tenant"}, tenant="acme").valid
    assert "form" in verdict(forge, runs={"r": "whole"}, tenant="bolt").layers
    unlinked(forge)
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
