"""``meshflow ledger export|diff|fork`` and ``meshflow replay``: go back in recorded runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from meshflow.cli.options import (
    CheckpointsOption,
    Chosen,
    ForceOption,
    LedgerOption,
    OutputOption,
    RunArgument,
    TenantOption,
    shared,
    text,
    texts,
)
from meshflow.cli.workflow_app import HostOption, ImportsOption, WithOption

time_app = typer.Typer(rich_markup_mode=None)


class ExportFormat(StrEnum):
    """What an export is written as."""

    JSON = "json"
    CSV = "csv"
    BUNDLE = "bundle"


@time_app.command()
@shared
def export(
    options: Chosen,
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", callback=texts, help="Id of a run; a bundle takes several.", show_default=False),
    ] = None,
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format", help="json has all of a run, csv is for a spreadsheet, bundle is evidence to verify elsewhere."
        ),
    ] = ExportFormat.JSON,
    whole: Annotated[bool, typer.Option("--all", help="A bundle of the whole ledger.")] = False,
    payloads: Annotated[
        bool, typer.Option("--payloads/--no-payloads", help="Whether a bundle holds what was said.")
    ] = True,
    checkpoints: CheckpointsOption = None,
    anchors: Annotated[
        list[str] | None,
        typer.Option(
            "--anchor", metavar="WHICH", callback=texts, help="Bring along what an anchor keeps: all, s3, file:PATH."
        ),
    ] = None,
    output: OutputOption = None,
    force: ForceOption = False,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Write a run out whole, as it is on record; or runs as a bundle of evidence."""
    from meshflow.cli.timetravel import check_output, export_run

    check_output(output, force=force)
    if form is ExportFormat.BUNDLE:
        from meshflow.cli.bundle import export_bundle

        if output is None:
            raise typer.BadParameter("a bundle is written to a file; name it with --output")
        if bool(runs) is whole:
            raise typer.BadParameter("a bundle is of the runs that are named, or of the whole ledger with --all")
        export_bundle(
            options, ledger, runs or None, tenant, payloads=payloads, checkpoints=checkpoints or (),
            anchors=anchors or (), output=output,
        )  # fmt: skip
        return
    if whole or not payloads or checkpoints or anchors:
        raise typer.BadParameter("--all, --no-payloads, --checkpoint and --anchor are for --format bundle")
    if runs is None or len(runs) != 1:
        raise typer.BadParameter(f"{form} takes one run; --format bundle takes several")
    export_run(options, ledger, runs[0], tenant, csv=form is ExportFormat.CSV, output=output)


@time_app.command()
@shared
def diff(
    options: Chosen,
    run_a: Annotated[str, typer.Argument(metavar="A", callback=text, help="Id of a run.")],
    run_b: Annotated[str, typer.Argument(metavar="B", callback=text, help="Id of the run to compare with it.")],
    fail_on_difference: Annotated[
        bool, typer.Option("--fail-on-difference", help="Exit with 1 if the runs differ.")
    ] = False,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Show what two runs did differently."""
    from meshflow.cli.timetravel import show_diff

    raise typer.Exit(show_diff(options, ledger, run_a, run_b, tenant, fail_on_difference=fail_on_difference))


@time_app.command()
@shared
def fork(
    options: Chosen,
    run: RunArgument,
    from_step: Annotated[
        int, typer.Option("--from-step", metavar="N", min=0, help="The first step that the new run does itself.")
    ],
    run_id: Annotated[
        str | None, typer.Option("--run-id", metavar="ID", callback=text, help="Id of the new run.")
    ] = None,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Begin a run that inherits the steps of another before N."""
    from meshflow.cli.timetravel import fork_run

    fork_run(options, ledger, run, from_step, run_id, tenant)


@shared
def replay(
    options: Chosen,
    run: RunArgument,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGS", help="Handed to the job; put -- before them.", show_default=False),
    ] = None,
    workflow: Annotated[
        Path | None,
        typer.Option("--workflow", metavar="FILE", help="Workflow file that is gone through again."),
    ] = None,
    job: Annotated[
        str | None,
        typer.Option("--job", metavar="JOB", callback=text, help="Job that is run again: path/to/job.py[:callable]."),
    ] = None,
    given: Annotated[
        str | None,
        typer.Option("--input", metavar="JSON|@FILE", callback=text, help="Another input than the recorded one."),
    ] = None,
    code: WithOption = None,
    hosts: HostOption = None,
    allow_imports: ImportsOption = False,
    every: Annotated[bool, typer.Option("--every", help="Go on past the first difference.")] = False,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Go through a recorded run again without a call, up to the first step that would now differ.

    With --workflow or --job that program is run again, and gets the recorded outputs; without, the gates of today are
    asked about each step. Nothing is executed, counted or recorded.
    """
    from meshflow.cli.replay import replay_run
    from meshflow.cli.replay_program import Program

    program = Program(
        workflow, job, given, tuple(code or ()), tuple(hosts or ()), allow_imports, tuple(arguments or ())
    )
    raise typer.Exit(replay_run(options, ledger, run, tenant, program, every=every))
