"""``meshflow approvals``: what waits for a person, and the person's answer."""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meshflow.cli.ledgers import command, shown, with_ledger
from meshflow.cli.options import Chosen
from meshflow.cli.output import line, plain, print_json, print_pairs, print_table, say
from meshflow.errors import LedgerError
from meshflow.names import folded_name

if TYPE_CHECKING:
    from meshflow.config.models import ApprovalsConfig
    from meshflow.ledger import ReplayLedger


def show_approvals(options: Chosen, path: str | None, tenant: str | None) -> None:
    """Print all that waits, the oldest first."""

    async def read(ledger: ReplayLedger) -> tuple[str, list[dict[str, Any]]]:
        return shown(ledger), await ledger.pending_approvals(tenant=tenant)

    name, pending = with_ledger(options, path, read)
    if options.as_json:
        print_json({"ledger": name, "approvals": pending})
        return
    if not pending:
        say(f"Ledger {name}: nothing waits for a person")
        return
    rows = [
        (one["approval_id"], one["tool"] or one["node_id"], _who(one), ", ".join(one["codes"]), one["run_id"],
         "expired" if one["expired"] else one["expires_at"])
        for one in pending
    ]  # fmt: skip
    print_table(f"Ledger {name}", ("id", "tool or node", "asked by", "codes", "run", "until"), rows)
    say(f"Whole: {command('approvals', 'show', ids=('ID',), options=('--ledger', name))}")


def show_approval(options: Chosen, path: str | None, tenant: str | None, approval_id: str) -> None:
    """Print one request whole."""

    async def read(ledger: ReplayLedger) -> tuple[str, dict[str, Any]]:
        return shown(ledger), await _pending(ledger, approval_id, tenant)

    name, asked = with_ledger(options, path, read)
    if options.as_json:
        print_json({"ledger": name, "approval": asked})
        return
    _print_request(asked)
    for verb in ("approve", "deny"):
        say(f"{verb}: {decision_command(verb, approval_id, options.config, name)}")


def decide(
    options: Chosen, path: str | None, tenant: str | None, approval_id: str, *, approve: bool,
    approver: str | None, reason: str, edit: Path | None = None,
) -> None:  # fmt: skip
    """Record a decision, and print what was asked and what was answered."""
    name = approver if approver is not None else _os_user()
    rules = options.load().approvals
    edited = {"edited": _arguments(edit)} if edit is not None else {}

    async def write(ledger: ReplayLedger) -> tuple[str, dict[str, Any] | None, dict[str, Any]]:
        waiting = await ledger.pending_approvals(tenant=tenant)
        asked = next((one for one in waiting if one["approval_id"] == approval_id), None)
        if approve and asked is not None:
            _insist_on_named(rules, asked, name)
        decision = await ledger.decide_approval(
            approval_id, approve=approve, approver=name, reason=reason, tenant=tenant, **edited
        )
        return shown(ledger), asked, decision

    where, asked, decision = with_ledger(options, path, write, writing=True)
    if options.as_json:
        print_json({"ledger": where, "approval": asked, "decision": decision})
        return
    if asked is not None:
        _print_request(asked)
    say(f"{decision['approver']} {'approved' if approve else 'denied'} it at {decision['decided_at']}.")
    if not decision["decided"]:
        say(f"{decision['approvals']} of {decision['required']} people have approved; it still waits.")
    elif approve:
        say(f"The step runs when the job that began run {line(decision['run_id'])} is run again with --resume.")


def _insist_on_named(rules: ApprovalsConfig, asked: Mapping[str, Any], name: str) -> None:
    """Refuse an approval that would spoil the others': the runtime takes none from somebody who is not named."""
    _, approvers = rules.terms(asked["tool"], asked["tenant_id"])
    if approvers and folded_name(name) not in map(folded_name, approvers):
        raise LedgerError(f"{name!r} is none of those whom approvals.approvers names for this step")


def decision_command(verb: str, approval_id: str, config: Path | None, ledger: str) -> str:
    """Return the command that decides; the configuration may name the key that the ledger is signed with."""
    named = ("--config", str(config)) if config is not None else ()
    return command("approvals", verb, ids=(approval_id,), options=("--as", "NAME", *named, "--ledger", ledger))


def _print_request(asked: Mapping[str, Any]) -> None:
    principal = asked["principal"] or {}
    print_pairs([
        ("approval", asked["approval_id"]),
        ("run", asked["run_id"]),
        ("step", f"{asked['step_id']}, attempt {asked['attempt']}"),
        ("node", f"{asked['node_id']} ({asked['node_kind']})"),
        ("tool", asked["tool"]),
        ("action", asked["action"]),
        ("tenant", asked["tenant_id"]),
        ("asked by", _who(asked)),
        ("verified", "yes" if principal.get("verified") else "no"),
        ("risk", asked["risk"]),
        ("codes", ", ".join(asked["codes"])),
        ("reason", asked["reason"]),
        ("in question", "the output; the step has run" if asked["holds_output"] else "the call; it has not run"),
        ("asked at", asked["requested_at"]),
        ("needs", f"{asked['required']} people" if asked["required"] > 1 else "one person"),
        ("until", f"{asked['expires_at']}{' (expired)' if asked['expired'] else ''}"),
        ("pipeline", asked["fingerprint"]),
    ])  # fmt: skip
    for title, value in (("Input", asked["input_task"]), ("Output", asked["output_content"])):
        if value is not None:
            body = value if isinstance(value, str) else json.dumps(plain(value), indent=2, ensure_ascii=False)
            say(f"{title} (as recorded, redacted):", *(f"  {one}" for one in body.splitlines()))


def _who(asked: Mapping[str, Any]) -> str:
    principal = asked["principal"] or {}
    subject, agent = principal.get("subject", "unknown"), principal.get("agent_id", "")
    return f"{subject} by {agent}" if agent and agent != subject else str(subject)


async def _pending(ledger: ReplayLedger, approval_id: str, tenant: str | None) -> dict[str, Any]:
    for one in await ledger.pending_approvals(tenant=tenant):
        if one["approval_id"] == approval_id:
            return one
    raise LedgerError(f"no step waits for approval {approval_id!r}; it is unknown here, or has been decided")


def _arguments(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path} does not hold JSON: {error}", param_hint="--edit") from None


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        raise typer.BadParameter("who decides? give --as NAME or set MESHFLOW_APPROVER") from None
