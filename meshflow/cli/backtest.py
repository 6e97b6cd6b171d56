"""``meshflow policy backtest``: recorded decisions through a candidate bundle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import typer

from meshflow.cli.exits import ExitCode
from meshflow.cli.ledgers import command, shown, with_ledger
from meshflow.cli.options import Chosen
from meshflow.cli.output import counted, line, print_json, print_table, say
from meshflow.cli.policy_bundle import chosen_bundle

if TYPE_CHECKING:
    from meshflow.ledger import ReplayLedger
    from meshflow.policy.backtest import Change, Report

_PAGE = 500
_SHOWN_STEPS = 10


@dataclass(frozen=True, slots=True)
class BacktestRequest:
    """Which records are judged, by which bundle, and what of the outcome fails the command."""

    bundle: Path | None
    data: Path | None
    ledger: str | None
    tenant: str | None
    run: str | None
    since: str | None
    until: str | None
    plugin: str
    fail_on: str
    html: Path | None
    step_url: str | None
    examples: int


def backtest_policy(options: Chosen, request: BacktestRequest) -> ExitCode:
    """Print what a candidate bundle would decide otherwise."""
    from meshflow.policy.backtest import Backtest, Candidate
    from meshflow.policy.backtest.html import html_page

    if request.step_url is not None and "{run}" not in request.step_url:
        raise typer.BadParameter("--step-url needs {run}, and may have {step} and {step_id}")
    bundle = chosen_bundle(options, request.bundle, request.data)

    async def read(ledger: ReplayLedger) -> tuple[str, Report]:
        backtest = Backtest(Candidate(bundle), plugin=request.plugin, examples=request.examples)
        async for step in _steps(ledger, request, backtest.report):
            backtest.judge(step)
        return shown(ledger), backtest.report

    name, report = with_ledger(options, request.ledger, read)
    if request.html is not None:
        url = request.step_url
        request.html.write_text(html_page(report, None if url is None else lambda one: _address(url, one)), "utf-8")
    if options.as_json:
        print_json({"ledger": name, **report.to_dict()})
    else:
        _print(report, name)
    failed = {
        "none": False,
        "looser": report.looser > 0,
        "flip": report.flips > 0,
        "undecidable": report.flips > 0 or report.undecidable > 0,
    }[request.fail_on]
    return ExitCode.FAILED if failed else ExitCode.OK


async def _steps(ledger: ReplayLedger, request: BacktestRequest, report: Report) -> AsyncIterator[dict[str, Any]]:
    """Yield the steps meant, each once: what a fork inherits was decided in its parent."""
    async for run in _runs(ledger, request):
        report.runs += 1
        async for step in ledger.iter_run(run, tenant=request.tenant):
            if not step["inherited"]:
                yield step


async def _runs(ledger: ReplayLedger, request: BacktestRequest) -> AsyncIterator[str]:
    if request.run is not None:
        yield request.run
        return
    before: str | None = None
    while True:
        runs = await ledger.list_runs(
            limit=_PAGE, before=before, tenant=request.tenant, since=request.since, until=request.until
        )
        for run in runs:
            yield run
        if len(runs) < _PAGE:
            return
        before = runs[-1]


def _address(template: str, change: Change) -> str:
    index = "" if change.step_index is None else str(change.step_index)
    return (
        template.replace("{run}", quote(change.run_id, safe=""))
        .replace("{step_id}", quote(change.step_id, safe=""))
        .replace("{step}", index)
    )


def _print(report: Report, ledger: str) -> None:
    say(
        f"{report.bundle} over {ledger}: {counted(report.runs, 'run')}, {counted(report.steps, 'step')}, "
        f"{counted(report.decisions, 'decision')}",
        f"{report.same:,} the same, {report.flips:,} would flip ({report.looser:,} of them looser), "
        f"{report.reasons:,} the same by other rules, {report.undecidable:,} undecidable",
        "",
    )
    for title, rows in (
        ("What would flip", report.kinds.rows()),
        *((f"Flips by {name}", tally.rows()) for name, tally in report.by.items()),
        ("Undecidable", report.why.rows()),
    ):
        if rows:
            cells = [
                (row["key"], f"{row['total']:,}", ", ".join(f"{kind}: {n:,}" for kind, n in row["kinds"].items()))
                for row in rows
            ]
            print_table(title, ("", "decisions", "of which"), cells, right={"decisions"})
    for group, title in (("flip", "Flips"), ("undecidable", "Undecidable")):
        for kind, changes in report.kept(group):
            say(f"{title}: {line(kind)}")
            for one in changes[:_SHOWN_STEPS]:
                say(f"  {_shown(one, ledger)}")
            say("")


def _shown(one: Change, ledger: str) -> str:
    index = str(one.step_index) if one.step_index is not None else one.step_id
    where = command("ledger", "show", ids=(one.run_id, index), options=("--ledger", ledger))
    why = one.why or one.reason
    return f"{line(one.node)} at {one.stage}{': ' + line(why) if why else ''}   {where}"
