"""``meshflow ledger``: read and verify recorded runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshflow.cli.listing import ListingGroup
from meshflow.cli.options import (
    ConfigOption,
    DebugOption,
    JsonOption,
    LedgerOption,
    RunArgument,
    TenantOption,
    chosen,
    text,
)

ledger_app = typer.Typer(
    cls=ListingGroup,
    help="Read and verify recorded runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@ledger_app.command("list")
def list_runs(
    context: typer.Context,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="How many runs.")] = 20,
    before: Annotated[
        str | None, typer.Option("--before", metavar="RUN", callback=text, help="Only runs begun before this one.")
    ] = None,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List runs, the newest first."""
    options = chosen(context, config, as_json, debug)
    from meshflow.cli.ledger import show_runs

    show_runs(options, ledger, limit, before, tenant)


@ledger_app.command()
def show(
    context: typer.Context,
    run: RunArgument,
    step: Annotated[
        str | None, typer.Argument(metavar="STEP|INDEX", callback=text, help="A step's id, or its place from 0.")
    ] = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, help="Which attempt at the step; without it the latest.")
    ] = None,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the steps of a run, or one step whole."""
    options = chosen(context, config, as_json, debug)
    from meshflow.cli.ledger import show_run, show_step

    if step is None:
        show_run(options, ledger, run, tenant)
    else:
        show_step(options, ledger, run, step, attempt, tenant)


@ledger_app.command()
def verify(
    context: typer.Context,
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", callback=text, help="Id of a run; without it every run.")
    ] = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option("--checkpoint", metavar="FILE", help="Checkpoint that was kept elsewhere; may be repeated."),
    ] = None,
    keys: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="KEY|FILE", help="Public key from elsewhere, or a file of them; repeat it."),
    ] = None,
    anchors: Annotated[
        list[str] | None,
        typer.Option(
            "--anchor",
            metavar="WHICH",
            help="Compare with what is kept there: all that are configured, one kind of them, file:PATH or git:PATH.",
        ),
    ] = None,
    witnesses: Annotated[
        list[str] | None,
        typer.Option(
            "--witness", metavar="KEY|FILE", help="Public key of a witness who must have cosigned; may be repeated."
        ),
    ] = None,
    quorum: Annotated[
        int | None, typer.Option("--quorum", metavar="N", min=1, help="How many witnesses must have; without it all.")
    ] = None,
    within: Annotated[
        str | None,
        typer.Option("--cosigned-within", metavar="TIME", callback=text, help="How long ago at most, such as 2h."),
    ] = None,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check the chain of a run, or of all runs, and list steps that began and have no outcome."""
    options = chosen(context, config, as_json, debug)
    from meshflow.cli.outside import Given
    from meshflow.cli.verify import verify_runs

    given = Given.of(options, ledger, checkpoints or (), keys or (), anchors or (), witnesses or (), quorum, within)
    raise typer.Exit(verify_runs(options, ledger, run, tenant, given))
