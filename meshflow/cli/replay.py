"""``meshflow replay``: what of a recorded run would be otherwise today, its decisions and its program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from meshflow.cli.exits import ExitCode
from meshflow.cli.ledgers import shown, with_ledger
from meshflow.cli.options import Chosen
from meshflow.cli.output import counted, line, print_json, print_table, say
from meshflow.cli.replay_program import Program, print_replay
from meshflow.cli.run import stdout_kept_clean
from meshflow.facts import Principal
from meshflow.ledger.format.entry import principal_from
from meshflow.plugin import Decision, NoSettings, Plugin, StepContext, hookimpl

if TYPE_CHECKING:
    from meshflow.config.models import Config
    from meshflow.kernel.explain import Explanation
    from meshflow.kernel.runtime import StepRuntime
    from meshflow.ledger import ReplayLedger
    from meshflow.ledger.player import Replay
    from meshflow.step import NodeInput

_PLUGIN = "recorded"


class RecordedIdentity(Plugin[NoSettings]):
    """Vouches for who asked according to the record, since a record holds no credential."""

    def __init__(self) -> None:
        super().__init__(NoSettings())
        self.principal: Principal | None = None

    @hookimpl
    def verify_identity(self, context: StepContext) -> Decision | None:
        """Return the principal on record; nothing, where there is none."""
        return Decision.allow(fact=self.principal) if self.principal is not None else None


class _AsRecorded:
    """A runtime that takes each step for that of its recorded principal."""

    def __init__(self, runtime: StepRuntime, identity: RecordedIdentity, steps: list[dict[str, Any]]) -> None:
        self._runtime = runtime
        self._identity = identity
        self._principals = {(one["run_id"], one["step_id"], one["attempt"]): one["principal"] for one in steps}

    async def explain(self, node_input: NodeInput) -> Explanation:
        """Return what the gates would say."""
        document = self._principals.get((node_input.run_id, node_input.step_id, node_input.attempt))
        self._identity.principal = principal_from(document) if document is not None else None
        return await self._runtime.explain(node_input)


def replay_run(
    options: Chosen, path: str | None, run_id: str, tenant: str | None, program: Program, *, every: bool
) -> ExitCode:
    """Print what would differ; 1 if anything would, or if the program could not be taken to its end."""
    program.check()
    if program.named and every:
        raise typer.BadParameter("a program stops at the first difference; leave --every out")
    config = options.load()

    async def read(ledger: ReplayLedger) -> tuple[str, Replay, str]:
        return shown(ledger), *await _decide(config, ledger, run_id, tenant, program, every)

    with stdout_kept_clean(options.as_json):
        name, report, fingerprint = with_ledger(options, path, read)
    if options.as_json:
        from meshflow.ledger.reexplain import to_dict

        print_json({"ledger": name, **to_dict(report), "fingerprint": fingerprint})
    elif program.named:
        print_replay(report)
        _print_pipeline(report, fingerprint)
    else:
        _print(report, fingerprint)
    return ExitCode.FAILED if report.differences or report.stopped else ExitCode.OK


async def _decide(
    config: Config, ledger: ReplayLedger, run_id: str, tenant: str | None, program: Program, every: bool
) -> tuple[Replay, str]:
    from meshflow.kernel.runtime import StepRuntime
    from meshflow.ledger import ReplayLedger

    identity = RecordedIdentity()
    recorded = await ledger.get_run(run_id, tenant=tenant)
    steps = program.steps(run_id, recorded) if program.named and recorded else None
    # As for explain: starting the plugins would open, and make, the ledger that is configured.
    async with ReplayLedger(":memory:") as nowhere:
        fingerprint = StepRuntime(ledger=nowhere, config=config).fingerprint
        async with StepRuntime(ledger=nowhere, config=config, plugins={_PLUGIN: identity}) as runtime:
            asked = _AsRecorded(runtime, identity, recorded)
            report = await ledger.replay(
                run_id, steps, runtime=asked, every=every, decided=program.workflow is not None, tenant=tenant
            )
            return report, fingerprint


def _print(report: Replay, fingerprint: str) -> None:
    if report.differences:
        rows = [
            (one.step_index, one.node_id, *(" ".join(filter(None, answer)) for answer in (one.recorded, one.now)))
            for one in report.differences
        ]
        print_table("Would now be decided otherwise", ("#", "node", "on record", "now"), rows, right={"#"})
    for one in report.undecidable:
        then, now = (" ".join(filter(None, answer)) for answer in (one["recorded"], one["now"]))
        answers = f"{then} then and now" if then == now else f"{then} on record, {now} now"
        say(f"Undecidable: step {one['step_index']} ({line(one['node_id'])}): {one['why']}; {answers}")
    replayed = f"{report.replayed} of {counted(report.steps, 'step')} compared"
    say(f"{replayed}, {len(report.differences)} would differ, {len(report.undecidable)} undecidable")
    _print_pipeline(report, fingerprint)


def _print_pipeline(report: Replay, fingerprint: str) -> None:
    if report.fingerprints != [fingerprint]:
        say("They were decided by another pipeline (plugins, versions, settings, policy, or a tenant's own).")
