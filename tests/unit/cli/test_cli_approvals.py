from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Shell


@pytest.fixture
def waiting(shell: Shell, ledger: Path) -> str:
    (one,) = shell("approvals", "list", "--json").document["approvals"]
    return str(one["approval_id"])


def test_what_is_asked_is_shown_before_and_after(shell: Shell, waiting: str) -> None:
    assert waiting in shell("approvals", "list").out
    shown = shell("approvals", "show", waiting)
    for text in (
        waiting, "refund", "asked by     local", "irreversible", "tool_permission.needs_approval", '"cents": 1200',
        "the call; it has not run", "until", f"meshflow approvals deny {waiting} --as NAME",
    ):  # fmt: skip
        assert text in shown.out
    asked = shell("approvals", "show", waiting, "--json").document["approval"]
    assert asked["input_task"] == {"cents": 1200}
    assert asked["expired"] is False
    done = shell("approvals", "approve", waiting, "--as", "ada", "--reason", "checked")
    assert done.code == 0
    assert '"cents": 1200' in done.out
    assert "ada approved it at" in done.out
    assert "when the job that began run desk is run again with --resume" in done.out
    assert shell("approvals", "list").out.strip().endswith("nothing waits for a person")


def test_a_denial_is_recorded_with_its_reason(shell: Shell, waiting: str) -> None:
    done = shell("approvals", "deny", waiting, "--as", "ada", "--reason", "not ours", "--json")
    assert done.code == 0
    decision = done.document["decision"]
    assert (decision["approved"], decision["approver"], decision["reason"]) == (False, "ada", "not ours")
    assert done.document["approval"]["approval_id"] == waiting
    assert shell("ledger", "verify", "desk").code == 0


@pytest.mark.parametrize("verb", ["approve", "deny"])
def test_a_decision_is_made_once(shell: Shell, waiting: str, verb: str) -> None:
    assert shell("approvals", "approve", waiting, "--as", "ada").code == 0
    again = shell("approvals", verb, waiting, "--as", "bob")
    assert again.code == 4
    assert "decided already" in again.err
    assert shell("approvals", "show", waiting).code == 4


def test_whoever_asked_cannot_approve(shell: Shell, waiting: str) -> None:
    done = shell("approvals", "approve", waiting, "--as", " Local ")
    assert done.code == 4
    assert "may not approve" in done.err
    assert shell("approvals", "show", waiting).code == 0


def test_the_approver_is_named_by_option_then_environment_then_system(
    shell: Shell, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided = shell("approvals", "approve", waiting, "--json", MESHFLOW_APPROVER="grace").document["decision"]
    assert decided["approver"] == "grace"


def test_the_user_of_the_machine_is_the_last_resort(
    shell: Shell, waiting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "mary")
    decided = shell("approvals", "approve", waiting, "--json").document["decision"]
    assert decided["approver"] == "mary"


@pytest.mark.parametrize("name", ["", "   "])
def test_nobody_cannot_decide(shell: Shell, waiting: str, name: str) -> None:
    done = shell("approvals", "approve", waiting, "--as", name)
    assert done.code == 4
    assert "name of who decides" in done.err


@pytest.mark.parametrize("verb", ["show", "approve", "deny"])
def test_an_unknown_id_is_refused(shell: Shell, ledger: Path, verb: str) -> None:
    done = shell("approvals", verb, "apr-nope")
    assert (done.code, done.out) == (4, "")


def test_another_tenant_cannot_decide(shell: Shell, waiting: str) -> None:
    assert shell("approvals", "approve", waiting, "--as", "ada", "--tenant", "globex").code == 4
    assert shell("approvals", "approve", waiting, "--as", "ada", "--tenant", "default").code == 0


def test_somebody_who_is_not_named_cannot_spoil_an_approval(shell: Shell, waiting: str, ledger: Path) -> None:
    path = shell.write("meshflow.yaml", f'ledger: {{path: "{ledger}"}}\napprovals: {{approvers: [Ada, grace]}}\n')
    done = shell("approvals", "approve", waiting, "--as", "mallory", "--config", str(path))
    assert (done.code, "none of those whom approvals.approvers names" in done.err) == (4, True)
    assert shell("approvals", "approve", waiting, "--as", "ada", "--config", str(path)).code == 0
