"""The options that commands share, and what was chosen by them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from meshflow.config.models import Config

DEFAULT_CONFIG = "meshflow.yaml"


def text(value: str | None) -> str | None:
    """Return an argument as text, also where the locale could not decode it; paths are left as they come."""
    if value is None:
        return None
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        try:
            return os.fsencode(value).decode("utf-8")
        except UnicodeError:
            raise typer.BadParameter("is not UTF-8 text") from None
    return value


def texts(values: list[str] | None) -> list[str] | None:
    """Return several arguments as text."""
    return None if values is None else [text(value) or "" for value in values]


ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Configuration; without it ./meshflow.yaml if there is one."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on stdout.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
LedgerOption = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        metavar="WHERE",
        callback=text,
        help="File or postgresql:// URL of the ledger; without it the one that is configured.",
    ),
]
TenantOption = Annotated[str | None, typer.Option("--tenant", metavar="ID", callback=text, help="One tenant alone.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", callback=text, help="Id of a run.")]


@dataclass(slots=True)
class Chosen:
    """What the options before and behind the command's name say together."""

    config: Path | None = None
    as_json: bool = False
    debug: bool = False

    def load(self) -> Config:
        """Return the configuration: the file that was named, ./meshflow.yaml, or one that sets nothing."""
        from meshflow.config import load_config
        from meshflow.config.models import Config

        if self.config is not None:
            return load_config(self.config)
        return load_config(DEFAULT_CONFIG) if os.path.lexists(DEFAULT_CONFIG) else Config.empty()


def chosen(context: typer.Context, config: Path | None = None, as_json: bool = False, debug: bool = False) -> Chosen:
    """Return the options in force, a command's own over those before its name."""
    common: Any = context.find_object(Chosen)
    if common is None:
        common = context.obj = Chosen()
    common.config = config or common.config
    common.as_json = common.as_json or as_json
    common.debug = common.debug or debug
    return common  # type: ignore[no-any-return]
