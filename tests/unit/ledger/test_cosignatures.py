"""Cosignatures, to the byte of the specification."""

from __future__ import annotations

import base64
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from meshflow.ledger.format.checkpoints import Checkpoint
from meshflow.ledger.format.cosignatures import (
    ED25519,
    ML_DSA_44,
    Cosigner,
    CosigningKey,
    cosignatures,
    signed_bytes,
    with_lines,
)
from meshflow.ledger.format.notes import NoteError, Signer, sign_note, split_note

LOG = "example.com/behind-the-sofa"
SPEC = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeM"
    "cTOAYQ8=\n"
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+m"
    "bIUBkBIfZ+qnA==\n"
)
"""The example of tlog-cosignature, whose keys it does not publish."""
BOTH = pytest.mark.parametrize("algorithm", [ED25519, ML_DSA_44], ids=["ed25519", "ml-dsa-44"])


def a_checkpoint() -> tuple[str, str]:
    text = Checkpoint(LOG, 12, b"r" * 32).text()
    return text, sign_note(text, Signer.generate(LOG))


def test_the_example_of_the_specification_has_the_time_that_it_says() -> None:
    text, signatures = split_note(SPEC)
    name, _, signature = signatures[1]
    assert (name, len(signature), int.from_bytes(signature[:8])) == ("witness.example.com/w1", 72, 1_679_315_147)
    assert signed_bytes(name, ED25519, text, 1_679_315_147) == (
        b"cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n"
        b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )


def test_an_ed25519_cosignature_verifies_by_hand() -> None:
    text, note = a_checkpoint()
    key = CosigningKey.generate("witness.example/w1")
    line = key.line(text, 1_700_000_000)
    dash, name, encoded = line.removesuffix("\n").split(" ")
    data, public = base64.b64decode(encoded), key.verifier.public
    assert (dash, name, len(data)) == ("—", "witness.example/w1", 4 + 8 + 64)
    assert data[:4] == sha256(b"witness.example/w1\n\x04" + public).digest()[:4]
    assert int.from_bytes(data[4:12], "big") == 1_700_000_000
    signed = b"cosignature/v1\ntime 1700000000\n" + text.encode()
    Ed25519PublicKey.from_public_bytes(public).verify(data[12:], signed)
    assert cosignatures(note + line, [key.verifier]) == [(key.verifier, 1_700_000_000)]


def test_an_ml_dsa_44_cosignature_verifies_by_hand() -> None:
    text, note = a_checkpoint()
    key = CosigningKey.generate("witness.example/w1", ML_DSA_44)
    line = key.line(text, 7)
    data, public = base64.b64decode(line.split(" ")[2]), key.verifier.public
    assert data[:4] == sha256(b"witness.example/w1\n\x06" + public).digest()[:4]
    assert len(data) == 4 + 8 + 2_420
    signed = (
        b"subtree/v1\n\0" + bytes([18]) + b"witness.example/w1" + (7).to_bytes(8, "big") + bytes([len(LOG)])
        + LOG.encode() + (0).to_bytes(8, "big") + (12).to_bytes(8, "big") + b"r" * 32
    )  # fmt: skip
    MLDSA44PublicKey.from_public_bytes(public).verify(data[12:], signed)
    assert cosignatures(note + line, [key.verifier]) == [(key.verifier, 7)]


@BOTH
def test_keys_are_read_as_they_are_written_and_the_private_one_stays_hidden(algorithm: int) -> None:
    key = CosigningKey.generate("witness.example/w1", algorithm)
    assert CosigningKey.parse(key.secret() + "\n") == key
    assert Cosigner.parse(str(key.verifier)) == key.verifier
    assert key.secret() not in repr(key)
    assert base64.b64encode(key.seed).decode() not in repr(key)
    for damaged in (str(key.verifier)[:-4] + "AAA=", str(key.verifier).replace("w1", "w2"), "w", "w+0+"):
        with pytest.raises(NoteError):
            Cosigner.parse(damaged)
    for damaged in (key.secret().replace("w1", "w2"), key.secret()[:-4], "PRIVATE+KEY+w", str(key.verifier)):
        with pytest.raises(NoteError) as caught:
            CosigningKey.parse(damaged)
        assert damaged not in str(caught.value)


def test_a_key_of_a_log_does_not_cosign() -> None:
    signer = Signer.generate("witness.example/w1")
    with pytest.raises(NoteError, match="not one that cosigns"):
        Cosigner.parse(str(signer.verifier))
    with pytest.raises(NoteError, match="not one that cosigns"):
        CosigningKey.parse(signer.secret())
    # The same key as a log's: what it signed as a log is no cosignature.
    text, _ = a_checkpoint()
    cosigner = Cosigner("witness.example/w1", ED25519, signer.verifier.public)
    assert cosignatures(sign_note(text, signer), [cosigner]) == []


@BOTH
def test_a_cosignature_holds_for_one_text_and_one_time(algorithm: int) -> None:
    text, note = a_checkpoint()
    key = CosigningKey.generate("witness.example/w1", algorithm)
    line = key.line(text, 1_700_000_000)
    data = bytearray(base64.b64decode(line.split(" ")[2]))
    data[11] ^= 1
    later = f"— witness.example/w1 {base64.b64encode(data).decode()}\n"
    other = note.replace("\n12\n", "\n13\n") + line
    for wrong in (note + later, other):
        with pytest.raises(NoteError, match="not right"):
            cosignatures(wrong, [key.verifier])
    assert cosignatures(note, [key.verifier]) == []


@BOTH
def test_a_time_of_zero_or_beyond_63_bits_vouches_for_nothing(algorithm: int) -> None:
    text, note = a_checkpoint()
    key = CosigningKey.generate("witness.example/w1", algorithm)
    assert cosignatures(note + key.line(text, 0), [key.verifier]) == []
    with pytest.raises(NoteError, match="not right"):
        cosignatures(note + key.line(text, 1 << 63), [key.verifier])


def test_lines_of_unknown_keys_are_passed_over_and_no_witness_counts_twice() -> None:
    text, note = a_checkpoint()
    ours, stranger = CosigningKey.generate("w.example/1"), CosigningKey.generate("w.example/1")
    lines = stranger.line(text, 5) + ours.line(text, 6) + ours.line(text, 7)
    cosigned = with_lines(note, lines, [ours.verifier])
    assert cosigned == note + ours.line(text, 6)
    assert with_lines(cosigned, lines, [ours.verifier]) == cosigned
    assert cosignatures(note + lines, [ours.verifier]) == [(ours.verifier, 6)]
    wrong = ours.line(text.replace("12", "13"), 6)
    with pytest.raises(NoteError, match="not right"):
        with_lines(note, wrong, [ours.verifier])
    for rubbish in ("", "hello\n", "— x\n", ours.line(text, 5) + "\n"):
        with pytest.raises(NoteError):
            with_lines(note, rubbish, [ours.verifier])
