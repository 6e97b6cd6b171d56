"""The exit codes of every command; they are stable and documented in docs/reference/cli.md."""

from __future__ import annotations

from enum import IntEnum

from meshflow.errors import ConfigError, LedgerError, MeshflowError, PluginError


class ExitCode(IntEnum):
    """What a script may rely on."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIG = 3
    LEDGER = 4
    PAUSED = 5
    INTERRUPTED = 130
    PIPE_CLOSED = 141


def code_of(error: MeshflowError | OSError) -> ExitCode:
    """Return the exit code of an error that ends a command."""
    if isinstance(error, LedgerError):
        return ExitCode.LEDGER
    if isinstance(error, (ConfigError, PluginError)):
        return ExitCode.CONFIG
    if isinstance(error, OSError) and error.filename is not None:
        return ExitCode.USAGE  # a file that the command line names is not there, or not to be read or written
    return ExitCode.FAILED
