"""The main job as ``make run`` starts it: batch, decisions on the command line, resumed calls, verification."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import examples.desk.job as desk_job

EXAMPLES = Path(desk_job.__file__).parents[1]


def test_the_script_runs_from_an_empty_folder_to_a_verified_ledger(tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("work", "__pycache__"))
    shutil.copytree(EXAMPLES.parent / "verifier", tmp_path / "verifier", ignore=shutil.ignore_patterns("__pycache__"))
    script = tmp_path / "examples" / "desk" / "run.sh"
    done = subprocess.run(
        ["sh", str(script), str(Path(sys.executable).parent)],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "desk.large_refund" in done.stdout, "a denial or escalation by policy names its rule"
    assert "Waiting for a person: 42 steps" in done.stdout
    assert " more: meshflow approvals list" in done.stdout
    assert done.stdout.count("every chain holds") == 3
    assert "approved calls carried out   3" in done.stdout
    assert "\nVERIFIES: " in done.stdout
    assert "--reason 'checked with the customer' --config examples/desk/meshflow.yaml\n" in done.stdout
    assert (tmp_path / "examples" / "desk" / "work" / "ledger.db").exists()
