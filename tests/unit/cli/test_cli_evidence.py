"""``meshflow ledger checkpoint|prove|compare|anchor|doctor|verify`` with what is held outside."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from meshflow import ReplayLedger
from meshflow.ledger.format.checkpoints import read_checkpoint
from meshflow.ledger.format.cosignatures import CosigningKey

from .conftest import Shell


def keys(shell: Shell) -> str:
    """Keep the ledger's public keys in a file, as an auditor would."""
    shell.write("held.keys", "\n".join(shell("ledger", "checkpoint", "--json").document["keys"]))
    return "held.keys"


def write(path: Path, count: int = 1) -> None:
    async def steps() -> None:
        async with ReplayLedger(path) as ledger:
            for _ in range(count):
                await ledger.write({"run_id": "later", "node_id": "n"})

    asyncio.run(steps())


def checks(document: dict[str, Any]) -> dict[str, str]:
    return {one["check"]: one["level"] for one in document["checks"]}


def test_a_checkpoint_is_printed_as_it_is_and_written_once(shell: Shell, ledger: Path) -> None:
    note = shell("ledger", "checkpoint").out
    size = read_checkpoint(note).size
    assert shell("ledger", "checkpoint", "-o", "held").code == 0
    assert (shell.folder / "held").read_text() == note
    assert shell("ledger", "checkpoint", "-o", "held").code == 2
    assert shell("ledger", "checkpoint", "-o", "held", "--force").code == 0
    document = shell("ledger", "checkpoint", "--json").document
    assert (document["size"], document["checkpoint"]) == (size, note)


def test_a_proof_of_a_step_is_checked_without_a_ledger(shell: Shell, ledger: Path) -> None:
    held = keys(shell)
    for words in (("desk", "pay"), ("desk", "0"), ("--", "desk", "-1"), ("desk", "--seq", "3")):
        assert shell("ledger", "prove", "-o", "proof", "--force", *words).code == 0
        assert shell("ledger", "prove", *words).document == json.loads((shell.folder / "proof").read_text())
    ledger.rename(shell.folder / "gone")
    done = shell("ledger", "prove", "--check", "proof", "--key", held)
    assert done.code == 0
    assert "holds: entry 3 of run desk" in done.out
    proof = json.loads((shell.folder / "proof").read_text())
    assert shell("ledger", "prove", "--check", "proof", "--key", proof["keys"][0], "--json").document["valid"]
    for change in (
        {"seq": 4}, {"run_id": "other"}, {"leaf_index": 1}, {"path": proof["path"][:-1]}, {"origin": "else"},
        {"entry": {**proof["entry"], "body": proof["entry"]["body"] + " "}}, {"entry": 1}, {"path": [1]},
        {"checkpoint": "x"}, {"leaf_index": "x"},
    ):  # fmt: skip
        shell.write("wrong", json.dumps(proof | change))
        done = shell("ledger", "prove", "--check", "wrong", "--key", held, "--json")
        assert (done.code, done.document["valid"]) == (1, False), change
    stranger = str(CosigningKey.generate("x").verifier)
    assert shell("ledger", "prove", "--check", "proof", "--key", stranger).code == 2


def test_a_proof_of_an_extension_is_checked_without_a_ledger(shell: Shell, ledger: Path) -> None:
    held = keys(shell)
    shell("ledger", "checkpoint", "-o", "before")
    write(ledger, 3)
    shell("ledger", "checkpoint", "-o", "after")
    assert shell("ledger", "prove", "--since", "before", "-o", "proof").code == 0
    assert shell("ledger", "compare", "before", "after").code == 0
    ledger.rename(shell.folder / "gone")
    done = shell("ledger", "prove", "--check", "proof", "--key", held)
    assert (done.code, "an extension of the checkpoint of" in done.out) == (0, True)
    assert shell("ledger", "compare", "after", "before", "--proof", "proof", "--key", held).code == 0
    assert shell("ledger", "compare", "after", "before", "--proof", "proof").code == 2
    proof = json.loads((shell.folder / "proof").read_text())
    shell.write("wrong", json.dumps(proof | {"path": proof["path"][1:]}))
    assert shell("ledger", "prove", "--check", "wrong", "--key", held).code == 1
    done = shell("ledger", "compare", "before", "after", "--proof", "wrong", "--key", held)
    assert (done.code, "TWO HISTORIES" in done.out) == (1, True)


