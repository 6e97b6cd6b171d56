"""``meshflow ledger copy|rewrap``: the place of a ledger, and the key that its data keys are under."""

from __future__ import annotations

from typing import Annotated

import typer

from meshflow.cli.options import Chosen, LedgerOption, shared, text

store_app = typer.Typer(rich_markup_mode=None)


@store_app.command("copy")
@shared
def copy(
    options: Chosen,
    source: Annotated[str, typer.Argument(metavar="SOURCE", callback=text, help="File or URL of the ledger.")],
    target: Annotated[str, typer.Argument(metavar="TARGET", callback=text, help="File or URL that holds none yet.")],
    key_encryption_key: Annotated[
        str | None,
        typer.Option(
            "--key-encryption-key", metavar="FILE|env:NAME", callback=text, help="To verify encrypted payloads."
        ),
    ] = None,
) -> None:
    """Copy a ledger as it is at one moment, and verify the copy against it; ${NAME} stands for a variable."""
    from meshflow.cli.store import copy_between

    raise typer.Exit(copy_between(options, source, target, key_encryption_key))


@store_app.command("rewrap")
@shared
def rewrap(
    options: Chosen,
    to: Annotated[
        str, typer.Option("--to", metavar="FILE|env:NAME", callback=text, help="The new key, 32 bytes in base64.")
    ],
    ledger: LedgerOption = None,
) -> None:
    """Wrap the keys of encrypted payloads under a new key-encryption key; the configuration names the old one."""
    from meshflow.cli.store import rewrap_keys

    rewrap_keys(options, ledger, to)
