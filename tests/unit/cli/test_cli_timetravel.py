from __future__ import annotations

import csv
import json
import stat
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshflow.cli import timetravel

if TYPE_CHECKING:
    from .conftest import Shell

STRICT = "plugins:\n  guardrails:\n    max_chars: 3\n"


def test_a_run_is_exported_as_json_in_ascii(shell: Shell, ledger: Path) -> None:
    done = shell("ledger", "export", "new")
    assert done.out.isascii()
    (step,) = done.document["steps"]
    assert step["input_task"] == "\x1b[2Jred"
    assert len(done.document["entries"]) >= 1
    assert shell("ledger", "export", "new", "--json").document == done.document


def test_a_run_is_exported_as_csv(shell: Shell, ledger: Path) -> None:
    rows = list(csv.DictReader(StringIO(shell("ledger", "export", "desk", "--format", "csv").out, newline="")))
    assert [row["step_id"] for row in rows] == ["read-0", "read-1", "read-2", "boom", "attack", "pay"]
    assert shell("ledger", "export", "desk", "--format", "csv", "--json").code == 2


def test_an_export_to_a_file_is_private_whole_and_overwrites_nothing(shell: Shell, ledger: Path) -> None:
    done = shell("ledger", "export", "desk", "--output", "desk.json", "--json")
    assert done.document["written"] == "desk.json"
    path = shell.folder / "desk.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(json.loads(path.read_text("utf-8"))["steps"]) == 6
    assert shell("ledger", "export", "old", "-o", "desk.json").code == 2
    assert shell("ledger", "export", "old", "-o", "desk.json", "--force").code == 0
    assert len(json.loads(path.read_text("utf-8"))["steps"]) == 1
    assert shell("ledger", "export", "nowhere", "-o", "nowhere.json").code == 4
    assert [one.name for one in shell.folder.iterdir() if "nowhere" in one.name] == []


def test_exports_keep_to_the_tenant(shell: Shell, ledger: Path) -> None:
    assert shell("ledger", "export", "desk", "--tenant", "globex").code == 4
    assert shell("ledger", "export", "desk", "--tenant", "globex", "--format", "csv").code == 4


def test_escapes_are_those_of_json() -> None:
    text = 'caf\u00e9 \U0001f600 \u2028 "\x7f'
    escaped = timetravel._BEYOND_ASCII.sub(timetravel._escape, json.dumps(text, ensure_ascii=False))
    assert escaped.isascii()
    assert json.loads(escaped) == text


def test_two_runs_are_compared(shell: Shell, ledger: Path) -> None:
    done = shell("ledger", "diff", "old", "desk")
    assert "Only in A: read" in done.out
    assert "Only in B: read-0, read-1, read-2, boom, attack, pay" in done.out
    assert shell("ledger", "diff", "old", "desk", "--fail-on-difference").code == 1
    same = shell("ledger", "diff", "desk", "desk", "--fail-on-difference")
    assert same.code == 0
    assert "No difference" in same.out
    found = shell("ledger", "diff", "old", "new", "--json").document
    assert (found["run_a"], found["only_in_b"], found["same_path"]) == ("old", ["ansi"], False)
    assert shell("ledger", "diff", "old", "nowhere").code == 4


def test_a_change_is_shown_with_both_outcomes(shell: Shell, ledger: Path) -> None:
    made = shell("ledger", "fork", "desk", "--from-step", "0", "--json").document["run_id"]
    shell.write("job.py", "from meshflow import NodeInput\nasync def job(context):\n"
                "    await context.runtime.run(NodeInput(node_id='read-0', input={'q': 0}, handler=lambda value: 'new',"
                " run_id=context.run_id))\n")  # fmt: skip
    assert shell("run", "job.py", "--run-id", made, "--resume", "--ledger", "meshflow_runs.db").code == 0
    out = shell("ledger", "diff", "desk", made).out
    assert "Changed" in out
    assert "commit: new" in out


def test_a_fork_is_made_and_shown(shell: Shell, ledger: Path) -> None:
    done = shell("ledger", "fork", "desk", "--from-step", "2", "--run-id", "again", "--json")
    assert done.document == {
        "ledger": "meshflow_runs.db", "run_id": "again", "parent_run_id": "desk", "parent_steps": 2
    }  # fmt: skip
    assert [step["step_id"] for step in shell("ledger", "show", "again", "--json").document["steps"]] == [
        "read-0", "read-1"
    ]  # fmt: skip
    assert shell("ledger", "verify", "again").code == 0
    assert "--run-id=" in shell("ledger", "fork", "desk", "--from-step", "1").out
    assert shell("ledger", "fork", "desk", "--from-step", "7").code == 4
    assert shell("ledger", "fork", "desk", "--from-step", "-1").code == 2
    assert shell("ledger", "fork", "desk", "--from-step", "1", "--tenant", "globex").code == 4


def test_a_replay_under_the_same_configuration_differs_nowhere(shell: Shell, ledger: Path) -> None:
    for run in ("old", "desk", "globex", "new"):
        done = shell("replay", run, "--every", "--json")
        assert done.document["differences"] == [], run
        assert done.code == 0
        assert done.document["replayed"] == done.document["steps"]
    text = shell("replay", "old").out
    assert "1 of 1 step compared, 0 would differ, 0 undecidable" in text


def test_a_replay_names_the_decision_that_would_differ(shell: Shell, ledger: Path) -> None:
    shell.write("strict.yaml", STRICT)
    done = shell("replay", "desk", "--config", "strict.yaml", "--json")
    assert done.code == 1
    (difference,) = done.document["differences"]
    assert difference["recorded"][0] == "allow"
    assert difference["now"][:2] == ["deny", "input_guardrails"]
    every = shell("replay", "desk", "--config", "strict.yaml", "--every")
    assert every.code == 1
    assert "Would now be decided otherwise" in every.out
    assert "decided by another pipeline" in every.out


def test_a_replay_changes_nothing(shell: Shell, ledger: Path) -> None:
    before = shell("ledger", "verify", "--json").document
    shell("replay", "desk", "--every")
    assert shell("ledger", "verify", "--json").document == before


@pytest.mark.parametrize("arguments", [("replay", "nowhere"), ("replay", "desk", "--tenant", "globex")])
def test_a_replay_of_nothing_is_an_error(shell: Shell, ledger: Path, arguments: tuple[str, ...]) -> None:
    assert shell(*arguments).code == 4
