"""The report of an invocation of ``meshflow run``: gathered from the ledger, printed as tables or as one document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshflow.cli.approvals import decision_command
from meshflow.cli.exits import ExitCode
from meshflow.cli.ledgers import command, shown
from meshflow.cli.output import counted, flat, ms, print_json, print_table, say, usd
from meshflow.cli.tally import Tally
from meshflow.errors import ConfigError

if TYPE_CHECKING:
    from meshflow.cli.job import JobContext
    from meshflow.cli.progress import Display
    from meshflow.cli.run import JobEnding
    from meshflow.cli.watch import WatchedLedger

_STAGE_HEADERS = (
    "#", "stage", "steps", "allowed", "denied", "escalated", "errors", "replaced", "p50 ms", "p95 ms", "p99 ms",
)  # fmt: skip
_APPROVALS_SHOWN = 10
_STAGE_KEYS = ("number", "stage", "steps", "allowed", "denied", "escalated", "errors", "replaced")


class Report:
    """What an invocation did, by the evidence that it left."""

    def __init__(
        self,
        target: str,
        context: JobContext,
        job: JobEnding,
        *,
        sla: Mapping[str, Any] | None,
        fail_on_denied: bool,
        config: Path | None,
    ) -> None:
        self.target = target
        self.context = context
        self.job = job
        self.sla = sla
        self.fail_on_denied = fail_on_denied
        self.config = config
        self.tally = Tally()
        self.runs: list[str] = []
        self.approvals: list[dict[str, Any]] = []
        self.chains: list[dict[str, Any]] = []
        self.unfinished: list[dict[str, Any]] = []
        self.unrecorded = 0
        self.path: str | None = None
        self._example: tuple[str, str] | None = None

    async def gather(self, ledger: WatchedLedger | None, display: Display) -> None:
        """Read back what was written, and verify each run that was touched."""
        if ledger is None:
            return
        self.path = shown(ledger)
        self.runs = await _touched(ledger, self.context.run_id)
        self.unrecorded = ledger.failed_writes
        self.unfinished = [
            {"run_id": run_id, "step_id": step_id, "attempt": attempt, "node_id": intent.node_id, "tool": intent.tool}
            for (run_id, step_id, attempt), intent in ledger.unfinished_intents.items()
        ]
        for number, run_id in enumerate(self.runs):
            display.progress(number, len(self.runs), "verifying the ledger")
            blocked = False
            for step in await ledger.steps_written(run_id):
                self.tally.add(step)
                if self._example is None or (step["blocked"] and not blocked):
                    self._example, blocked = (run_id, step["step_id"]), step["blocked"]
            self.chains.append(await ledger.verify_chain(run_id))
        self.approvals = [
            {**_asked(one), "command": decision_command("approve", one["approval_id"], self.config, self.path)}
            for one in await ledger.pending_approvals()
            if one["run_id"] in self.runs
        ]

    @property
    def valid(self) -> bool:
        """True when every run that was touched verifies, and nothing that was to be recorded is missing."""
        return all(chain["valid"] for chain in self.chains) and not self.unfinished and not self.unrecorded

    def exit_code(self) -> ExitCode:
        """Return the exit code; the gravest of what applies."""
        if self.job.status == "interrupted":
            return ExitCode.INTERRUPTED
        if self.unrecorded:
            return ExitCode.LEDGER
        if self.job.status == "failed" or not self.valid:
            return ExitCode.FAILED
        if self.fail_on_denied:
            if self.path is None:
                raise ConfigError("--fail-on-denied needs a ledger that can be read; the audit provider keeps another")
            if self.tally.verdicts["reject"] or self.tally.verdicts["error"]:
                return ExitCode.FAILED
        return ExitCode.PAUSED if any(not one["expired"] for one in self.approvals) else ExitCode.OK

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        context = self.context
        return {
            "job": {
                "target": self.target,
                "status": self.job.status,
                "error": self.job.error,
                "summary": self.job.summary,
                "arguments": context.arguments,
                "resume": context.resume,
            },
            "run_id": context.run_id,
            "runs": self.runs,
            "fingerprint": context.runtime.fingerprint,
            "steps": self.tally.to_dict(),
            "stages": self._stages(),
            "approvals": self.approvals,
            "ledger": {
                "path": self.path,
                "valid": self.valid if self.path is not None else None,
                "steps_verified": sum(chain["steps_verified"] for chain in self.chains),
                "runs": self.chains,
                "unfinished": self.unfinished,
                "unrecorded": self.unrecorded,
            },
            "show_command": self._show(),
            "sla": self.sla,
            "exit_code": int(self.exit_code()),
        }

    def print(self, *, as_json: bool) -> None:
        """Print it on stdout."""
        if as_json:
            print_json(self.to_dict())
            return
        self._print_job()
        if self.path is None:
            say("", "The audit provider keeps no ledger that can be read here, so there are no numbers to show.")
            return
        self._print_steps()
        self._print_approvals()
        self._print_ledger()
        show = self._show()
        if show is not None:
            say("", "Any single step whole:", f"  {show}")

    def _stages(self) -> list[dict[str, Any]]:
        counted = self.sla.get("steps") if self.sla is not None else None
        return self.tally.stages(counted if isinstance(counted, int) else None)

    def _print_job(self) -> None:
        if self.job.summary:
            print_table(
                f"Job {self.target}", ("", "value"), [(name, flat(value)) for name, value in self.job.summary.items()]
            )
        say(f"Job {self.job.status}: {self.job.error}" if self.job.error else f"Job {self.job.status}.")

    def _print_steps(self) -> None:
        total = self.tally.to_dict()
        rows = [
            [*("" if (value := stage[key]) == 0 else value for key in _STAGE_KEYS),
             *(ms(stage[key]) for key in ("p50_ms", "p95_ms", "p99_ms"))]
            for stage in self._stages()
        ]  # fmt: skip
        say("")
        if not self.tally.steps:
            say("No step was recorded by this invocation.")
            return
        print_table("Steps by stage", _STAGE_HEADERS, rows, right=set(_STAGE_HEADERS) - {"stage"})
        if total["by_code"]:
            codes = [
                (
                    one["code"],
                    one["verdict"],
                    one["steps"],
                    ", ".join(f"{rule} {n}" for rule, n in one["rules"].items()),
                )
                for one in total["by_code"]
            ]
            print_table(
                "Steps that did not complete, by code", ("code", "verdict", "steps", "rules"), codes, right={"steps"}
            )
        verdicts = ", ".join(f"{count} {name}" for name, count in total["verdicts"].items())
        times = ", ".join(f"{name} {ms(total[f'{name}_ms'])} ms" for name in ("p50", "p95", "p99"))
        say(f"Steps: {total['count']} ({verdicts}); {times}")
        say(f"Cost: {usd(total['cost_micro_usd'])}, {counted(total['tokens'], 'token')}")
        for name, objective in (self.sla or {}).get("objectives", {}).items():
            if isinstance(objective, Mapping) and objective.get("breaches"):
                say(f"Objective {name}: {objective['breaches']} breaches")

    def _print_approvals(self) -> None:
        if self.approvals:
            say("", f"Waiting for a person: {counted(len(self.approvals), 'step')}")
        for one in self.approvals[:_APPROVALS_SHOWN]:
            what = one["tool"] or one["node_id"]
            codes = ", ".join(one["codes"])
            say(f"  {what}, step {one['step_id']} of run {one['run_id']} ({codes}), until {one['expires_at']}")
            say(f"    {'expired' if one['expired'] else one['command']}")
        if len(self.approvals) > _APPROVALS_SHOWN:
            listing = command("approvals", "list", options=("--ledger", self.path or ""))
            say(f"  and {len(self.approvals) - _APPROVALS_SHOWN} more: {listing}")

    def _print_ledger(self) -> None:
        if self.chains:
            say("", *ledger_lines(self.path or "", self.chains))
        for one in self.unfinished:
            say(f"  no outcome on record: step {one['step_id']} of run {one['run_id']}, attempt {one['attempt']}")
        if self.unrecorded:
            lost = counted(self.unrecorded, "record")
            say(f"  {lost} could not be written; the outcomes of those steps were withheld")

    def _show(self) -> str | None:
        if self._example is None or self.path is None:
            return None
        return command("ledger", "show", ids=self._example, options=("--ledger", self.path))


def ledger_lines(path: str, chains: list[dict[str, Any]], whole: Mapping[str, Any] | None = None) -> list[str]:
    """Return what a verification found: what was checked, what was not, and every error.

    ``whole`` is what came of checking the ledger as one, beside its runs.
    """
    steps = sum(chain["steps_verified"] for chain in chains)
    broken = [chain for chain in chains if not chain["valid"]]
    runs = f"{counted(len(chains), 'run')}, {counted(steps, 'step')}"
    found = f"{len(broken)} of {len(chains)} runs DO NOT verify" if broken else "every chain holds"
    if whole is not None and not whole["valid"]:
        found += "; the ledger as a whole DOES NOT verify"
    lines = [f"Ledger {path}: {runs}; {found}"]
    looked = [*chains, *([whole] if whole is not None else [])]
    checked = {name for one in looked for name in one["checked"]}
    # Some runs may lack what others have; what was compared once, for the whole, was compared for all of them.
    done = set(whole["checked"]) if whole is not None else set()
    missing = {name for one in looked for name in one["not_checked"]} - done
    if checked:
        lines.append(f"  checked: {', '.join(sorted(checked))}; not checked: {', '.join(sorted(missing))}")
    lines += [f"  run {chain['run_id']}: {error}" for chain in broken for error in chain["errors"]]
    return lines + [f"  the ledger: {error}" for error in (whole or {}).get("errors", ())]


async def _touched(ledger: WatchedLedger, run_id: str) -> list[str]:
    """Return the runs that were written to, and the job's own if it has steps from before: it may still wait."""
    runs = list(ledger.places)
    if run_id not in runs and (await ledger.run_summary(run_id))["steps"]:
        runs.append(run_id)
    return runs


def _asked(one: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("approval_id", "run_id", "step_id", "node_id", "tool", "codes", "reason", "expires_at", "expired")
    return {name: one[name] for name in kept}
