"""The options that commands share, and what was chosen by them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate

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


def moment(value: str | None) -> str | None:
    """Return a time as it was given; one that is none is refused before anything is opened."""
    from meshflow.errors import LedgerError
    from meshflow.ledger.format.steps import moment_us

    given = text(value)
    try:
        return given if given is None or moment_us(given, "") is not None else None
    except LedgerError:
        raise typer.BadParameter(f"{given!r} is not a time such as 2026-11-29T08:00:00Z") from None


def to_write(path: Path | None) -> Path | None:
    """Return where to write; that it cannot be done is said before the work, not after it."""
    if path is not None and path.is_dir():
        raise typer.BadParameter(f"{path} is a folder; name a file in it")
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {path.parent} to write {path.name} into")
    return path


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
KeepLedgerOption = Annotated[
    str | None,
    typer.Option("--ledger", metavar="WHERE", callback=text, help="Keep the ledger here, not where configured."),
]
TenantOption = Annotated[str | None, typer.Option("--tenant", metavar="ID", callback=text, help="One tenant alone.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", callback=text, help="Id of a run.")]
StepArgument = Annotated[
    str | None, typer.Argument(metavar="STEP|INDEX", callback=text, help="A step's id, or its place from 0.")
]
NewRunOption = Annotated[
    str | None, typer.Option("--run-id", metavar="ID", callback=text, help="Id of the run; without it a new one.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with the run that --run-id names.")]
AgentOption = Annotated[str, typer.Option("--agent", metavar="ID", callback=text, help="Who acts.")]
GivenOption = Annotated[
    str | None,
    typer.Option("--input", metavar="JSON|@FILE", callback=text, help="Input as JSON, or @ and a file; @- is stdin."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", callback=to_write, help="Write here, not to stdout."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]
HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", callback=to_write, help="Write the report as a page here."),
]
KeysOption = Annotated[
    list[str] | None,
    typer.Option(
        "--key", metavar="KEY|FILE", callback=texts, help="Public key from elsewhere, or a file of them; repeat it."
    ),
]
CheckpointsOption = Annotated[
    list[Path] | None,
    typer.Option("--checkpoint", metavar="FILE", help="Checkpoint that was kept elsewhere; may be repeated."),
]
WitnessesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--witness", metavar="KEY|FILE", callback=texts,
        help="Public key of a witness who must have cosigned, or a file of them; repeat it.",
    ),
]  # fmt: skip
QuorumOption = Annotated[
    int | None, typer.Option("--quorum", metavar="N", min=1, help="How many of the witnesses; without it all.")
]
FailOnDeniedOption = Annotated[
    bool,
    typer.Option("--fail-on-denied", help="Exit with 1 for a step that would be denied, 5 for one to approve."),
]


@dataclass(slots=True)
class Chosen:
    """What the options before and behind the command's name say together."""

    config: Path | None = None
    as_json: bool = False
    debug: bool = False

    def load(self) -> Config:
        """Return the configuration, with every setting in it checked."""
        from meshflow.registry.check import check_config

        config = self.read()
        check_config(config)
        return config

    def read(self) -> Config:
        """Return the configuration: the file that was named, ./meshflow.yaml, or one that sets nothing.

        Settings of plugins are not looked at, for commands that say themselves what is wrong with them.
        """
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


_COMMON = tuple(
    Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, default, annotation in (
        ("config", None, ConfigOption), ("as_json", False, JsonOption), ("debug", False, DebugOption)
    )
)  # fmt: skip


def shared(command: Callable[Concatenate[Chosen, ...], None]) -> Callable[..., None]:
    """Give a command the options that all have; its first parameter gets what they say."""
    declared = signature(command, eval_str=True)
    own = [one.replace(kind=Parameter.KEYWORD_ONLY) for one in list(declared.parameters.values())[1:]]
    context = Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)

    @wraps(command)
    def called(context: typer.Context, config: Path | None, as_json: bool, debug: bool, **given: Any) -> None:
        command(chosen(context, config, as_json, debug), **given)

    parameters = (context, *own, *_COMMON)
    called.__signature__ = declared.replace(parameters=parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in parameters}
    return called
