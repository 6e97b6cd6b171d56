"""``meshflow ledger``: read and verify recorded runs."""

from __future__ import annotations

from typing import Annotated

import typer

from meshflow.cli.listing import ListingGroup
from meshflow.cli.options import (
    CheckpointsOption,
    Chosen,
    KeysOption,
    LedgerOption,
    QuorumOption,
    RunArgument,
    StepArgument,
    TenantOption,
    WitnessesOption,
    shared,
    text,
)

ledger_app = typer.Typer(
    cls=ListingGroup, help="Read and verify recorded runs.", no_args_is_help=True, rich_markup_mode=None
)


@ledger_app.command("list")
@shared
def list_runs(
    options: Chosen,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many runs.")] = 20,
    before: Annotated[
        str | None, typer.Option("--before", metavar="RUN", callback=text, help="Only runs begun before this one.")
    ] = None,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """List runs, the newest first."""
    from meshflow.cli.ledger import show_runs

    show_runs(options, ledger, limit, before, tenant)


@ledger_app.command()
@shared
def show(
    options: Chosen,
    run: RunArgument,
    step: StepArgument = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="Which attempt at the step; without it the latest.")
    ] = None,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Show the steps of a run, or one step whole."""
    from meshflow.cli.ledger import show_run, show_step

    if step is None:
        show_run(options, ledger, run, tenant)
    else:
        show_step(options, ledger, run, step, attempt, tenant)


@ledger_app.command()
@shared
def verify(
    options: Chosen,
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", callback=text, help="Id of a run; without it every run.")
    ] = None,
    checkpoints: CheckpointsOption = None,
    keys: KeysOption = None,
    anchors: Annotated[
        list[str] | None,
        typer.Option(
            "--anchor",
            metavar="WHICH",
            help="Compare with what is kept there: all that are configured, one kind of them, file:PATH or git:PATH.",
        ),
    ] = None,
    witnesses: WitnessesOption = None,
    quorum: QuorumOption = None,
    within: Annotated[
        str | None,
        typer.Option("--cosigned-within", metavar="TIME", callback=text, help="How long ago at most, such as 2h."),
    ] = None,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Check the chain of a run, or of all runs, and list steps that began and have no outcome."""
    from meshflow.cli.outside import Given
    from meshflow.cli.verify import verify_runs

    given = Given.of(options, ledger, checkpoints or (), keys or (), anchors or (), witnesses or (), quorum, within)
    raise typer.Exit(verify_runs(options, ledger, run, tenant, given))
