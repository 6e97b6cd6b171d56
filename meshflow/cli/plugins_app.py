"""``meshflow plugins``: what is installed, and whether it is well."""

from __future__ import annotations

from typing import Annotated

import typer

from meshflow.cli.listing import ListingGroup
from meshflow.cli.options import Chosen, shared

plugins_app = typer.Typer(
    cls=ListingGroup, help="Show installed plugins and check them.", no_args_is_help=True, rich_markup_mode=None
)


@plugins_app.command("list")
@shared
def list_plugins(options: Chosen) -> None:
    """List installed plugins, the stages that each can serve, and where it is in use."""
    from meshflow.cli.plugins import show_plugins

    show_plugins(options)


@plugins_app.command()
@shared
def doctor(
    options: Chosen,
    start: Annotated[
        bool, typer.Option("--start", help="Start and stop the runtime too, as a first step would; opens the ledger.")
    ] = False,
) -> None:
    """Import every plugin and check hooks, settings, names, dependencies and obligations."""
    from meshflow.cli.doctor import examine

    raise typer.Exit(examine(options, start=start))
