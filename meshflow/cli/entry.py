"""The entry point of the console script: ready the streams, run the app, hand back its exit code."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; ``arguments`` default to those of the process."""
    _ready_streams()
    code = 130
    try:
        from meshflow.cli.app import app

        app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="meshflow")
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except KeyboardInterrupt:
        pass
    return _flushed(code)


def _ready_streams() -> None:
    """Let no character that the terminal cannot show, and no closed stream, end a command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - lasts as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flushed(code: int) -> int:
    """Write out what is buffered while an error can still be told; the interpreter's own flush would print one."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        discard_stdout()
        return 141
    except OSError as error:
        discard_stdout()
        print(f"meshflow: cannot write the output: {error.strerror or error}", file=sys.stderr)
        return code or 1
    return code


def discard_stdout() -> None:
    """Send what is still buffered for a reader who has gone nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = io.StringIO()
    finally:
        os.close(nowhere)
