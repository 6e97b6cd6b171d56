from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer.main

from meshflow.cli.app import app
from meshflow.cli.exits import ExitCode

if TYPE_CHECKING:
    from .conftest import Shell

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "cli.md").read_text("utf-8")


def commands(group: Any, *words: str) -> Iterator[tuple[str, Any]]:
    for name, found in group.commands.items():
        if hasattr(found, "commands"):
            yield from commands(found, *words, name)
        else:
            yield " ".join((*words, name)), found


ALL = dict(commands(typer.main.get_command(app)))


def section(command: str) -> str:
    return PAGE.split(f"## meshflow {command}\n", 1)[1].split("\n## ", 1)[0]


def test_the_page_has_a_heading_and_an_example_for_each_command() -> None:
    assert set(re.findall(r"^## meshflow (.+)$", PAGE, re.MULTILINE)) == set(ALL)
    for name in ALL:
        assert f"$ meshflow {name}" in section(name)


def test_the_page_names_every_option() -> None:
    common = {"--config", "--json", "--debug", "--help", "--ledger", "--tenant"}
    for name, command in ALL.items():
        told = PAGE if name == "approvals deny" else section(name)
        for parameter in command.params:
            for option in parameter.opts:
                assert not option.startswith("--") or option in common or option in told, f"{name} {option}"


def test_the_page_lists_the_exit_codes() -> None:
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)} == {int(code) for code in ExitCode}


def test_help_lists_commands_by_heading_with_whole_sentences(shell: Shell) -> None:
    told = shell("--help").out
    headings = ["Set up:", "Run:", "Rules:", "Evidence:"]
    assert [line for line in told.splitlines() if line in headings] == headings
    assert "Commands:" not in told, "a new command needs its heading"
    assert "..." not in told.partition("Set up:")[2]
    assert "..." not in shell("ledger", "--help").out.partition("Commands:")[2]


def test_every_command_takes_json_and_debug() -> None:
    for name, command in ALL.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--debug"} <= options, name
        assert name in ("init", "version") or "--config" in options, name
        assert command.help, name
