"""``meshflow ledger``: runs, steps, and whether they verify."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from meshflow.cli.ledgers import command, shown, with_ledger
from meshflow.cli.options import Chosen
from meshflow.cli.output import counted, flat, ms, plain, print_json, print_pairs, print_table, say, usd
from meshflow.errors import LedgerError

if TYPE_CHECKING:
    from meshflow.ledger import ReplayLedger

_HEAD = (
    "run_id", "step_id", "attempt", "node_id", "node_kind", "tool", "action", "tenant_id", "verdict", "code", "reason",
    "risk", "labels", "executed", "tokens_used", "uncertainty", "carbon_gco2", "timestamp", "duration_ms", "redaction",
    "unsafe", "erased",
)  # fmt: skip
_HASHES = ("seq", "prev_hash", "entry_hash", "fingerprint")


def show_runs(options: Chosen, path: str | None, limit: int, before: str | None, tenant: str | None) -> None:
    """Print one page of runs."""

    async def read(ledger: ReplayLedger) -> tuple[str, list[dict[str, Any]], bool]:
        # One more than asked for tells whether there is a next page.
        ids = await ledger.list_runs(limit=limit + 1, before=before, tenant=tenant)
        summaries = [await ledger.run_summary(run_id, tenant=tenant) for run_id in ids[:limit]]
        return shown(ledger), summaries, len(ids) > limit

    name, runs, more = with_ledger(options, path, read)
    last = runs[-1]["run_id"] if runs and more else None
    if options.as_json:
        print_json({"ledger": name, "runs": runs, "next_before": last})
        return
    if not runs:
        say(f"Ledger {name}: no runs" + (" before that one" if before is not None else ""))
        return
    rows = [
        (run["run_id"], run["steps"], run["blocked_steps"], usd(run["total_cost_micro_usd"]), run["total_tokens"],
         run["timestamps"]["start"])
        for run in runs
    ]  # fmt: skip
    headers = ("run", "steps", "blocked", "cost", "tokens", "begun")
    print_table(f"Ledger {name}", headers, rows, right={"steps", "blocked", "cost", "tokens"})
    if last is not None:
        tenants = ("--tenant", tenant) if tenant is not None else ()
        say(f"Older ones: {command('ledger', 'list', options=(f'--before={last}', '--ledger', name, *tenants))}")


def show_run(options: Chosen, path: str | None, run_id: str, tenant: str | None) -> None:
    """Print the steps of a run."""

    async def read(ledger: ReplayLedger) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
        steps = await ledger.get_run(run_id, tenant=tenant)
        if not steps and not await ledger.entries(run_id, "intent", tenant=tenant):
            raise _unknown_run(ledger, run_id)
        return shown(ledger), await ledger.run_summary(run_id, tenant=tenant), steps

    name, summary, steps = with_ledger(options, path, read)
    if options.as_json:
        print_json({"ledger": name, "run_id": run_id, "summary": summary, "steps": steps})
        return
    rows = [
        (index, step["step_id"], step["attempt"], step["tool"] or step["node_id"], step["verdict"], step["code"],
         usd(step["cost_micro_usd"]), ms(step["duration_ms"]))
        for index, step in enumerate(steps)
    ]  # fmt: skip
    headers = ("#", "step", "try", "tool or node", "verdict", "code", "cost", "ms")
    print_table(f"Run {run_id}", headers, rows, right={"#", "try", "cost", "ms"})
    cost = usd(summary["total_cost_micro_usd"])
    steps_done, tokens = counted(summary["steps"], "step"), counted(summary["total_tokens"], "token")
    say(f"{steps_done}, {summary['blocked_steps']} blocked; {cost}, {tokens}")
    if steps:
        say(f"One step whole: {command('ledger', 'show', ids=(run_id, 'STEP'), options=('--ledger', name))}")


def show_step(
    options: Chosen, path: str | None, run_id: str, wanted: str, attempt: int | None, tenant: str | None
) -> None:
    """Print one step whole. ``wanted`` is a step's id, or else its place among the run's steps."""

    async def read(ledger: ReplayLedger) -> tuple[str, dict[str, Any], list[int]]:
        steps = await ledger.get_run(run_id, tenant=tenant)
        if not steps:
            raise _unknown_run(ledger, run_id)
        step = _find(steps, run_id, wanted, attempt)
        return shown(ledger), step, [one["attempt"] for one in steps if one["step_id"] == step["step_id"]]

    name, step, attempts = with_ledger(options, path, read)
    if options.as_json:
        print_json({"ledger": name, "run_id": run_id, "attempts": attempts, "step": step})
        return
    print_step(step)
    if len(attempts) > 1:
        say("", f"Attempts on record: {', '.join(map(str, attempts))}; choose one with --attempt")


def print_step(step: Mapping[str, Any]) -> None:
    """Print all that the ledger keeps of a step."""
    cost = f"{usd(step['cost_micro_usd'])} of {usd(step.get('reserved_micro_usd', 0))} reserved"
    print_pairs([*((name, flat(step.get(name))) for name in _HEAD), ("cost", cost)])
    rows = [
        (one["stage"], one["plugin"], one["effect"] if one["enforced"] else f"{one['effect']} (shadow)", one["code"],
         "replaced; " * bool(one["replaced"]) + one["reason"], ms(one["elapsed_ns"] / 1_000_000))
        for one in step["stages"]
    ]  # fmt: skip
    say("")
    print_table("Stages", ("stage", "plugin", "effect", "code", "reason", "ms"), rows, right={"ms"})
    evidence = {f"{one['stage']} by {one['plugin']}": one["evidence"] for one in step["stages"] if one["evidence"]}
    sections = (
        ("Principal", step["principal"]), ("Input", step["input_task"]), ("Output", step["output_content"]),
        ("Metadata", step["metadata"] or None), ("Evidence", evidence or None),
        ("Approval asked", step.get("approval_request")), ("Approval given", step.get("approval_id")),
    )  # fmt: skip
    for title, value in sections:
        if value is not None:
            say(f"{title}:", *(f"  {one}" for one in _pretty(value).splitlines()))
    say("")
    print_pairs((name, step.get(name)) for name in _HASHES)


def _find(steps: list[dict[str, Any]], run_id: str, wanted: str, attempt: int | None) -> dict[str, Any]:
    found = [step for step in steps if step["step_id"] == wanted]
    if not found and wanted.removeprefix("-").isdecimal():
        try:
            found = [steps[int(wanted)]]
        except (IndexError, ValueError):
            found = []
    if attempt is not None:
        found = [step for step in found if step["attempt"] == attempt]
    if not found:
        tried = f", attempt {attempt}" if attempt is not None else ""
        raise LedgerError(f"run {run_id!r} has no step {wanted!r}{tried}; it has {counted(len(steps), 'step')}, from 0")
    return max(found, key=lambda step: int(step["attempt"]))


def _unknown_run(ledger: ReplayLedger, run_id: str) -> LedgerError:
    return LedgerError(f"the ledger {shown(ledger)} has no run {run_id!r}")


def _pretty(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(plain(value), indent=2, ensure_ascii=False)
