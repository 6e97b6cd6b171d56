"""Signed notes and checkpoints, against notes published by others and against forgers."""

from __future__ import annotations

import base64

import pytest

from meshflow.errors import LedgerError
from meshflow.ledger.format.checkpoints import (
    Checkpoint,
    open_checkpoint,
    open_rotation,
    read_checkpoint,
    rotation_text,
)
from meshflow.ledger.format.notes import NoteError, Signer, Verifier, open_note, sign_note, split_note
from meshflow.ledger.format.signers import Trust

# Published in the documentation of Go's golang.org/x/mod/sumdb/note.
NEUMANN = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ESSAY = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
ESSAY_NOTE = (
    f"{ESSAY}\n\N{EM DASH} PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
SUMDB = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"


def test_a_published_note_verifies() -> None:
    text, vouching = open_note(ESSAY_NOTE, [Verifier.parse(NEUMANN)])
    assert (text, [verifier.name for verifier in vouching]) == (ESSAY, ["PeterNeumann"])


@pytest.mark.parametrize("text", [NEUMANN, SUMDB])
def test_published_keys_read_and_write(text: str) -> None:
    assert str(Verifier.parse(text)) == text


@pytest.mark.parametrize(
    "note",
    [
        ESSAY_NOTE.replace("answer", "Answer"),
        ESSAY_NOTE.replace("x08go/ZJk", "x08go/ZJl"),
        ESSAY_NOTE.replace("x08go/ZJk", "x08gp/ZJk"),
        ESSAY_NOTE.replace("PeterNeumann x", "PeterNeuman x"),
        ESSAY_NOTE.replace("\N{EM DASH}", "-"),
        ESSAY_NOTE[:-1],
        ESSAY_NOTE + "\n",
        ESSAY,
        "",
        "\n\n",
        ESSAY_NOTE.replace("AM=", "AM"),
    ],
)
def test_a_changed_note_does_not_verify(note: str) -> None:
    with pytest.raises(NoteError):
        open_note(note, [Verifier.parse(NEUMANN)])


@pytest.mark.parametrize(
    "text",
    ["", "a", "a+b", NEUMANN.replace("c74f20a3", "c74f20a4"), NEUMANN.replace("Peter", "Pete"), NEUMANN[:-4],
     "a b+c74f20a3+AA==", NEUMANN.replace("ARpc", "AhpC")],
)  # fmt: skip
def test_a_malformed_key_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        Verifier.parse(text)


def test_several_keys_may_sign_and_one_known_is_enough() -> None:
    one, two = Signer.generate("one"), Signer.generate("two")
    note = sign_note("text\n\nwith a gap\n", one, two)
    assert open_note(note, [two.verifier])[1] == [two.verifier]
    text, vouching = open_note(note, [two.verifier, one.verifier])
    assert (text, vouching) == ("text\n\nwith a gap\n", [one.verifier, two.verifier])
    with pytest.raises(NoteError, match="none of the keys"):
        open_note(note, [Signer.generate("one").verifier])
    with pytest.raises(NoteError, match="none of the keys"):
        open_note(note, [])


def test_one_wrong_signature_of_a_known_key_spoils_the_note() -> None:
    one, two = Signer.generate("one"), Signer.generate("two")
    note = sign_note("text\n", one) + sign_note("other\n", two).split("\n\n")[1]
    assert open_note(note, [one.verifier])[1] == [one.verifier]
    with pytest.raises(NoteError, match="'two' is not right"):
        open_note(note, [one.verifier, two.verifier])


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n", "nul\x00\n"])
def test_a_text_that_is_no_note_is_not_signed(text: str) -> None:
    with pytest.raises(NoteError):
        sign_note(text, Signer.generate("one"))


def test_a_flood_of_signatures_is_refused() -> None:
    note = sign_note("text\n", *[Signer.generate("one")] * 101)
    with pytest.raises(NoteError, match="too many"):
        split_note(note)
    with pytest.raises(NoteError, match="too long"):
        split_note("x" * 1_000_001)


def test_a_signing_key_reads_back_and_never_shows() -> None:
    signer = Signer.generate("log.example/1")
    assert Signer.parse(signer.secret()) == signer
    assert Signer.parse(signer.secret()).verifier == signer.verifier
    assert base64.b64encode(b"\x01" + signer.seed).decode() not in repr(signer)
    for text in ("", signer.secret()[8:], signer.secret()[:-4], signer.secret().replace("log", "lag")):
        with pytest.raises(NoteError) as caught:
            Signer.parse(text)
        assert not text or text not in str(caught.value)


def test_a_checkpoint_has_the_form_of_tlog_checkpoint() -> None:
    checkpoint = Checkpoint("log.example/1", 20_852_163, bytes(range(32)))
    root = base64.b64encode(bytes(range(32))).decode()
    assert checkpoint.text() == f"log.example/1\n20852163\n{root}\n"
    signer = Signer.generate("log.example/1")
    note = checkpoint.sign(signer)
    assert open_checkpoint(note, [signer.verifier], "log.example/1") == checkpoint == read_checkpoint(note)
    assert Checkpoint.parse(checkpoint.text() + "extension\n") == checkpoint
    with pytest.raises(NoteError, match="not of 'other'"):
        open_checkpoint(note, [signer.verifier], "other")


@pytest.mark.parametrize(
    "text",
    ["", "o\n1\n", "o\n01\nAAAA\n", "o\n-1\n" + "A" * 43 + "=\n", "o\n1\nAAAA\n", "o\n1\n" + "A" * 43 + "=",
     "\n1\n" + "A" * 43 + "=\n", "o\n\u0661\n" + "A" * 43 + "=\n", "o\n1\n" + "A" * 43 + "=\n\n",
     "o\n" + "9" * 19 + "\n" + "A" * 43 + "=\n"],
)  # fmt: skip
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        Checkpoint.parse(text)


def rotation(old: Signer, new: Signer, size: int, origin: str = "o") -> tuple[str, int, str]:
    text = rotation_text(Checkpoint(origin, size, bytes(32)), old.verifier, new.verifier)
    return str(new.verifier), size, sign_note(text, old)


def test_trust_passes_from_key_to_key() -> None:
    one, two, three = (Signer.generate(name) for name in ("one", "two", "three"))
    rows = [(str(one.verifier), 0, ""), rotation(one, two, 10), rotation(two, three, 20)]
    checkpoint, named = open_rotation(rows[1][2], one.verifier)
    assert (checkpoint.size, named) == (10, two.verifier)
    trust = Trust("o", rows, [one.verifier])
    assert (trust.verifiers, trust.errors) == ([one.verifier, two.verifier, three.verifier], [])
    for signer, size, fine in (
        (one, 0, True), (one, 10, True), (one, 11, False), (two, 10, True), (two, 9, False), (two, 20, True),
        (three, 20, True), (three, 10**9, True), (three, 5, False),
    ):  # fmt: skip
        note = Checkpoint("o", size, bytes(32)).sign(signer)
        if fine:
            assert trust.open(note).size == size
        else:
            with pytest.raises(NoteError, match="another time"):
                trust.open(note)
    later = Trust("o", rows, [two.verifier])
    assert later.verifiers == [two.verifier, three.verifier]
    assert (later.covers(9), later.covers(10)) == (False, True)


def test_a_key_that_nobody_handed_over_to_is_not_trusted() -> None:
    one, two, thief = (Signer.generate(name) for name in ("one", "two", "thief"))
    first = (str(one.verifier), 0, "")
    forged = [
        (str(two.verifier), 10, ""),
        (str(thief.verifier), 10, rotation(one, two, 10)[2]),
        (str(two.verifier), 11, rotation(one, two, 10)[2]),
        rotation(one, two, 10, origin="other"),
        rotation(thief, two, 10),
        ("nonsense", 10, ""),
    ]
    for row in forged:
        trust = Trust("o", [first, row])
        assert trust.verifiers == [one.verifier]
        assert trust.errors
    assert Trust("o", [first], [thief.verifier]).errors == [
        "none of the keys given is one that this ledger was signed with"
    ]
    assert issubclass(NoteError, LedgerError)
