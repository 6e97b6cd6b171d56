"""Run a job on a governed runtime, and say from the ledger what it did."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meshflow.cli.exits import ExitCode
from meshflow.cli.job import JobContext
from meshflow.cli.ledgers import configured_ledger, readable_ledger
from meshflow.cli.load_job import Job, describe, file_of, load_job
from meshflow.cli.options import Chosen
from meshflow.cli.progress import Display
from meshflow.cli.report import Report
from meshflow.ids import new_id

if TYPE_CHECKING:
    from meshflow.cli.watch import WatchedLedger
    from meshflow.config.models import Config
    from meshflow.kernel.runtime import StepRuntime


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What the command line asks for."""

    target: str
    run_id: str | None = None
    resume: bool = False
    arguments: tuple[str, ...] = ()
    fail_on_denied: bool = False
    ledger: str | None = None


@dataclass(slots=True)
class JobEnding:
    """How the job ended: ``status`` is completed, failed or interrupted."""

    status: str = "completed"
    summary: Mapping[str, Any] | None = None
    error: str | None = None
    exception: BaseException | None = field(default=None, repr=False)


def run_job(options: Chosen, request: RunRequest) -> ExitCode:
    """Run the job, print the report, and return the exit code."""
    if request.resume and request.run_id is None:
        raise typer.BadParameter("--resume needs the --run-id to go on with")
    config = options.load()
    with stdout_kept_clean(options.as_json):
        job = load_job(request.target)
        report = _until_the_end(_invoke(config, job, request, options.config))
    if options.debug and report.job.exception is not None:
        import traceback

        traceback.print_exception(report.job.exception)
    report.print(as_json=options.as_json)
    return report.exit_code()


def _until_the_end(work: Coroutine[Any, Any, Report]) -> Report:
    """Run the work on a loop of its own. The first Ctrl-C cancels the job; the second ends the process at once.

    A job that swallows its cancellation would otherwise keep the loop from closing, however often it is asked.
    """
    ended = False

    async def whole() -> Report:
        nonlocal ended
        try:
            return await work
        finally:
            ended = True

    with asyncio.Runner() as runner:
        try:
            return runner.run(whole())
        except KeyboardInterrupt:
            if not ended:
                _give_up()
            raise


def _give_up() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a third must not cut the goodbye off
    cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides it
    sys.stderr.write(f"{cursor}meshflow: interrupted; steps in flight are not recorded\n")
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(ExitCode.INTERRUPTED)


async def _invoke(config: Config, job: Job, request: RunRequest, named: Path | None) -> Report:
    from meshflow.kernel.runtime import StepRuntime

    ledger = _watched(config, request.ledger)
    try:
        runtime = StepRuntime(ledger=ledger, config=config)
        if request.ledger is not None and not _writes_to(runtime, ledger):
            raise typer.BadParameter("the configured audit provider does not write to a file that --ledger can name")
        run_id = request.run_id or new_id("run")
        with Display() as display:
            async with runtime:
                if ledger is not None and _writes_to(runtime, ledger):
                    await _refuse_known_run(ledger, request)
                context = JobContext(runtime, run_id, request.resume, request.arguments, display)
                ending = await _run(job, context)
                snapshot = _sla(runtime)
            watched = ledger if _writes_to(runtime, ledger) else None
            report = Report(
                request.target, context, ending, sla=snapshot, fail_on_denied=request.fail_on_denied, config=named
            )
            await report.gather(watched, display)
            return report
    finally:
        if ledger is not None:
            await ledger.aclose()


def _watched(config: Config, path: str | None) -> WatchedLedger | None:
    """Return the configured ledger, or one at ``path``, watched; None where it cannot be read."""
    from meshflow.cli.watch import WatchedLedger

    ledger = configured_ledger(config, path)
    return WatchedLedger(ledger) if ledger is not None else None


def _writes_to(runtime: StepRuntime, ledger: WatchedLedger | None) -> bool:
    audit = next(choice for choice in runtime.stages() if choice.stage.name == "audit_ledger")
    return ledger is not None and any(readable_ledger(slot.provider.plugin) is ledger for slot in audit.slots)


async def _refuse_known_run(ledger: WatchedLedger, request: RunRequest) -> None:
    if request.run_id is None or request.resume:
        return
    if (await ledger.run_summary(request.run_id))["steps"]:
        raise typer.BadParameter(
            f"run {request.run_id!r} has steps already; go on with it by --resume, or choose another --run-id"
        )


async def _run(job: Job, context: JobContext) -> JobEnding:
    """Await the job. What it raises, and Ctrl-C, end the job and not the report."""
    task = asyncio.current_task()
    ending = JobEnding()
    try:
        result = await job(context)
        if result is not None and not isinstance(result, Mapping):
            ending.status = "failed"
            ending.error = f"the job returned {type(result).__name__}; it may return a mapping or None"
        else:
            ending.summary = result
    except asyncio.CancelledError as error:
        ending.status, ending.error, ending.exception = "failed", "the job was cancelled from within", error
    except SystemExit as error:
        if error.code not in (None, 0):
            ending.status, ending.error = "failed", f"the job ended itself by sys.exit({error.code!r})"
    except Exception as error:
        ending.status, ending.error, ending.exception = "failed", describe(error, file_of(job)), error
    if task is not None and task.cancelling():
        # Ctrl-C, whatever the job made of it. What is left to do here must not be cut off by it.
        task.uncancel()
        ending.status, ending.error = "interrupted", "interrupted while it ran; what was recorded stays"
        ending.exception = None
        context.say("meshflow: stopping once the steps in flight are recorded; Ctrl-C again gives up on them")
    return ending


def _sla(runtime: StepRuntime) -> Mapping[str, Any] | None:
    """Return what the SLA recorder counted, if the one in use can tell."""
    try:
        snapshot = getattr(runtime.plugin("sla"), "snapshot", None)
    except KeyError:
        return None
    found = snapshot() if callable(snapshot) else None
    return found if isinstance(found, Mapping) else None


@contextmanager
def stdout_kept_clean(wanted: bool) -> Iterator[None]:
    """Send what a job, or a program that it starts, prints to stderr, so that stdout carries one document."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    try:
        out, err = sys.stdout.fileno(), sys.stderr.fileno()
    except (OSError, ValueError):  # replaced by something that is no file
        with redirect_stdout(sys.stderr):
            yield
        return
    saved = os.dup(out)
    os.dup2(err, out)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, out)
        os.close(saved)
