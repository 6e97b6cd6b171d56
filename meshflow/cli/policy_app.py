"""``meshflow policy check|test|eval|explain|bench|backtest``: what a policy will do, before it does it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from meshflow.cli.listing import ListingGroup
from meshflow.cli.options import (
    Chosen,
    FailOnDeniedOption,
    HtmlOption,
    LedgerOption,
    TenantOption,
    moment,
    shared,
    text,
    to_write,
)

policy_app = typer.Typer(
    cls=ListingGroup, help="Check, test and explain policies.", no_args_is_help=True, rich_markup_mode=None
)


class EngineName(StrEnum):
    """What evaluates."""

    REGORUS = "regorus"
    OPA = "opa"
    GOLIB = "golib"


class StageName(StrEnum):
    """The entry point that is asked."""

    POLICY = "policy_evaluation"
    COMPLIANCE = "compliance_profile"
    TOOLS = "tool_permission"
    OUTPUT = "output_guardrails"


class FailOn(StrEnum):
    """What of a backtest's outcome fails the command; each takes in those before it."""

    NONE = "none"
    LOOSER = "looser"
    FLIP = "flip"
    UNDECIDABLE = "undecidable"


BundleArgument = Annotated[
    Path | None,
    typer.Argument(metavar="BUNDLE", help="Folder or .rego file; without it what is configured.", show_default=False),
]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="FILE", help="JSON or YAML laid over the bundle's data.")
]
EngineOption = Annotated[
    EngineName | None, typer.Option("--engine", help="What evaluates; without it what is configured.")
]
StageOption = Annotated[StageName, typer.Option("--stage", help="The stage whose entry point is asked.")]
InputOption = Annotated[
    str | None,
    typer.Option(
        "--input", metavar="JSON|@FILE", callback=text, help="Decision document as JSON, or @ and a file; @- is stdin."
    ),
]


@policy_app.command()
@shared
def check(
    options: Chosen,
    bundle: BundleArgument = None,
    engine: EngineOption = None,
    data: DataOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for warnings too.")] = False,
) -> None:
    """Compile a bundle and look for what is wrong with it.

    Unknown and forbidden built-ins, facts that a stage cannot know yet, rules that nothing uses or that never hold.
    """
    from meshflow.cli.policy_check import check_policy

    raise typer.Exit(check_policy(options, bundle, data, engine, strict=strict))


@policy_app.command(name="test")
@shared
def run_tests(
    options: Chosen,
    bundle: BundleArgument = None,
    data: DataOption = None,
    only: Annotated[
        str | None, typer.Option("--only", metavar="REGEX", callback=text, help="Run the tests whose name matches.")
    ] = None,
    fail_under: Annotated[
        float, typer.Option("--fail-under", metavar="PERCENT", min=0, max=100, help="Exit with 1 below this coverage.")
    ] = 0.0,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", callback=to_write, help="Write JUnit XML here.")
    ] = None,
) -> None:
    """Run the test_* rules of a bundle, and show which lines they reach."""
    from meshflow.cli.policy_check import run_policy_tests

    raise typer.Exit(run_policy_tests(options, bundle, data, only, fail_under, junit))


@policy_app.command(name="eval")
@shared
def evaluate(
    options: Chosen,
    bundle: BundleArgument = None,
    stage: StageOption = StageName.POLICY,
    given: InputOption = None,
    engine: EngineOption = None,
    data: DataOption = None,
    fail_on_denied: FailOnDeniedOption = False,
) -> None:
    """Ask a bundle about one decision document."""
    from meshflow.cli.policy_ask import evaluate_policy

    raise typer.Exit(evaluate_policy(options, bundle, data, engine, stage, given, fail_on_denied=fail_on_denied))


