from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshflow import ReplayLedger
from meshflow.ledger.anchors import FileAnchor
from meshflow.ledger.format.cosignatures import CosigningKey

if TYPE_CHECKING:
    from .conftest import Shell


@pytest.fixture
def keys(shell: Shell, ledger: Path) -> str:
    """The public keys and a checkpoint, as an auditor would keep them."""

    async def read() -> tuple[str, str]:
        async with ReplayLedger(ledger) as opened:
            return "\n".join(await opened.verifiers()), await opened.checkpoint()

    text, checkpoint = asyncio.run(read())
    shell.write("held/keys", text)
    shell.write("held/checkpoint", checkpoint)
    return text


def test_runs_are_handed_over_and_verified_by_the_key_alone(shell: Shell, ledger: Path, keys: str) -> None:
    done = shell("ledger", "export", "desk", "old", "--format", "bundle", "-o", "b", "--json")
    assert (done.code, done.document["written"], done.document["valid"]) == (0, "b", True)
    ledger.unlink()
    for key in (keys, "held/keys"):
        done = shell("verify", "b", "--key", key, "--json")
        assert (done.code, done.document["strength"], done.document["errors"]) == (0, "key", [])
        assert [run["run_id"] for run in done.document["runs"]] == ["desk", "old"]
    done = shell("verify", "b", "--key", keys)
    assert done.out.startswith("Bundle b VERIFIES\n")
    assert "no checkpoint from outside was given" in done.out


def test_a_checkpoint_from_outside_is_asked_for_and_compared(shell: Shell, ledger: Path, keys: str) -> None:
    assert (
        shell("ledger", "export", "old", "--format", "bundle", "-o", "b", "--checkpoint", "held/checkpoint").code == 0
    )
    done = shell("verify", "b", "--key", "held/keys", "--checkpoint", "held/checkpoint", "--json")
    assert (done.code, done.document["strength"]) == (0, "checkpoint")
    assert "held_checkpoint" in done.document["checked"]


def test_whose_key_it_is_must_be_said(shell: Shell, ledger: Path, keys: str) -> None:
    shell("ledger", "export", "--all", "--format", "bundle", "-o", "b")
    assert shell("verify", "b").code == 2
    assert shell("verify", "b", "--key", "held/keys", "--trust-bundle-keys").code == 2
    assert shell("verify", "b", "--key", "nobody").code == 2
    done = shell("verify", "b", "--trust-bundle-keys", "--json")
    assert (done.code, done.document["strength"], done.document["whole_ledger"]) == (0, "itself", True)
    stranger = "example.org/log+9f57a0c3+AUtpZE9JdMQtHmIa+hp5JlJX1S8d5xVv5FOrx4KkNJdk"
    assert shell("verify", "b", "--key", stranger).code == 2  # damaged: its id is not that of the key


def test_witnesses_are_counted_and_anchors_asked(shell: Shell, ledger: Path, keys: str) -> None:
    with asyncio.Runner() as runner:

        async def anchor() -> None:
            async with ReplayLedger(ledger) as opened:
                await opened.anchor(FileAnchor(shell.folder / "kept"))

        runner.run(anchor())
    bundle = ("--format", "bundle", "-o", "b")
    assert shell("ledger", "export", "old", *bundle, "--anchor", "file:kept").code == 0
    done = shell("verify", "b", "--key", keys)
    assert "said to be kept at" in done.out
    witness = str(CosigningKey.generate("one.example/w").verifier)
    shell.write("witnesses", witness)
    for given in (witness, "witnesses"):
        done = shell("verify", "b", "--key", keys, "--witness", given, "--json")
        assert (done.code, [finding["layer"] for finding in done.document["findings"]]) == (1, ["witness"])
    assert shell("verify", "b", "--key", keys, "--quorum", "1").code == 2


def test_a_bundle_that_does_not_hold_ends_with_1_and_says_why(shell: Shell, ledger: Path, keys: str) -> None:
    shell("ledger", "export", "desk", "--format", "bundle", "-o", "b")
    path = shell.folder / "b"
    path.write_bytes(path.read_bytes().replace(b'\\"tokens\\":0', b'\\"tokens\\":9', 1))
    done = shell("verify", "b", "--key", "held/keys")
    assert (done.code, done.out.splitlines()[0]) == (1, "Bundle b DOES NOT VERIFY")
    assert "run 'desk', entry 1 (step 'read-0'): entry_hash is not the hash of the entry" in done.out
    for broken in (b"", b"\n", b"SQLite format 3\0", path.read_bytes()[:-1], path.read_bytes() + b"\n"):
        path.write_bytes(broken)
        done = shell("verify", "b", "--key", "held/keys", "--json")
        assert (done.code, done.document["valid"], done.document["checked"]) == (1, False, [])
    assert (done := shell("verify", "nowhere", "--key", "held/keys")).code == 2
    assert done.err == "meshflow: nowhere: No such file or directory\n"


def test_options_that_do_not_belong_together_are_refused(shell: Shell, ledger: Path) -> None:
    for words in (
        ("desk", "old"), ("desk", "--no-payloads"), ("--all",), (), ("desk", "--format", "bundle"),
        ("--format", "bundle", "-o", "b"), ("desk", "--all", "--format", "bundle", "-o", "b"),
        ("desk", "--format", "csv", "--checkpoint", "c"),
    ):  # fmt: skip
        assert shell("ledger", "export", *words).code == 2, words


def test_a_tenant_gets_its_own_runs_alone(shell: Shell, ledger: Path, keys: str) -> None:
    bundle = ("--format", "bundle", "-o", "b", "--tenant", "globex")
    assert shell("ledger", "export", "desk", *bundle).code == 4
    assert shell("ledger", "export", "--all", *bundle).code == 4
    assert shell("ledger", "export", "globex", *bundle).code == 0