@pytest.mark.parametrize(
    "words",
    [
        ("prove",), ("prove", "desk"), ("prove", "desk", "pay", "--seq", "1"), ("prove", "desk", "--since", "x"),
        ("prove", "--check", "meshflow_runs.db", "--key", "k"), ("prove", "--check", "held"),
        ("verify", "--quorum", "2"), ("verify", "--cosigned-within", "2h"),
        ("verify", "--witness", "nobody"), ("verify", "--anchor", "s3:bucket"),
        ("verify", "--key", "nobody"),
    ],
)  # fmt: skip
def test_a_command_line_that_makes_no_sense_is_refused(shell: Shell, ledger: Path, words: tuple[str, ...]) -> None:
    shell.write("held", "{}")
    shell.write("k", "x")
    assert shell("ledger", *words).code == 2


def test_an_entry_that_is_not_there_cannot_be_proven(shell: Shell, ledger: Path) -> None:
    for words in (("desk", "nope"), ("desk", "99"), ("nope", "--seq", "0"), ("desk", "--seq", "99")):
        assert shell("ledger", "prove", *words).code == 4


def test_configured_anchors_are_published_to_and_compared_with(shell: Shell, ledger: Path) -> None:
    shell.write("meshflow.yaml", "ledger: {anchors: [{use: file, path: kept}, {use: file, path: no/kept}]}\n")
    done = shell("ledger", "anchor", "--json")
    assert done.code == 1
    assert [one["published"] for one in done.document["anchors"]] == [True, False]
    assert "cannot be written" in done.document["anchors"][1]["problem"]
    (shell.folder / "no").mkdir()
    assert shell("ledger", "anchor").code == 0
    assert shell("ledger", "anchor", "file").code == 0
    assert shell("ledger", "anchor", "s3").code == 3
    for words in (("--anchor", "all"), ("--anchor", "file"), ("--anchor", "file:kept")):
        done = shell("ledger", "verify", *words)
        assert done.code == 0, done.out
        assert "anchor" in done.out.split("not checked")[0]
    assert shell("ledger", "verify", "--anchor", "git").code == 3
    one = shell("ledger", "verify", "desk", "--anchor", "all", "--json").document
    assert (one["valid"], "anchor" in one["checked"], one["whole"]) == (True, True, None)
    shell.write("meshflow.yaml", "")
    assert shell("ledger", "anchor").code == 3


def test_a_ledger_rewritten_by_whoever_has_the_key_does_not_verify_against_what_is_held(
    shell: Shell, ledger: Path
) -> None:
    held = keys(shell)
    shell("ledger", "checkpoint", "-o", "before")
    assert shell("ledger", "verify", "--checkpoint", "before", "--key", held).code == 0
    for part in ledger.parent.glob("meshflow_runs.db*"):
        if not part.name.endswith(".key"):
            part.unlink()
    write(ledger, 40)
    assert shell("ledger", "verify").code == 0
    done = shell("ledger", "verify", "--checkpoint", "before")
    assert (done.code, "the ledger as a whole DOES NOT verify" in done.out) == (1, True)
    done = shell("ledger", "verify", "later", "--checkpoint", "before", "--json")
    assert (done.code, done.document["valid"]) == (1, False)


def test_witnesses_are_counted(shell: Shell, ledger: Path) -> None:
    key = CosigningKey.generate("w.example/1")
    note = shell("ledger", "checkpoint").out
    text = note.split("\n\n")[0] + "\n"
    shell.write("cosigned", note + key.line(text, 1_700_000_000))
    shell.write("witnesses", f"{key.verifier}\n{CosigningKey.generate('w.example/2').verifier}\n")
    done = shell("ledger", "verify", "--checkpoint", "cosigned", "--witness", str(key.verifier))
    assert done.code == 0
    assert "cosigned by w.example/1 at 2023-11-14T22:13:20" in done.out
    words = ("ledger", "verify", "--checkpoint", "cosigned", "--witness", "witnesses", "--json")
    assert shell(*words).document["valid"] is False
    assert shell(*words, "--quorum", "1").document["whole"]["witness"]["of"] == 2
    assert shell(*words, "--quorum", "3").code == 4
    old = shell(*words, "--quorum", "1", "--cosigned-within", "7d")
    assert (old.code, "cosigned since" in str(old.document["whole"]["errors"])) == (1, True)
    assert shell(*words, "--quorum", "1", "--cosigned-within", "2000w").code == 0
    assert shell(*words, "--cosigned-within", "soon").code == 4


def test_the_doctor_finds_a_sound_ledger_sound(shell: Shell, ledger: Path) -> None:
    done = shell("ledger", "doctor", "--json")
    assert (done.code, done.document["ok"]) == (0, True), done.out
    assert set(checks(done.document)) >= {
        "schema", "append_only", "secure_delete", "wal", "disk", "clock", "key", "checkpoint",
    }  # fmt: skip
    assert "0 errors" in shell("ledger", "doctor").out
    assert shell("ledger", "doctor", "--ledger", "absent.db").code == 4


