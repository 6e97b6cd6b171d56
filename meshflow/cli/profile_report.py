"""``meshflow report``: the evidence for a profile's controls, on the screen, as JSON and as HTML."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshflow.cli.exits import ExitCode
from meshflow.cli.given import keys_of, text_of
from meshflow.cli.ledgers import shown, with_ledger
from meshflow.cli.options import Chosen
from meshflow.cli.output import counted, plain, print_json, print_table, say
from meshflow.cli.profile_packs import named_pack
from meshflow.cli.progress import Display

if TYPE_CHECKING:
    from meshflow.ledger import ReplayLedger

_STATES = {"satisfied": "satisfied", "violated": "VIOLATED", "not_exercised": "not exercised"}
_VIOLATIONS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What the command line asks for."""

    profile: str
    since: str | None
    until: str | None
    tenant: str | None
    ledger: str | None
    html: Path | None
    output: Path | None
    checkpoints: tuple[Path, ...]
    keys: tuple[str, ...]
    limit: int


def report_profile(options: Chosen, asked: ReportRequest) -> ExitCode:
    """Make the report, write and print it; 1 if a control is violated."""
    from meshflow.clock import SystemClock
    from meshflow.profiles.report import Window, profile_report

    pack, _ = named_pack(options.load(), asked.profile, asked.tenant)
    window = Window.of(asked.since, asked.until, asked.tenant)
    notes = [text_of(path) for path in asked.checkpoints]
    keys = [key for one in asked.keys for key in keys_of(one)]

    async def read(ledger: ReplayLedger) -> tuple[str, dict[str, Any]]:
        with Display() as display:
            found = await profile_report(
                ledger, pack, window, now_us=SystemClock().now_us(), checkpoints=notes, keys=keys or None,
                limit=asked.limit, progress=lambda entries, run: display.progress(entries, 0, run),
            )  # fmt: skip
        return shown(ledger), found

    # As for writing: payloads that are encrypted can be read with the configured key alone.
    name, report = with_ledger(options, asked.ledger, read, writing=True)
    report = {**report, "ledger": {"path": name, **report["ledger"]}}
    _write_files(asked, report)
    if options.as_json:
        print_json(report)
    else:
        _print(report, asked)
    return ExitCode.FAILED if report["summary"]["violated"] else ExitCode.OK


def _write_files(asked: ReportRequest, report: Mapping[str, Any]) -> None:
    from meshflow.profiles.html import iter_html

    if asked.html is not None:
        _write(asked.html, iter_html(report))
    if asked.output is not None:
        _write(asked.output, (json.dumps(plain(report), indent=2, allow_nan=False), "\n"))


def _write(path: Path, parts: Iterable[str]) -> None:
    """Write a file whole or not at all, so that no half of a report is taken for one."""
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.writelines(parts)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _print(report: Mapping[str, Any], asked: ReportRequest) -> None:
    ledger, records, summary = report["ledger"], report["records"], report["summary"]
    rows = [
        (control["id"], control["title"], _STATES[control["status"]], *(control["counts"][name] or "" for name in
         ("satisfied", "violated", "undecidable")))
        for control in report["controls"]
    ]  # fmt: skip
    headers = ("control", "title", "state", "satisfy", "violate", "erased")
    print_table(report["profile"]["title"], headers, rows, right={"satisfy", "violate", "erased"})
    for control in report["controls"]:
        violations = control["records"].get("violated", [])
        for one in violations[:_VIOLATIONS_SHOWN]:
            place = f"step {one['step_id']} of run {one['run_id']}" if one.get("step_id") else one["kind"]
            say(f"  {control['id']}: {place}: {one['why']}")
        if control["counts"]["violated"] > _VIOLATIONS_SHOWN:
            say(f"  {control['id']}: and {control['counts']['violated'] - _VIOLATIONS_SHOWN:,} more")
    say(
        f"{summary['satisfied']} satisfied, {summary['violated']} violated, {summary['not_exercised']} not exercised, "
        f"{summary['not_covered']} not covered",
        f"Ledger {ledger['path']}: verified ({', '.join(ledger['checked'])}); "
        f"{counted(records['steps'], 'step')} in {counted(records['runs'], 'run')}, "
        f"{records['steps_under_profile']:,} under this profile",
    )
    if ledger["held_size"] is None:
        say("  no checkpoint from outside was given (--checkpoint), so an older history could have been rewritten")
    for path in (asked.html, asked.output):
        if path is not None:
            say(f"Wrote {path}")
