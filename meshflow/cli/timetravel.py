"""``meshflow ledger export|diff|fork``: write runs out, compare them, begin new ones from them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meshflow.cli.exits import ExitCode
from meshflow.cli.ledgers import command, shown, with_ledger
from meshflow.cli.options import Chosen
from meshflow.cli.output import counted, line, print_json, print_table, say, usd
from meshflow.visible import visible

if TYPE_CHECKING:
    from meshflow.ledger import ReplayLedger
    from meshflow.ledger.diff import RunDiff

_BEYOND_ASCII = re.compile("[^\x00-\x7e]")
_OUTPUT_WIDTH = 60


def check_output(output: Path | None, *, force: bool) -> None:
    """Refuse a file that is there already, unless it may be overwritten."""
    if output is not None and os.path.lexists(output) and not force:
        raise typer.BadParameter(f"{shown(output)} is there already; choose another name, or overwrite it with --force")


def export_run(
    options: Chosen, path: str | None, run_id: str, tenant: str | None, *, csv: bool, output: Path | None
) -> None:
    """Write a run to a file or to stdout, as it is read."""
    if options.as_json and csv and output is None:
        raise typer.BadParameter("--json wants one JSON document on stdout; name a file for the CSV with --output")

    async def read(ledger: ReplayLedger) -> str:
        parts = (ledger.iter_export_csv if csv else ledger.iter_export)(run_id, tenant=tenant)
        if output is None:
            await _print(parts, csv)
        else:
            await _save(parts, output)
        return shown(ledger)

    name = with_ledger(options, path, read)
    if output is None:
        return
    if options.as_json:
        print_json({"ledger": name, "run_id": run_id, "format": "csv" if csv else "json", "written": shown(output)})
    else:
        say(f"Wrote {shown(output)}")


async def _print(parts: AsyncIterator[str], csv: bool) -> None:
    """Write to stdout: JSON in ASCII, so that any locale can carry it; CSV as it is, or cleaned for a terminal."""
    sys.stdout.flush()
    out = getattr(sys.stdout, "buffer", None)
    async for part in parts:
        if not csv:
            part = _BEYOND_ASCII.sub(_escape, part)
        elif sys.stdout.isatty():
            part = visible(part.replace("\r\n", "\n"))
        if out is None:
            sys.stdout.write(part)
        else:
            out.write(part.encode("utf-8"))
    sys.stdout.flush()


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code <= 0xFFFF:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


async def _save(parts: AsyncIterator[str], output: Path) -> None:
    """Write a file whole or not at all, for its owner's eyes: an export holds what people said."""
    partial = output.with_name(f".{output.name}.partial-{os.getpid()}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            async for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, output)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def show_diff(
    options: Chosen, path: str | None, run_a: str, run_b: str, tenant: str | None, *, fail_on_difference: bool
) -> ExitCode:
    """Print what two runs did differently."""

    async def read(ledger: ReplayLedger) -> tuple[str, RunDiff]:
        return shown(ledger), await ledger.diff(run_a, run_b, tenant=tenant)

    name, diff = with_ledger(options, path, read)
    if options.as_json:
        print_json({"ledger": name, "same_path": diff.same_path, "identical": diff.identical, **asdict(diff)})
    else:
        _print_diff(diff)
    return ExitCode.FAILED if fail_on_difference and not diff.same_path else ExitCode.OK


def _print_diff(diff: RunDiff) -> None:
    for title, nodes in (("Only in A", diff.only_in_a), ("Only in B", diff.only_in_b)):
        if nodes:
            say(f"{title}: {', '.join(map(line, nodes))}")
    rows = [
        (one["node_id"], one["occurrence"], one["step_index_a"], one["step_index_b"],
         *(_ending(one, side) for side in "ab"), usd(one["cost_delta_micro_usd"]))
        for one in diff.changed
    ]  # fmt: skip
    headers = ("node", "time", "step in A", "step in B", "A", "B", "cost")
    if rows:
        print_table("Changed", headers, rows, right={"time", "step in A", "step in B", "cost"})
    for title, extra in (("A", diff.extra_in_a), ("B", diff.extra_in_b)):
        for one in extra:
            say(f"Once more in {title}: {line(one['node_id'])}, step {one['step_index']}")
    for one in diff.not_compared:
        whys = f"{one['why_a']} in A, {one['why_b']} in B".replace("none in", "there in")
        say(f"Not compared: output of {line(one['node_id'])}, step {one['step_index_a']} of A ({whys})")
    if diff.same_path:
        say("No difference was found" + (" in what can be compared." if diff.not_compared else "."))
    say(f"B less A: {usd(diff.cost_delta_micro_usd)}, {diff.token_delta:,} tokens")


def _ending(one: dict[str, Any], side: str) -> str:
    text = f"{one[f'verdict_{side}']} {one[f'code_{side}']}".strip()
    output = one[f"output_{side}"]
    if output is not None:
        said = line(output)
        text += f": {said if len(said) <= _OUTPUT_WIDTH else said[:_OUTPUT_WIDTH] + '...'}"
    return text


def fork_run(
    options: Chosen, path: str | None, run_id: str, from_step: int, new_run_id: str | None, tenant: str | None
) -> None:
    """Begin a new run and print its id."""

    async def write(ledger: ReplayLedger) -> tuple[str, str]:
        made = await ledger.fork(run_id, from_step, new_run_id=new_run_id, tenant=tenant)
        return shown(ledger), made

    name, made = with_ledger(options, path, write, writing=True)
    if options.as_json:
        print_json({"ledger": name, "run_id": made, "parent_run_id": run_id, "parent_steps": from_step})
        return
    say(
        f"Run {made} inherits {counted(from_step, 'step')} of run {run_id}",
        f"Go on with it: {command('run', 'JOB', options=(f'--run-id={made}', '--resume', '--ledger', name))}",
    )
