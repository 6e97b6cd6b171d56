"""What a job gets from ``meshflow run``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from meshflow.kernel.runtime import StepRuntime


class Listener(Protocol):
    """Whoever shows what a job reports of itself."""

    def progress(self, done: int, total: int, text: str = "") -> None: ...

    def say(self, text: str) -> None: ...


class Silence:
    """Shows nothing."""

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Show nothing."""

    def say(self, text: str) -> None:
        """Show nothing."""


@dataclass(frozen=True, slots=True)
class JobContext:
    """A runtime to run steps with, and the way to tell the operator how far the job is.

    A job is ``async def job(context: JobContext) -> Mapping[str, Any] | None``; what it returns is printed as its
    summary. ``run_id`` names the run that its steps should belong to. ``resume`` is True when an earlier invocation
    with the same ``run_id`` is to be continued: steps that waited for a person are handed in again with the same
    ``step_id`` and ``resume=True``. ``arguments`` are the words behind ``--`` on the command line. The runtime is
    started before the job and closed after it by the caller.
    """

    runtime: StepRuntime
    run_id: str
    resume: bool = False
    arguments: tuple[str, ...] = ()
    listener: Listener = field(default_factory=Silence, repr=False, compare=False)

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Show how far the job is: on stderr, and only where that is a terminal."""
        self.listener.progress(done, total, text)

    def say(self, text: str) -> None:
        """Write a line to stderr."""
        self.listener.say(text)
