"""The commands and their options; each imports what it needs when it runs, so that help is quick."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshflow.cli.approvals_app import approvals_app
from meshflow.cli.erase_app import erase_app
from meshflow.cli.evidence_app import evidence_app
from meshflow.cli.group import CommandGroup
from meshflow.cli.ledger_app import ledger_app
from meshflow.cli.listing import Heading
from meshflow.cli.options import (
    AgentOption,
    CheckpointsOption,
    Chosen,
    ConfigOption,
    DebugOption,
    FailOnDeniedOption,
    GivenOption,
    JsonOption,
    KeepLedgerOption,
    KeysOption,
    NewRunOption,
    QuorumOption,
    ResumeOption,
    TenantOption,
    WitnessesOption,
    chosen,
    shared,
    text,
)
from meshflow.cli.plugins_app import plugins_app
from meshflow.cli.policy_app import StageName, policy_app
from meshflow.cli.profiles_app import profiles_app, report
from meshflow.cli.store_app import store_app
from meshflow.cli.time_app import replay, time_app
from meshflow.cli.witness_app import witness_app
from meshflow.cli.workflow_app import workflow_app

app = typer.Typer(
    name="meshflow",
    cls=CommandGroup,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(plugins_app, name="plugins", rich_help_panel=Heading.SET_UP)
app.add_typer(policy_app, name="policy", rich_help_panel=Heading.RULES)
ledger_app.add_typer(erase_app)
ledger_app.add_typer(time_app)
ledger_app.add_typer(evidence_app)
ledger_app.add_typer(store_app)
ledger_app.add_typer(witness_app, name="witness")
app.add_typer(ledger_app, name="ledger", rich_help_panel=Heading.EVIDENCE)
app.add_typer(approvals_app, name="approvals", rich_help_panel=Heading.RUN)
app.add_typer(profiles_app, name="profiles", rich_help_panel=Heading.RULES)
app.add_typer(workflow_app, name="workflow", rich_help_panel=Heading.RUN)
app.command(rich_help_panel=Heading.EVIDENCE)(replay)
app.command(rich_help_panel=Heading.EVIDENCE)(report)


def _print_version(wanted: bool) -> None:
    if wanted:
        from meshflow import __version__

        typer.echo(f"meshflow {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    config: ConfigOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Governance for AI agents: run jobs whose every step passes fifteen stages, and read the evidence they leave."""
    context.obj = Chosen(config, as_json, debug)


@app.command(rich_help_panel=Heading.RUN)
@shared
def run(
    options: Chosen,
    job: Annotated[str, typer.Argument(metavar="JOB", help="path/to/job.py[:callable] or package.module:callable")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="ARGS", help="Handed to the job; put -- before them.", show_default=False),
    ] = None,
    run_id: NewRunOption = None,
    resume: ResumeOption = False,
    fail_on_denied: Annotated[
        bool, typer.Option("--fail-on-denied", help="Exit with 1 if any step was denied or failed.")
    ] = False,
    ledger: KeepLedgerOption = None,
) -> None:
    """Run a job, and report from the ledger what it did."""
    from meshflow.cli.run import RunRequest, run_job

    words = tuple(arguments or ())
    raise typer.Exit(run_job(options, RunRequest(job, run_id, resume, words, fail_on_denied, ledger)))


@app.command(rich_help_panel=Heading.SET_UP)
@shared
def stages(options: Chosen, tenant: TenantOption = None) -> None:
    """Show who serves each stage, and what failure does.

    A stage that fails never lets a step through: its gate denies, its output is withheld; the column says which.
    """
    from meshflow.cli.show_stages import show_stages

    show_stages(options, tenant)


@app.command(rich_help_panel=Heading.RUN)
@shared
def explain(
    options: Chosen,
    node: Annotated[str, typer.Option("--node", metavar="NAME", callback=text, help="Name of the step's node.")],
    kind: Annotated[
        str | None,
        typer.Option("--kind", metavar="KIND", help="Kind of the node; tool if --tool is given, else function."),
    ] = None,
    tool: Annotated[
        str | None, typer.Option("--tool", metavar="NAME", callback=text, help="Tool that the step calls.")
    ] = None,
    action: Annotated[
        str | None, typer.Option("--action", metavar="VERB", callback=text, help="What the step does.")
    ] = None,
    given: GivenOption = None,
    agent: AgentOption = "local",
    tenant: TenantOption = None,
    estimate_usd: Annotated[
        str | None, typer.Option("--estimate-usd", metavar="USD", help="What the step may cost.")
    ] = None,
    credential_file: Annotated[
        Path | None, typer.Option("--credential-file", metavar="FILE", help="File that holds the agent's token.")
    ] = None,
    fail_on_denied: FailOnDeniedOption = False,
) -> None:
    """Show what each gate would say of a step.

    Nothing is executed, counted or recorded.
    """
    from meshflow.cli.explain import explain_step, step_from

    step = step_from(node, kind, tool, action, given, agent, tenant, estimate_usd, credential_file)
    raise typer.Exit(explain_step(options, step, fail_on_denied=fail_on_denied))


@app.command(rich_help_panel=Heading.EVIDENCE)
@shared
def verify(
    options: Chosen,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="File that ledger export --format bundle wrote.")],
    keys: KeysOption = None,
    checkpoints: CheckpointsOption = None,
    witnesses: WitnessesOption = None,
    quorum: QuorumOption = None,
    trust_keys: Annotated[
        bool, typer.Option("--trust-bundle-keys", help="Believe the keys in the bundle, whoever put them there.")
    ] = False,
) -> None:
    """Verify a bundle of evidence, without any ledger; exit with 1 where it does not hold."""
    from meshflow.cli.bundle import verify_bundle

    raise typer.Exit(
        verify_bundle(options, bundle, keys or (), checkpoints or (), witnesses or (), quorum, trust_keys=trust_keys)
    )


@app.command(rich_help_panel=Heading.SET_UP)
@shared
def schema(
    options: Chosen,
    policy_input: Annotated[
        StageName | None, typer.Option("--policy-input", help="That of a policy's input at this stage instead.")
    ] = None,
    policy_answer: Annotated[
        bool, typer.Option("--policy-answer", help="That of what a policy answers instead.")
    ] = False,
    workflow: Annotated[bool, typer.Option("--workflow", help="That of workflow files instead.")] = False,
) -> None:
    """Print the JSON Schema of meshflow.yaml.

    It knows the settings of the plugins that are installed; point an editor at it.
    """
    if workflow:
        from meshflow.cli.output import print_json
        from meshflow.workflow.schema import workflow_schema

        print_json(workflow_schema())
        return
    if policy_input is not None or policy_answer:
        from meshflow.cli.policy_bundle import print_policy_schema

        print_policy_schema(policy_input, answer=policy_answer)
        return
    from meshflow.cli.plugins import print_schema

    print_schema(options)


@app.command(rich_help_panel=Heading.SET_UP)
def init(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write.", show_default=False)] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a commented meshflow.yaml and a starter policy."""
    options = chosen(context, None, as_json, debug)
    from meshflow.cli.init import write_starter

    write_starter(options, folder, force=force)


@app.command(rich_help_panel=Heading.SET_UP)
def version(context: typer.Context, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Print the versions of meshflow and of Python."""
    options = chosen(context, None, as_json, debug)
    import platform

    from meshflow import __version__
    from meshflow.cli.output import print_json, say

    if options.as_json:
        print_json({"meshflow": __version__, "python": platform.python_version(), "platform": platform.platform()})
    else:
        say(f"meshflow {__version__} (Python {platform.python_version()}, {platform.platform()})")
