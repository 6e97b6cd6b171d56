from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshflow import ReplayLedger
from meshflow.ledger import Intent

if TYPE_CHECKING:
    from .conftest import Shell


def tamper(ledger: Path, statement: str) -> None:
    with sqlite3.connect(ledger) as base:
        base.execute("DROP TRIGGER entries_update")
        base.execute("DROP TRIGGER entries_delete")
        base.execute(statement)
    base.close()


def test_runs_are_listed_newest_first_and_page_by_page(shell: Shell, ledger: Path) -> None:
    first = shell("ledger", "list", "--limit", "3", "--json").document
    assert [run["run_id"] for run in first["runs"]] == ["new", "globex", "desk"]
    assert first["next_before"] == "desk"
    second = shell("ledger", "list", "--limit", "3", "--before", "desk", "--json").document
    assert ([run["run_id"] for run in second["runs"]], second["next_before"]) == (["old"], None)
    exact = shell("ledger", "list", "--limit", "4", "--json").document
    assert (len(exact["runs"]), exact["next_before"]) == (4, None)
    desk = first["runs"][2]
    assert (desk["steps"], desk["blocked_steps"]) == (6, 3)
    table = shell("ledger", "list", "--limit", "3")
    assert "--before=desk" in table.out
    assert "no runs before" in shell("ledger", "list", "--before", "old").out


def test_a_tenant_sees_its_own_runs_alone(shell: Shell, ledger: Path) -> None:
    found = shell("ledger", "list", "--tenant", "globex", "--json").document
    assert [run["run_id"] for run in found["runs"]] == ["globex"]
    assert shell("ledger", "show", "desk", "--tenant", "globex").code == 4
    assert shell("ledger", "show", "desk", "pay", "--tenant", "globex").code == 4
    assert shell("ledger", "verify", "desk", "--tenant", "globex").code == 1
    assert shell("ledger", "verify", "--tenant", "globex", "--json").document["runs_verified"] == 1
    assert shell("approvals", "list", "--tenant", "globex", "--json").document["approvals"] == []


def test_a_run_is_shown_step_by_step(shell: Shell, ledger: Path) -> None:
    found = shell("ledger", "show", "desk", "--json").document
    assert [step["step_id"] for step in found["steps"]] == ["read-0", "read-1", "read-2", "boom", "attack", "pay"]
    assert found["summary"]["blocked_steps"] == 3
    table = shell("ledger", "show", "desk").out
    assert "input_guardrails.prompt_injection" in table
    assert "6 steps, 3 blocked" in table


@pytest.mark.parametrize(("named", "step"), [("boom", "boom"), ("0", "read-0"), ("5", "pay")])
def test_a_step_is_found_by_id_or_place(shell: Shell, ledger: Path, named: str, step: str) -> None:
    assert shell("ledger", "show", "desk", named, "--json").document["step"]["step_id"] == step


def test_a_negative_place_counts_from_the_end(shell: Shell, ledger: Path) -> None:
    assert shell("ledger", "show", "--json", "--", "desk", "-1").document["step"]["step_id"] == "pay"


def test_a_step_is_shown_whole(shell: Shell, ledger: Path) -> None:
    step = shell("ledger", "show", "desk", "pay", "--json").document["step"]
    text = shell("ledger", "show", "desk", "pay").out
    for shown in (
        step["entry_hash"], step["prev_hash"], step["fingerprint"], step["approval_request"]["approval_id"],
        step["approval_request"]["arguments_digest"], "refund", "irreversible", '"cents": 1200', "escalate",
        "tool_permission.needs_approval", "$0.00 of $0.00 reserved", "bundle_digest", '"verified": false',
    ):  # fmt: skip
        assert shown in text
    for result in step["stages"]:
        assert result["stage"] in text
        assert result["plugin"] in text


def test_recorded_text_cannot_speak_to_the_terminal(shell: Shell, ledger: Path) -> None:
    text = shell("ledger", "show", "new", "ansi").out
    assert not {"\x1b", "\u202e", "\u200b"} & set(text)
    # Whether a guardrail replaced it or not, what is left of it is visible.
    assert "red" in text
    assert shell("ledger", "show", "new", "ansi", "--json").out.isascii()


@pytest.mark.parametrize(
    "words",
    [("show", "nope"), ("show", "nope", "0"), ("show", "desk", "99"), ("show", "desk", "x"),
     ("show", "desk", "pay", "--attempt", "2"), ("show", "desk", "9" * 5000)],
)  # fmt: skip
def test_what_is_not_there_is_a_ledger_error(shell: Shell, ledger: Path, words: tuple[str, ...]) -> None:
    done = shell("ledger", *words)
    assert (done.code, done.out) == (4, "")
    assert "has no" in done.err


@pytest.mark.parametrize("words", [("list",), ("verify",), ("show", "desk")])
@pytest.mark.parametrize("place", ["absent.db", "folder", "garbage.db", "other.db"])
def test_a_ledger_that_is_none_is_never_well(shell: Shell, words: tuple[str, ...], place: str) -> None:
    (shell.folder / "folder").mkdir()
    shell.write("garbage.db", "neither a database nor a ledger, but long enough to be looked at " * 50)
    with sqlite3.connect(shell.folder / "other.db") as base:
        base.execute("CREATE TABLE notes (text)")
    base.close()
    done = shell("ledger", *words, "--ledger", place)
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith("meshflow: ")
    assert not (shell.folder / "absent.db").exists()


