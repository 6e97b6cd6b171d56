"""``meshflow workflow``: check, draw and run workflow files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshflow.cli.listing import ListingGroup
from meshflow.cli.options import (
    AgentOption,
    Chosen,
    GivenOption,
    KeepLedgerOption,
    NewRunOption,
    ResumeOption,
    shared,
    text,
    texts,
)

workflow_app = typer.Typer(
    cls=ListingGroup, help="Check, draw and run workflow files.", no_args_is_help=True, rich_markup_mode=None
)
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Workflow file.", show_default=False)]
ImportsOption = Annotated[
    bool,
    typer.Option("--allow-imports", help="Let the file name Python code by its import path; it is run as this user."),
]
HostOption = Annotated[
    list[str] | None,
    typer.Option("--allow-host", metavar="HOST", callback=texts, help="Host that http nodes may talk to."),
]
WithOption = Annotated[
    list[str] | None,
    typer.Option(
        "--with", metavar="CODE", callback=texts,
        help="path/to/code.py[:registry] or package.module:registry, with what the nodes call.",
    ),
]  # fmt: skip


@workflow_app.command()
@shared
def check(
    options: Chosen,
    file: FileArgument,
    code: WithOption = None,
    hosts: HostOption = None,
    allow_imports: ImportsOption = False,
) -> None:
    """Check a workflow file whole, and run nothing.

    With --with also that everything which its nodes call by name is there.
    """
    from meshflow.cli.workflow import check_workflow

    check_workflow(options, file, code, hosts or [], allow_imports=allow_imports)


@workflow_app.command()
@shared
def draw(options: Chosen, file: FileArgument, allow_imports: ImportsOption = False) -> None:
    """Print a workflow as a Mermaid flowchart."""
    from meshflow.cli.workflow import draw_workflow

    draw_workflow(options, file, allow_imports=allow_imports)


@workflow_app.command()
@shared
def run(
    options: Chosen,
    file: FileArgument,
    given: GivenOption = None,
    code: WithOption = None,
    hosts: HostOption = None,
    run_id: NewRunOption = None,
    resume: ResumeOption = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume, also try again what failed or was denied.")
    ] = False,
    agent: AgentOption = "local",
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="ID", callback=text, help="Tenant of the run.")
    ] = None,
    ledger: KeepLedgerOption = None,
    allow_imports: ImportsOption = False,
) -> None:
    """Run a workflow, every node a governed step, and say how each ended."""
    from meshflow.cli.workflow import WorkflowRequest, run_workflow

    request = WorkflowRequest(
        file, given, tuple(code or ()), tuple(hosts or ()), run_id, resume, retry_failed, agent, tenant, ledger,
        allow_imports,
    )  # fmt: skip
    raise typer.Exit(run_workflow(options, request))
