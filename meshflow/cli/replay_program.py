"""The program that made a run, to be run again on its recorded outcomes: a workflow file, or a job."""

from __future__ import annotations

import difflib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from meshflow.cli.explain import read_input
from meshflow.cli.job import JobContext
from meshflow.cli.output import line, say

if TYPE_CHECKING:
    from meshflow.kernel.runtime import StepRuntime
    from meshflow.ledger.player import Difference, Player, Replay

_START = "@start"
_SHOWN = 40
"""Lines of a difference."""
Steps = Callable[["Player"], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Program:
    """What the command line names; ``given`` is another input than the recorded one."""

    workflow: Path | None = None
    job: str | None = None
    given: str | None = None
    code: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    allow_imports: bool = False
    arguments: tuple[str, ...] = ()

    @property
    def named(self) -> bool:
        """Say whether there is one."""
        return self.workflow is not None or self.job is not None

    def check(self) -> None:
        """Refuse options that do not go together."""
        if self.workflow is not None and self.job is not None:
            raise typer.BadParameter("name the program by --workflow or by --job, not by both")
        if self.workflow is None and (self.given is not None or self.code or self.hosts or self.allow_imports):
            raise typer.BadParameter("--input, --with, --allow-host and --allow-imports belong to --workflow")
        if self.job is None and self.arguments:
            raise typer.BadParameter("words behind -- belong to --job")

    def steps(self, run_id: str, recorded: Sequence[Mapping[str, Any]]) -> Steps:
        """Load the program and return it as a replay takes it."""
        return self._of_job(run_id) if self.job is not None else self._of_workflow(run_id, recorded)

    def _of_job(self, run_id: str) -> Steps:
        from meshflow.cli.load_job import load_job

        job = load_job(self.job or "")

        async def steps(player: Player) -> Any:
            return await job(JobContext(cast("StepRuntime", player), run_id, arguments=self.arguments))

        return steps

    def _of_workflow(self, run_id: str, recorded: Sequence[Mapping[str, Any]]) -> Steps:
        from meshflow.cli.workflow import read_workflow, registry_of

        wf = read_workflow(cast("Path", self.workflow), self.allow_imports)
        registry = registry_of(self.code, self.hosts)
        given = read_input(self.given) if self.given is not None else recorded_input(run_id, recorded)

        async def steps(player: Player) -> Any:
            runtime = cast("StepRuntime", player)
            result = await wf.run(given, runtime=runtime, run_id=run_id, registry=registry)
            return result.output

        return steps


def recorded_input(run_id: str, recorded: Sequence[Mapping[str, Any]]) -> Any:
    """Return the input of a workflow's run; BadParameter where the record does not have it as it was."""
    from meshflow.ledger.format.payload import payload_bytes
    from meshflow.ledger.outline import Doubt, doubt_of, is_digest
    from meshflow.policy.backtest.doubts import holds_token

    start = next((step for step in recorded if step["node_id"] == _START), None)
    if start is None:
        raise typer.BadParameter(f"run {run_id!r} did not begin as a run of a workflow does; give its program by --job")
    if "input" in start["erased"]:
        raise typer.BadParameter(f"the input of run {run_id!r} was erased; give one with --input")
    given = start["input_task"]
    data = payload_bytes(given)
    gone = doubt_of(data) > Doubt.REDACTED or is_digest(data)
    if gone or (start["redaction"] != "none" and holds_token(given)):
        raise typer.BadParameter(f"the input of run {run_id!r} is on record masked or withheld; give it with --input")
    return given


def print_replay(report: Replay) -> None:
    """Say how far the program came, and show the step that would now differ."""
    for one in report.undecidable:
        say(f"Undecidable: step {one['step_index']} ({line(one['node_id'])}), {one['what']}: {one['why']}")
    if report.difference is not None:
        _print_difference(report.difference)
    if report.stopped:
        say(f"Stopped: {report.stopped}")
    if report.error:
        say(f"The program ended with {line(report.error)}")
    same = "the same as recorded" if report.same else "not the same" if report.difference else "undecided"
    say(f"{report.replayed} of {report.steps} recorded steps were taken again, and nothing was called: {same}")


def _print_difference(found: Difference) -> None:
    where = f"step {found.step_index} ({line(found.node_id)})" if found.step_index is not None else "the program"
    if found.what == "extra":
        say(f"First difference: the program takes a step of node {line(found.node_id)} that the run does not have")
    elif found.what == "missing":
        say(f"First difference: the program ends without {where}, which the run has")
    else:
        say(f"First difference: {found.what} of {where}")
        then, now = _lines(found.recorded), _lines(found.now)
        shown = list(difflib.unified_diff(then, now, "recorded", "now", lineterm="", n=2))
        say(*(f"  {one}" for one in shown[:_SHOWN]))
        if len(shown) > _SHOWN:
            say(f"  and {len(shown) - _SHOWN} lines more; --json has all")


def _lines(value: Any) -> list[str]:
    if isinstance(value, tuple):
        return [" ".join(filter(None, value))]
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True, default=repr).splitlines()
