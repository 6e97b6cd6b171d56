"""The command line: ``meshflow``."""

from meshflow.cli.entry import main

__all__ = ["main"]
