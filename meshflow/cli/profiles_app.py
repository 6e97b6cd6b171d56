"""``meshflow profiles`` and ``meshflow report``: compliance profile packs, and the evidence for their controls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshflow.cli.listing import ListingGroup
from meshflow.cli.options import (
    CheckpointsOption,
    Chosen,
    HtmlOption,
    KeysOption,
    LedgerOption,
    TenantOption,
    moment,
    shared,
    text,
    to_write,
)

profiles_app = typer.Typer(
    cls=ListingGroup,
    help="Show, check and begin compliance profile packs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
ProfileArgument = Annotated[
    str, typer.Argument(metavar="PROFILE", callback=text, help="Name of a profile, or the path of a pack's folder.")
]


@profiles_app.command("list")
@shared
def list_all(options: Chosen) -> None:
    """List the profile packs that are shipped or installed, and where they are active."""
    from meshflow.cli.profiles import list_profiles

    list_profiles(options)


@profiles_app.command()
@shared
def show(options: Chosen, profile: ProfileArgument, tenant: TenantOption = None) -> None:
    """Show what a pack serves, requires and does not cover, and its settings here."""
    from meshflow.cli.profiles import show_profile

    show_profile(options, profile, tenant)


@profiles_app.command()
@shared
def check(
    options: Chosen,
    profile: Annotated[
        str | None,
        typer.Argument(metavar="PROFILE", callback=text, help="Name or folder of a pack; without it all active ones."),
    ] = None,
    ready: Annotated[
        bool, typer.Option("--ready", help="Exit with 1 if the configuration does not meet what the pack needs.")
    ] = False,
    tenant: TenantOption = None,
) -> None:
    """Check a pack (manifest, rules, tests), and whether the configuration meets what it needs."""
    from meshflow.cli.profiles import check_profiles

    raise typer.Exit(check_profiles(options, profile, tenant, ready=ready))


@profiles_app.command()
@shared
def new(
    options: Chosen,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write it; must not be there yet.")],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", callback=text, help="Name of the profile; else the folder's."),
    ] = None,
    extends: Annotated[
        str | None, typer.Option("--extends", metavar="PROFILE", callback=text, help="Profile that it builds on.")
    ] = None,
) -> None:
    """Write a pack to begin with: a package that pip can install, and that passes its own check and tests."""
    from meshflow.cli.profiles import new_profile

    new_profile(options, folder, name, extends)


@profiles_app.command()
@shared
def schema(options: Chosen) -> None:
    """Print the JSON Schema of profile.yaml, for an editor."""
    from meshflow.cli.profiles import print_manifest_schema

    print_manifest_schema()


@shared
def report(
    options: Chosen,
    profile: ProfileArgument,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", callback=moment, help="Steps begun at or after (RFC 3339).")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", callback=moment, help="Steps begun before (RFC 3339).")
    ] = None,
    html: HtmlOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", callback=to_write, help="Write the report as JSON too."),
    ] = None,
    checkpoints: CheckpointsOption = None,
    keys: KeysOption = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=1_000_000, help="Records listed for each state of a control.")
    ] = 25,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Report what the ledger shows of a profile's controls, for an auditor.

    The ledger is verified first; one that does not verify is not reported of. Exit with 1 if a control is violated.
    """
    from meshflow.cli.profile_report import ReportRequest, report_profile

    asked = ReportRequest(
        profile, since, until, tenant, ledger, html, output, tuple(checkpoints or ()), tuple(keys or ()), limit
    )
    raise typer.Exit(report_profile(options, asked))
