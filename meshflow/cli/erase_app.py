"""``meshflow ledger erase|erase-subject|hold|release|holds|retention``: what must go, and what must not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshflow.cli.options import Chosen, LedgerOption, RunArgument, TenantOption, shared, text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meshflow.ledger import ReplayLedger

erase_app = typer.Typer(rich_markup_mode=None)
ReasonOption = Annotated[
    str, typer.Option("--reason", metavar="TEXT", callback=text, help="Why; stays on record, so name no person.")
]
AuthorityOption = Annotated[
    str, typer.Option("--authority", metavar="TEXT", callback=text, help="By whose authority; stays on record.")
]
FieldsOption = Annotated[
    str | None,
    typer.Option("--fields", metavar="A,B", callback=text, help="Only these payloads, such as principal,input."),
]

GraphsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--graphs",
        metavar="WHERE",
        help="File or postgresql:// URL of graphs' checkpoints, whose threads of these runs go too; may be repeated.",
    ),
]


@erase_app.command("erase")
@shared
def erase(
    options: Chosen,
    run: RunArgument,
    reason: ReasonOption,
    authority: AuthorityOption,
    fields: FieldsOption = None,
    graphs: GraphsOption = None,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Erase a run; with --fields only those payloads, and its steps stay listed."""
    names = None if fields is None else [name.strip() for name in fields.split(",")]

    async def work(opened: ReplayLedger) -> dict[str, Any]:
        _also(opened, graphs)
        if names is None:
            gone = await opened.delete_run(run, reason=reason, authority=authority, tenant=tenant)
        else:
            gone = await opened.anonymize_run(run, fields=names, reason=reason, authority=authority, tenant=tenant)
        return {"run_id": run, "erased": gone}

    _report(options, ledger, work)


@erase_app.command("erase-subject")
@shared
def erase_subject(
    options: Chosen,
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", callback=text, help="Subject or agent id.")],
    reason: ReasonOption,
    authority: AuthorityOption,
    fields: FieldsOption = None,
    graphs: GraphsOption = None,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Erase what a person or an agent did, in every run; runs under legal hold are passed over and named."""
    chosen_fields = {} if fields is None else {"fields": [name.strip() for name in fields.split(",")]}

    async def work(opened: ReplayLedger) -> dict[str, Any]:
        _also(opened, graphs)
        return await opened.erase_subject(subject, reason=reason, authority=authority, tenant=tenant, **chosen_fields)

    _report(options, ledger, work)


@erase_app.command("hold")
@shared
def hold(
    options: Chosen,
    reason: ReasonOption,
    authority: AuthorityOption,
    run: Annotated[str | None, typer.Argument(metavar="RUN", callback=text, help="Id of the run to hold.")] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="ID", callback=text, help="Hold what this person or agent did.")
    ] = None,
    release: Annotated[
        int | None, typer.Option("--release", metavar="NUMBER", min=1, help="Release the hold of this number.")
    ] = None,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Forbid the erasure of a run or a subject, or allow it again."""
    if sum(one is not None for one in (run, subject, release)) != 1:
        raise typer.BadParameter("give one of RUN, --subject and --release")

    async def work(opened: ReplayLedger) -> dict[str, Any]:
        if release is not None:
            done = await opened.release_hold(release, reason=reason, authority=authority, tenant=tenant)
            return {"hold": release, "released": done}
        number = await opened.hold(run, subject=subject, reason=reason, authority=authority, tenant=tenant)
        return {"hold": number}

    _report(options, ledger, work)


@erase_app.command("holds")
@shared
def holds(
    options: Chosen,
    released: Annotated[bool, typer.Option("--all", help="Also those that were released.")] = False,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """List legal holds, the oldest first."""
    from meshflow.cli.ledgers import shown, with_ledger
    from meshflow.cli.output import print_json, print_table, say

    async def work(opened: ReplayLedger) -> tuple[str, list[dict[str, Any]]]:
        return shown(opened), await opened.holds(released=released, tenant=tenant)

    name, found = with_ledger(options, ledger, work)
    if options.as_json:
        print_json({"ledger": name, "holds": found})
    elif found:
        columns = ("hold", "run_id", "subject_digest", "tenant_id", "placed_at", "released_at", "authority", "reason")
        print_table(f"Ledger {name}", columns, [tuple(one[column] for column in columns) for one in found])
    else:
        say(f"Ledger {name}: no holds")


@erase_app.command("retention")
@shared
def retention(options: Chosen, tenant: TenantOption = None, ledger: LedgerOption = None) -> None:
    """Erase what is past the time that ledger.retention in the configuration keeps it."""
    from meshflow.cli.ledgers import audit_plugin
    from meshflow.errors import ConfigError

    rules = getattr(audit_plugin(options.load()), "retention_rules", ())
    if not rules:
        raise ConfigError("no rule says how long payloads are kept; set ledger.retention", path="ledger.retention")

    async def work(opened: ReplayLedger) -> dict[str, Any]:
        report = await opened.apply_retention(rules, tenant=tenant)
        return {"erased": report.erased, "runs": report.runs, "held": report.held}

    _report(options, ledger, work)


def _also(ledger: ReplayLedger, graphs: list[str] | None) -> None:
    from meshflow.checkpoint.erasing import ErasedWith
    from meshflow.cli.ledgers import resolved

    ledger.also_erase(*(ErasedWith(resolved(place)) for place in graphs or ()))


def _report(options: Chosen, path: str | None, work: Callable[[ReplayLedger], Awaitable[dict[str, Any]]]) -> None:
    """Do the work and print what came of it; exit with 1 if a hold stood in the way of part of it."""
    from meshflow.cli.exits import ExitCode
    from meshflow.cli.ledgers import shown, with_ledger
    from meshflow.cli.output import counted, print_json, print_pairs, say

    async def named(ledger: ReplayLedger) -> dict[str, Any]:
        return {"ledger": shown(ledger), **await work(ledger)}

    result = with_ledger(options, path, named, writing=True)
    if options.as_json:
        print_json(result)
    else:
        print_pairs((name, value) for name, value in result.items() if not isinstance(value, dict))
        say(*(f"  {run_id}: {counted(gone, 'payload')}" for run_id, gone in result.get("runs", {}).items()))
        say(*(f"  {problem}" for problem in result.get("held", {}).values()))
    if result.get("held"):
        raise typer.Exit(ExitCode.FAILED)