@pytest.mark.parametrize(
    ("harm", "check", "level"),
    [
        ("chmod", "key", "error"),
        ("other key", "key", "error"),
        ("no key", "key", "error"),
        ("trigger", "append_only", "error"),
        ("added trigger", "append_only", "error"),
        ("clock", "clock", "warning"),
        ("uncovered", "checkpoint", "warning"),
        ("foreign checkpoint", "checkpoint", "error"),
        ("unsigned", "key", "warning"),
    ],
)
def test_the_doctor_finds_what_is_wrong(shell: Shell, ledger: Path, harm: str, check: str, level: str) -> None:
    key = ledger.with_name(ledger.name + ".key")
    db = sqlite3.connect(ledger, isolation_level=None)
    if harm == "chmod":
        key.chmod(0o644)
    elif harm == "other key":
        write(shell.folder / "else.db")
        (shell.folder / "else.db.key").replace(key)
    elif harm == "no key":
        key.unlink()
    elif harm == "trigger":
        db.execute("DROP TRIGGER entries_update")
    elif harm == "added trigger":
        db.execute("CREATE TRIGGER mine AFTER INSERT ON entries BEGIN SELECT 1; END")
    elif harm == "clock":
        db.execute("DROP TRIGGER checkpoints_update")
        db.execute("UPDATE checkpoints SET at_us = 4000000000000000 WHERE size = (SELECT max(size) FROM checkpoints)")
    elif harm == "uncovered":
        db.execute("DROP TRIGGER checkpoints_delete")
        db.execute("DELETE FROM checkpoints WHERE size = (SELECT max(size) FROM checkpoints)")
    elif harm == "foreign checkpoint":
        db.execute("DROP TRIGGER checkpoints_update")
        db.execute(
            "UPDATE checkpoints SET note = replace(note, '=', 'A') WHERE size = (SELECT max(size) FROM checkpoints)"
        )
    else:
        shell.write("meshflow.yaml", "ledger: {key: null}\n")
    db.close()
    done = shell("ledger", "doctor", "--json")
    assert checks(done.document)[check] == level, done.out
    assert (done.code, done.document["ok"]) == ((1, False) if "error" in checks(done.document).values() else (0, True))


def test_the_second_key_is_shown_and_examined(shell: Shell, ledger: Path) -> None:
    shell.write("meshflow.yaml", "ledger: {ml_dsa_44: true}\n")
    assert checks(shell("ledger", "doctor", "--json").document)["ml_dsa_44"] == "error"
    write(ledger)
    shell("ledger", "checkpoint", "--json")
    db = sqlite3.connect(ledger, isolation_level=None)
    db.execute("DROP TRIGGER checkpoints_delete")
    db.execute("DELETE FROM checkpoints WHERE size = (SELECT max(size) FROM checkpoints)")
    db.close()
    document = shell("ledger", "checkpoint", "--json").document
    shell.write("held.keys", "\n".join(document["keys"]))
    assert len(document["checkpoint"].split("\n\n")[1].splitlines()) == len(document["keys"]) == 2
    assert checks(shell("ledger", "doctor", "--json").document)["ml_dsa_44"] == "ok"
    assert "ml_dsa_44" in shell("ledger", "verify", "--key", "held.keys", "--json").document["checked"]
    assert shell("ledger", "prove", "desk", "0", "-o", "proof").code == 0
    assert shell("ledger", "prove", "--check", "proof", "--key", "held.keys").code == 0


def test_the_doctor_asks_the_anchors(shell: Shell, ledger: Path) -> None:
    shell.write("meshflow.yaml", "ledger: {anchors: [{use: file, path: kept/one}]}\n")
    missing = shell("ledger", "doctor", "--json").document
    assert checks(missing)["anchor"] == "error"
    assert shell("ledger", "anchor").code == 1
    (shell.folder / "kept").mkdir()
    recorded = shell("ledger", "doctor", "--json").document
    assert (checks(recorded)["anchor"], checks(recorded)["publishing"]) == ("warning", "warning")
    shell("ledger", "anchor")
    agrees = shell("ledger", "doctor", "--json").document
    assert (checks(agrees)["anchor"], "publishing" in checks(agrees)) == ("ok", False)
    for part in ledger.parent.glob("meshflow_runs.db*"):
        if not part.name.endswith(".key"):
            part.rename(shell.folder / f"old-{part.name}")
    write(ledger, 3)
    done = shell("ledger", "doctor", "--json")
    assert (done.code, checks(done.document)["anchor"]) == (1, "error")
    assert "another log" in done.out
