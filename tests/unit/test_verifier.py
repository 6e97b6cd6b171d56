"""The second verifier: one short file that needs nothing of meshflow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from meshflow import ReplayLedger

SCRIPT = Path(__file__).parents[2] / "verifier" / "verify_bundle.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run it where nothing of this project can be imported."""
    words = [sys.executable, "-I", SCRIPT, *arguments]
    return subprocess.run([*map(str, words)], capture_output=True, text=True, cwd="/", check=False)


@pytest.fixture
async def evidence(tmp_path: Path) -> tuple[Path, str, str]:
    async with ReplayLedger(tmp_path / "runs.db") as ledger:
        for number in range(3):
            await ledger.write({"run_id": "r", "node_id": "n", "step_id": str(number), "output_content": number})
        await ledger.export_bundle(tmp_path / "evidence.jsonl", "r")
        return tmp_path / "evidence.jsonl", (await ledger.verifiers())[0], await ledger.checkpoint()


def test_it_is_short_and_shares_no_code() -> None:
    text = SCRIPT.read_text("utf-8")
    assert len(text.splitlines()) < 300
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else name.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    roots = {name.partition(".")[0] for name in imported}
    assert roots - set(sys.stdlib_module_names) == {"cryptography"}


def test_it_needs_no_newer_python_than_it_says() -> None:
    ast.parse(SCRIPT.read_text("utf-8"), feature_version=(3, 9))


def test_it_verifies_on_the_command_line(evidence: tuple[Path, str, str], tmp_path: Path) -> None:
    bundle, key, checkpoint = evidence
    (tmp_path / "keys").write_text(f"{key}\n")
    (tmp_path / "held").write_text(checkpoint)
    for words in (("--key", key), ("--key", tmp_path / "keys"), ("--key", key, "--checkpoint", tmp_path / "held")):
        done = run(bundle, *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("VERIFIES: 3 of 3 entries of log meshflow.local/")


def test_what_does_not_verify_is_said_without_a_traceback(evidence: tuple[Path, str, str], tmp_path: Path) -> None:
    bundle, key, _ = evidence
    assert run(bundle).returncode == 2
    assert run(bundle, "--key", "somebody+00000000+x").returncode == 1
    for wrong in (tmp_path / "nowhere", tmp_path):
        done = run(wrong, "--key", key)
        assert (done.returncode, str(wrong) in done.stderr, "Errno" in done.stderr) == (2, True, False)
    (tmp_path / "held").write_bytes(b"\xff")
    assert run(bundle, "--key", key, "--checkpoint", tmp_path / "held").returncode == 1
    bundle.write_bytes(bundle.read_bytes().replace(b'"seq":1', b'"seq":7'))
    done = run(bundle, "--key", key)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "DOES NOT VERIFY: chain: entry 7 of run 'r': its hash is another\n"
