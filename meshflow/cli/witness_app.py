"""``meshflow ledger witness``: be a witness of other people's logs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshflow.cli.listing import ListingGroup
from meshflow.cli.options import Chosen, shared, text

witness_app = typer.Typer(
    cls=ListingGroup,
    help="Be a witness: cosign what extends all that was seen of a log.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
KeyOption = Annotated[Path, typer.Option("--key", metavar="FILE", help="File with the witness's private keys.")]
StateOption = Annotated[
    Path, typer.Option("--state", metavar="FILE", help="File of what the witness saw; never put an old one back.")
]


@witness_app.command("key")
@shared
def witness_key(
    options: Chosen,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; it must not be there.")],
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", callback=text, help="Name of the witness, such as acme.example/w1.")
    ],
    post_quantum: Annotated[
        bool, typer.Option("--ml-dsa-44/--no-ml-dsa-44", help="Add a key that withstands quantum computers.")
    ] = True,
) -> None:
    """Make the keys of a witness, and print the public ones."""
    from meshflow.cli.witness import make_key

    make_key(options, file, name, post_quantum=post_quantum)


@witness_app.command("serve")
@shared
def witness_serve(
    options: Chosen,
    key: KeyOption,
    state: StateOption,
    logs: Annotated[
        list[str],
        typer.Option("--log", metavar="KEY|FILE", help="Public key of a log to witness, or a file of them; repeat it."),
    ],
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Address to listen on; port 0 takes a free one.")
    ] = "127.0.0.1:8080",
    new: Annotated[
        bool, typer.Option("--new", help="Make the state; only for a witness that has never cosigned anything.")
    ] = False,
) -> None:
    """Answer add-checkpoint (C2SP tlog-witness) until stopped; put a proxy in front of it for TLS."""
    from meshflow.cli.witness import serve

    serve(options, key, state, logs, listen, new=new)


@witness_app.command("show")
@shared
def witness_show(options: Chosen, state: StateOption) -> None:
    """Show what a witness remembers of each log, and what it refused; 1 if a log signed two histories."""
    from meshflow.cli.witness import show

    raise typer.Exit(show(options, state))
