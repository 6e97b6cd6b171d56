"""``meshflow ledger checkpoint|prove|compare|anchor|doctor``: evidence that holds outside of the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshflow.cli.options import (
    ConfigOption,
    DebugOption,
    JsonOption,
    LedgerOption,
    TenantOption,
    chosen,
    text,
)

evidence_app = typer.Typer(rich_markup_mode=None)
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write here, not to stdout.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite FILE if it is there.")]
KeysOption = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="KEY|FILE", help="Public key of the ledger, or a file of them; may be repeated."),
]


@evidence_app.command()
def checkpoint(
    context: typer.Context,
    output: OutputOption = None,
    force: ForceOption = False,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print a signed checkpoint of the whole ledger; keep it elsewhere to verify against."""
    options = chosen(context, config, as_json, debug)
    from meshflow.cli.evidence import show_checkpoint
    from meshflow.cli.timetravel import check_output

    check_output(output, force=force)
    show_checkpoint(options, ledger, output)


@evidence_app.command()
def prove(
    context: typer.Context,
    run: Annotated[str | None, typer.Argument(metavar="RUN", callback=text, help="Id of a run.")] = None,
    step: Annotated[
        str | None, typer.Argument(metavar="STEP|INDEX", callback=text, help="A step's id, or its place from 0.")
    ] = None,
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
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Prove that an entry is in the ledger, or that the ledger extends a checkpoint; or check such a proof."""
    options = chosen(context, config, as_json, debug)
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
def compare(
    context: typer.Context,
    first: Annotated[Path, typer.Argument(metavar="A", help="File with a checkpoint.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="File with the checkpoint that somebody else holds.")],
    proof: Annotated[
        Path | None,
        typer.Option("--proof", metavar="FILE", help="Proof from one to the other; without it the ledger is asked."),
    ] = None,
    keys: KeysOption = None,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Say whether two checkpoints are of one history; 1 if the ledger showed two people two of them."""
    options = chosen(context, config, as_json, debug)
    from meshflow.cli.evidence import compare_checkpoints

    raise typer.Exit(compare_checkpoints(options, ledger, first, second, proof, keys or ()))


@evidence_app.command()
def anchor(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", callback=text, help="Kind of anchor, as in use; without it all.")
    ] = None,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Publish a checkpoint now to the anchors that the configuration lists."""
    options = chosen(context, config, as_json, debug)
    from meshflow.cli.evidence import publish

    raise typer.Exit(publish(options, ledger, name))


@evidence_app.command()
def doctor(
    context: typer.Context,
    ledger: LedgerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Examine file, key, clock and anchors; 1 if something is wrong."""
    options = chosen(context, config, as_json, debug)
    from meshflow.cli.ledger_doctor import examine_ledger

    raise typer.Exit(examine_ledger(options, ledger))
