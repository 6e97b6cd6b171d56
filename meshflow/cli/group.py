"""The group of all commands: errors become one message and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Any

import typer

from meshflow.cli.entry import discard_stdout
from meshflow.cli.exits import ExitCode, code_of
from meshflow.cli.listing import ListingGroup
from meshflow.cli.options import Chosen
from meshflow.errors import MeshflowError


class CommandGroup(ListingGroup):
    """Runs a command so that no mistake of its user ends in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; raise ``typer.Exit`` with the code of what stopped it."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            print("meshflow: interrupted", file=sys.stderr)
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        except BrokenPipeError:
            discard_stdout()
            raise typer.Exit(ExitCode.PIPE_CLOSED) from None
        except (MeshflowError, OSError) as error:
            _report(error, isinstance(ctx.obj, Chosen) and ctx.obj.debug)
            raise typer.Exit(code_of(error)) from None


def _report(error: MeshflowError | OSError, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exception(error)
    from meshflow.cli.output import warn

    warn(_told(error) or type(error).__name__)


def _told(error: MeshflowError | OSError) -> str:
    """Return an error's message; the system's own begins with a number, and names the file last."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return error.strerror if error.filename is None else f"{os.fsdecode(error.filename)}: {error.strerror}"
