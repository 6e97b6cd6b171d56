"""``meshflow ledger checkpoint|prove|compare|anchor|doctor``: evidence that holds outside of the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshflow.cli.options import (
    Chosen,
    ForceOption,
    KeysOption,
    LedgerOption,
    OutputOption,
    StepArgument,
    TenantOption,
    shared,
    text,
)

evidence_app = typer.Typer(rich_markup_mode=None)


@evidence_app.command()
@shared
def checkpoint(
    options: Chosen, output: OutputOption = None, force: ForceOption = False, ledger: LedgerOption = None
) -> None:
    """Print a signed checkpoint of the whole ledger; keep it elsewhere to verify against."""
    from meshflow.cli.evidence import show_checkpoint
    from meshflow.cli.timetravel import check_output

    check_output(output, force=force)
    show_checkpoint(options, ledger, output)


@evidence_app.command()
@shared
def prove(
    options: Chosen,
    run: Annotated[str | None, typer.Argument(metavar="RUN", callback=text, help="Id of a run.")] = None,
    step: StepArgument = None,
    seq: Annotated[
        int | None, typer.Option("--seq", metavar="NUMBER", min=0, help="Prove the entry at this place of the run.")
    ] = None,
    since: Annotated[
        Path | None,
        typer.Option("--since", metavar="FILE", help="Prove that the ledger extends the checkpoint in this file."),
    ] = None,
    check: Annotated[
        Path | None, typer.Option("--check", metavar="FILE", help="Check a proof that was saved; needs --key alone.")
    ] = None,
    keys: KeysOption = None,
    output: OutputOption = None,
    force: ForceOption = False,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Prove that an entry is in the ledger, or that the ledger extends a checkpoint; or check such a proof."""
    from meshflow.cli.evidence import check_proof, prove_entry, prove_since
    from meshflow.cli.timetravel import check_output

    if sum(one is not None for one in (run, since, check)) != 1:
        raise typer.BadParameter("give one of RUN, --since FILE and --check FILE")
    if check is not None:
        raise typer.Exit(check_proof(options, check, keys or ()))
    check_output(output, force=force)
    if since is not None:
        prove_since(options, ledger, since, output)
    elif run is not None:
        if (step is None) is (seq is None):
            raise typer.BadParameter("name one entry of the run, by STEP or by --seq")
        prove_entry(options, ledger, run, step, seq, tenant, output)


@evidence_app.command()
@shared
def compare(
    options: Chosen,
    first: Annotated[Path, typer.Argument(metavar="A", help="File with a checkpoint.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="File with the checkpoint that somebody else holds.")],
    proof: Annotated[
        Path | None,
        typer.Option("--proof", metavar="FILE", help="Proof from one to the other; without it the ledger is asked."),
    ] = None,
    keys: KeysOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Say whether two checkpoints are of one history; 1 if the ledger showed two people two of them."""
    from meshflow.cli.evidence import compare_checkpoints

    raise typer.Exit(compare_checkpoints(options, ledger, first, second, proof, keys or ()))


@evidence_app.command()
@shared
def anchor(
    options: Chosen,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", callback=text, help="Kind of anchor, as in use; without it all.")
    ] = None,
    ledger: LedgerOption = None,
) -> None:
    """Publish a checkpoint now to the anchors that the configuration lists."""
    from meshflow.cli.evidence import publish

    raise typer.Exit(publish(options, ledger, name))


@evidence_app.command()
@shared
def doctor(options: Chosen, ledger: LedgerOption = None) -> None:
    """Examine file, key, clock and anchors; 1 if something is wrong."""
    from meshflow.cli.ledger_doctor import examine_ledger

    raise typer.Exit(examine_ledger(options, ledger))
