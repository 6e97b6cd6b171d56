"""A group whose help lists its commands under headings, each with the whole of its first sentence."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from typer.core import TyperGroup


class Heading(StrEnum):
    """What stands above some commands, in the order of the help; a command's own is its ``rich_help_panel``."""

    SET_UP = "Set up"
    RUN = "Run"
    RULES = "Rules"
    EVIDENCE = "Evidence"
    OTHERS = "Commands"


class ListingGroup(TyperGroup):
    """A group that lists its commands by heading, in plain text."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands; a sentence cut in the middle would not say what its command is for."""
        headings: dict[Heading, list[tuple[str, str]]] = {heading: [] for heading in Heading}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                heading = Heading(getattr(command, "rich_help_panel", None) or Heading.OTHERS)
                headings[heading].append((name, command.get_short_help_str(limit=1_000)))
        widest = max((len(name) for rows in headings.values() for name, _ in rows), default=0)
        for heading, rows in headings.items():
            if rows:
                with formatter.section(heading.value):
                    formatter.write_dl([(name.ljust(widest), told) for name, told in rows])
