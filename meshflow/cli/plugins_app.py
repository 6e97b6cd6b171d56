"""``meshflow plugins``: what is installed, and whether it is well."""

from __future__ import annotations

from typing import Annotated

import typer

from meshflow.cli.listing import ListingGroup
from meshflow.cli.options import ConfigOption, DebugOption, JsonOption, chosen

plugins_app = typer.Typer(
    cls=ListingGroup,
    help="Show installed plugins and check them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@plugins_app.command("list")
def list_plugins(
    context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> None:
    """List installed plugins, the stages that each can serve, and where it is in use."""
    options = chosen(context, config, as_json, debug)
    from meshflow.cli.plugins import show_plugins

    show_plugins(options)


@plugins_app.command()
def doctor(
    context: typer.Context,
    start: Annotated[
        bool, typer.Option("--start", help="Start and stop the runtime too, as a first step would; opens the ledger.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Import every plugin and check hooks, settings, names, dependencies and obligations."""
    options = chosen(context, config, as_json, debug)
    from meshflow.cli.doctor import examine

    raise typer.Exit(examine(options, start=start))