@policy_app.command()
@shared
def explain(
    options: Chosen,
    bundle: BundleArgument = None,
    stage: StageOption = StageName.POLICY,
    given: InputOption = None,
    data: DataOption = None,
    all_rules: Annotated[bool, typer.Option("--all", help="Show the rules that did not hold, too.")] = False,
) -> None:
    """Say which rules and which values decided about one decision document.

    The embedded engine evaluates.
    """
    from meshflow.cli.policy_explain import explain_policy

    explain_policy(options, bundle, data, stage, given, all_rules=all_rules)


@policy_app.command()
@shared
def bench(
    options: Chosen,
    bundle: BundleArgument = None,
    stage: StageOption = StageName.POLICY,
    given: InputOption = None,
    engine: EngineOption = None,
    data: DataOption = None,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", min=0.01, max=600, help="How long to measure.")
    ] = 2.0,
    at_once: Annotated[
        int, typer.Option("--at-once", metavar="N", min=1, max=1024, help="Steps that ask at the same time.")
    ] = 1,
) -> None:
    """Measure how long an engine takes to decide about one document."""
    from meshflow.cli.policy_ask import bench_policy

    bench_policy(options, bundle, data, engine, stage, given, seconds, at_once)


@policy_app.command()
@shared
def backtest(
    options: Chosen,
    bundle: BundleArgument = None,
    data: DataOption = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", callback=text, help="This run alone; without it every run.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", callback=moment, help="Runs that went on then, RFC 3339.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", callback=moment, help="Runs begun before, RFC 3339.")
    ] = None,
    plugin: Annotated[
        str, typer.Option("--plugin", metavar="NAME", callback=text, help="Whose recorded decisions are compared.")
    ] = "rego",
    fail_on: Annotated[
        FailOn, typer.Option("--fail-on", help="Exit with 1 where the candidate lets more through, flips any, ...")
    ] = FailOn.NONE,
    html: HtmlOption = None,
    step_url: Annotated[
        str | None,
        typer.Option(
            "--step-url",
            metavar="URL",
            callback=text,
            help="Link steps of the page; {run}, {step}, {step_id} are filled in.",
        ),
    ] = None,
    examples: Annotated[
        int, typer.Option("--examples", metavar="N", min=0, max=10_000, help="Steps to name of each kind.")
    ] = 20,
    tenant: TenantOption = None,
    ledger: LedgerOption = None,
) -> None:
    """Run recorded decisions through a candidate bundle, and say which would change.

    What was erased, masked or withheld since is counted as undecidable where the bundle looks at it.
    """
    from meshflow.cli.backtest import BacktestRequest, backtest_policy

    request = BacktestRequest(
        bundle, data, ledger, tenant, run, since, until, plugin, fail_on, html, step_url, examples
    )  # fmt: skip
    raise typer.Exit(backtest_policy(options, request))


@policy_app.command()
@shared
def sign(
    options: Chosen,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.", show_default=False)],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="PEM file of the private key.")],
    key_id: Annotated[
        str | None, typer.Option("--key-id", metavar="ID", callback=text, help="Key id to put into the signature.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option("--scope", metavar="SCOPE", callback=text, help="Scope to put into the signature.")
    ] = None,
) -> None:
    """Sign a bundle, in OPA's format: writes .signatures.json beside its files."""
    from meshflow.cli.policy_sign import sign_policy

    sign_policy(options, bundle, key, key_id, scope)


@policy_app.command()
@shared
def verify(
    options: Chosen,
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.", show_default=False)],
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="PEM file of the public key.")],
    key_id: Annotated[
        str | None, typer.Option("--key-id", metavar="ID", callback=text, help="Key id that must be named.")
    ] = None,
    scope: Annotated[
        str | None, typer.Option("--scope", metavar="SCOPE", callback=text, help="Scope that must be named.")
    ] = None,
) -> None:
    """Check that a bundle is the one that was signed: no file changed, added or taken away."""
    from meshflow.cli.policy_sign import verify_policy

    verify_policy(options, bundle, key, key_id, scope)
