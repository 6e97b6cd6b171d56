"""``meshflow ledger verify``: whether runs hold, against themselves and against what is held outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshflow.cli.exits import ExitCode
from meshflow.cli.ledgers import shown, with_ledger
from meshflow.cli.options import Chosen
from meshflow.cli.output import counted, line, print_json, say
from meshflow.cli.outside import Given
from meshflow.cli.progress import Display
from meshflow.cli.report import ledger_lines
from meshflow.ledger.format.steps import timestamp

if TYPE_CHECKING:
    from meshflow.ledger import ReplayLedger

_PAGE = 500


def verify_runs(options: Chosen, path: str | None, run_id: str | None, tenant: str | None, given: Given) -> ExitCode:
    """Verify one run or all; 1 if anything is wrong, or there is nothing that could be right."""

    async def read(
        ledger: ReplayLedger,
    ) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]], dict[str, Any] | None]:
        outside: dict[str, Any] = given.arguments
        # What is held outside concerns the log as a whole, so for many runs it is compared once.
        once = bool(outside) and run_id is None and tenant is None
        ids = [run_id] if run_id is not None else await _all_runs(ledger, tenant)
        chains = []
        with Display() as display:
            for number, one in enumerate(ids):
                display.progress(number, len(ids), one)
                chains.append(await ledger.verify_chain(one, tenant=tenant, **({} if once else outside)))
            whole = await ledger.verify_ledger(**given.for_ledger) if once and chains else None
        return shown(ledger), chains, await ledger.unfinished(run_id, tenant=tenant), whole

    name, chains, open_intents, whole = with_ledger(options, path, read)
    looked = [*chains, *([whole] if whole is not None else [])]
    valid = bool(chains) and all(one["valid"] for one in looked)
    checked = {what for one in looked for what in one["checked"]}
    kept = ("run_id", "step_id", "attempt", "node_id", "tool", "tenant_id", "timestamp")
    unfinished = [{key: one[key] for key in kept} for one in open_intents]
    if options.as_json:
        print_json({
            "ledger": name, "valid": valid, "runs_verified": len(chains),
            "steps_verified": sum(chain["steps_verified"] for chain in chains),
            "checked": sorted(checked),
            "not_checked": sorted({what for one in looked for what in one["not_checked"]} - once_checked(whole)),
            "runs": chains, "whole": whole, "unfinished": unfinished,
        })  # fmt: skip
    else:
        _print_verification(name, chains, unfinished, whole)
        if chains and given.arguments:
            _print_outside(whole or chains[0])
    return ExitCode.OK if valid else ExitCode.FAILED


def once_checked(whole: dict[str, Any] | None) -> set[str]:
    """Return what was checked once for all runs."""
    return set(whole["checked"]) if whole is not None else set()


def _print_outside(result: dict[str, Any]) -> None:
    """Say how far what is held outside reaches."""
    if result["held_size"] is not None:
        say(f"  newest checkpoint from outside: {result['held_size']:,} entries; what is newer rests on the key alone")
    for name, one in result["anchors"].items():
        newest = "nothing" if one["newest"] is None else f"{one['newest']:,} entries"
        say(f"  {line(name)} keeps {newest}; compared {one['compared']:,}")
    witness = result["witness"]
    if witness is not None and witness["size"] is not None:
        who = ", ".join(f"{line(name)} at {timestamp(at * 1_000_000)}" for name, at in witness["cosigned"].items())
        say(f"  {witness['size']:,} entries are cosigned by {who}; {witness['needed']} of {witness['of']} were needed")


def _print_verification(
    name: str, chains: list[dict[str, Any]], unfinished: list[dict[str, Any]], whole: dict[str, Any] | None
) -> None:
    if not chains:
        say(f"Ledger {name}: no runs, so nothing could be verified")
        return
    say(*ledger_lines(name, chains, whole))
    running = sum(chain["state"] == "open" for chain in chains)
    if running:
        say(f"  open: {running}; a tail cut off an open run goes unnoticed without a checkpoint from outside")
    if unfinished:
        say(f"{counted(len(unfinished), 'step')} without an outcome on record, which may have run, or still do:")
    for one in unfinished:
        what = one["tool"] or one["node_id"]
        say(f"  {what}, step {one['step_id']} of run {one['run_id']}, attempt {one['attempt']}, {one['timestamp']}")


async def _all_runs(ledger: ReplayLedger, tenant: str | None) -> list[str]:
    ids: list[str] = []
    while page := await ledger.list_runs(limit=_PAGE, before=ids[-1] if ids else None, tenant=tenant):
        ids += page
    return ids
