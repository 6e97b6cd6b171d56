"""Progress on stderr, only where that is a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

from meshflow.cli.output import console, line
from meshflow.visible import visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Display:
    """One progress bar, drawn from the first report on; lines said meanwhile stand above it."""

    def __init__(self) -> None:
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._draws = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Draw the bar."""
        if not self._draws:
            return
        if self._live is None:
            self._start()
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done, total=max(total, done), description=line(text))

    def say(self, text: str) -> None:
        """Write a line."""
        if self._live is not None:
            self._live.console.print(visible(text), soft_wrap=True)
        else:
            print(visible(text), file=sys.stderr, flush=True)

    def _start(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        screen = console(stderr=True)
        if not screen.is_terminal or screen.is_dumb_terminal:
            self._draws = False
            return
        self._live = Progress(
            BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False),
            console=screen, transient=True, redirect_stdout=False, redirect_stderr=True,
        )  # fmt: skip
        self._task = self._live.add_task("", total=None)
        self._live.start()