@pytest.mark.parametrize("place", [".", "/"])
def test_a_folder_without_a_name_is_no_ledger(shell: Shell, place: str) -> None:
    done = shell("ledger", "list", "--ledger", place)
    assert (done.code, done.out) == (3, "")
    assert f"{place} is a folder; a ledger is a file" in done.err


def test_a_whole_ledger_verifies_and_says_how_far(shell: Shell, ledger: Path) -> None:
    done = shell("ledger", "verify", "--json")
    assert done.code == 0
    found = done.document
    assert (found["valid"], found["runs_verified"], found["steps_verified"]) == (True, 4, 9)
    assert "chain" in found["checked"]
    assert "anchor" in found["not_checked"]
    text = shell("ledger", "verify").out
    assert "4 runs, 9 steps; every chain holds" in text
    assert "not checked: anchor" in text
    assert "open: 4" in text


def test_every_run_is_verified_over_many_pages(shell: Shell, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshflow.cli.verify._PAGE", 2)
    found = shell("ledger", "verify", "--json").document
    assert sorted(run["run_id"] for run in found["runs"]) == ["desk", "globex", "new", "old"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET cost_micro_usd = 1 WHERE run_id = 'desk' AND kind = 'step'",
        "UPDATE entries SET body = replace(body, 'reject', 'commit') WHERE run_id = 'desk'",
        "DELETE FROM entries WHERE run_id = 'desk' AND seq = 3",
        "DELETE FROM payloads WHERE id / 16 IN (SELECT id FROM entries WHERE run_id = 'desk')",
    ],
)
def test_a_change_to_the_ledger_is_found(shell: Shell, ledger: Path, statement: str) -> None:
    if "payloads" in statement:
        with sqlite3.connect(ledger) as base:
            base.execute("DROP TRIGGER payloads_delete")
        base.close()
    tamper(ledger, statement)
    done = shell("ledger", "verify", "--json")
    assert done.code == 1
    assert done.document["valid"] is False
    assert "desk" in [run["run_id"] for run in done.document["runs"] if not run["valid"]]
    text = shell("ledger", "verify", "desk")
    assert text.code == 1
    assert "DO NOT verify" in text.out
    assert "run desk: " in text.out


def test_an_unknown_run_and_an_empty_ledger_do_not_verify(shell: Shell, ledger: Path) -> None:
    assert shell("ledger", "verify", "nope").code == 1

    async def empty() -> None:
        async with ReplayLedger("empty.db") as made:
            await made.open()

    asyncio.run(empty())
    done = shell("ledger", "verify", "--ledger", "empty.db")
    assert done.code == 1
    assert "nothing could be verified" in done.out
    assert shell("ledger", "list", "--ledger", "empty.db").code == 0


def test_unfinished_intents_are_listed(shell: Shell, ledger: Path) -> None:
    async def begin() -> None:
        async with ReplayLedger(ledger) as opened:
            await opened.write_intent(
                Intent(run_id="cut", step_id="s1", node_id="pay", tool="refund", started_us=1_700_000_000_000_000)
            )

    asyncio.run(begin())
    done = shell("ledger", "verify", "--json")
    assert done.code == 0
    assert [(one["run_id"], one["step_id"], one["tool"]) for one in done.document["unfinished"]] == [
        ("cut", "s1", "refund")
    ]
    assert "1 step without an outcome on record" in shell("ledger", "verify", "cut").out
    assert shell("ledger", "verify", "desk", "--json").document["unfinished"] == []
    assert shell("ledger", "show", "cut").code == 0


def test_the_configured_ledger_is_found_from_the_configuration(shell: Shell, ledger: Path) -> None:
    (shell.folder / "kept").mkdir()
    for path in ledger.parent.glob("meshflow_runs.db*"):
        path.rename(shell.folder / "kept" / path.name.replace("meshflow_runs", "book"))
    shell.write("etc/my.yaml", "ledger: ../kept/book.db\n")
    assert shell("ledger", "verify", "--config", "etc/my.yaml").code == 0
    assert shell("--config", "etc/my.yaml", "ledger", "verify").code == 0
    assert shell("ledger", "verify").code == 4
    assert shell("ledger", "list", "--config", "etc/my.yaml", "--json").document["ledger"] == "kept/book.db"


def test_several_attempts_are_told_apart(shell: Shell, resumed_job: str) -> None:
    shell.write("job.py", resumed_job)
    shell("run", "job.py", "--run-id", "r1")
    waiting = shell("approvals", "list", "--json").document["approvals"][0]["approval_id"]
    shell("approvals", "approve", waiting, "--as", "ada")
    shell("run", "job.py", "--run-id", "r1", "--resume")
    latest = shell("ledger", "show", "r1", "pay", "--json").document
    assert (latest["step"]["attempt"], latest["attempts"]) == (2, [1, 2])
    assert shell("ledger", "show", "r1", "pay", "--attempt", "1", "--json").document["step"]["verdict"] == "escalate"
    assert "Attempts on record: 1, 2" in shell("ledger", "show", "r1", "pay").out
