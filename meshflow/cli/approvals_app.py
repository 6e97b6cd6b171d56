"""``meshflow approvals``: the steps that wait for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshflow.cli.listing import ListingGroup
from meshflow.cli.options import Chosen, LedgerOption, TenantOption, shared, text

approvals_app = typer.Typer(
    cls=ListingGroup,
    help="Show and decide the steps that wait for a person.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ApprovalArgument = Annotated[str, typer.Argument(metavar="ID", callback=text, help="Id of the approval.")]
AsOption = Annotated[
    str | None,
    typer.Option(
        "--as", metavar="NAME", envvar="MESHFLOW_APPROVER", callback=text,
        help="Who decides; without it the user of this machine.",
    ),
]  # fmt: skip
EditOption = Annotated[
    Path | None,
    typer.Option(
        "--edit", metavar="FILE", exists=True, dir_okay=False,
        help="Approve the arguments in this JSON file in the place of those asked about; the gates see them anew.",
    ),
]  # fmt: skip
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", callback=text, help="Why; kept on record.")]


@approvals_app.command("list")
@shared
def list_approvals(options: Chosen, tenant: TenantOption = None, ledger: LedgerOption = None) -> None:
    """List what waits for a person, the oldest first."""
    from meshflow.cli.approvals import show_approvals

    show_approvals(options, ledger, tenant)


@approvals_app.command()
@shared
def show(
    options: Chosen, approval_id: ApprovalArgument, tenant: TenantOption = None, ledger: LedgerOption = None
) -> None:
    """Show all that is asked of a person."""
    from meshflow.cli.approvals import show_approval

    show_approval(options, ledger, tenant, approval_id)


@approvals_app.command()
@shared
def approve(
    options: Chosen,
    approval_id: ApprovalArgument,
    approver: AsOption = None,
    reason: ReasonOption = "",
    edit: EditOption = None,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Say yes to a step; it runs when its job is run again with --resume."""
    from meshflow.cli.approvals import decide

    decide(options, ledger, tenant, approval_id, approve=True, approver=approver, reason=reason, edit=edit)


@approvals_app.command()
@shared
def deny(
    options: Chosen,
    approval_id: ApprovalArgument,
    approver: AsOption = None,
    reason: ReasonOption = "",
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Say no to a step."""
    from meshflow.cli.approvals import decide

    decide(options, ledger, tenant, approval_id, approve=False, approver=approver, reason=reason)
