"""Check, draw and run a workflow file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meshflow.cli.exits import ExitCode
from meshflow.cli.explain import read_input
from meshflow.cli.ledgers import command, configured_ledger
from meshflow.cli.load_job import load_named
from meshflow.cli.options import Chosen
from meshflow.cli.output import counted, print_json, print_pairs, print_table, say, usd
from meshflow.cli.run import stdout_kept_clean
from meshflow.ids import new_id

if TYPE_CHECKING:
    from meshflow.workflow import NodeResult, Registry, WorkflowDefinition, WorkflowResult

DEFAULT_REGISTRY = "registry"
_EXIT = {"completed": ExitCode.OK, "paused": ExitCode.PAUSED}


@dataclass(frozen=True, slots=True)
class WorkflowRequest:
    """What the command line asks for."""

    file: Path
    given: str | None = None
    code: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    run_id: str | None = None
    resume: bool = False
    retry_failed: bool = False
    agent: str = "local"
    tenant: str | None = None
    ledger: str | None = None
    allow_imports: bool = False


def check_workflow(
    options: Chosen, file: Path, code: Sequence[str] | None, hosts: Sequence[str], *, allow_imports: bool
) -> None:
    """Say that a file is good; ConfigError says what is not."""
    wf = read_workflow(file, allow_imports)
    if code is not None or hosts:
        from meshflow.workflow.calls import target
        from meshflow.workflow.run.resolve import every_node, found_for

        with stdout_kept_clean(options.as_json):
            registry = registry_of(code or (), hosts)
        for placed in every_node(wf.plan, registry):
            found_for(placed, lambda one: target(one, registry))
    document = {"file": str(file), "name": wf.name, "digest": wf.digest, "nodes": list(wf.nodes)}
    if options.as_json:
        print_json(document)
        return
    say(f"{file}: {wf.name} is a good workflow of {counted(len(wf.nodes), 'node')}", f"definition {wf.digest}")


def draw_workflow(options: Chosen, file: Path, *, allow_imports: bool) -> None:
    """Print the flowchart."""
    drawing = read_workflow(file, allow_imports).draw_mermaid()
    if options.as_json:
        print_json({"file": str(file), "mermaid": drawing})
    else:
        say(*drawing.splitlines())


def run_workflow(options: Chosen, request: WorkflowRequest) -> ExitCode:
    """Run the file, or go on with a run of it, print the result and return the exit code."""
    if (request.resume or request.retry_failed) and request.run_id is None:
        raise typer.BadParameter("--resume and --retry-failed need the --run-id to go on with")
    if request.resume and request.given is not None:
        raise typer.BadParameter("a run that is resumed has its input; leave --input out")
    wf = read_workflow(request.file, request.allow_imports)
    with stdout_kept_clean(options.as_json):
        registry = registry_of(request.code, request.hosts)
        result = asyncio.run(_run(options, request, wf, registry))
    code = _EXIT.get(result.status.value, ExitCode.FAILED)
    again = _again(options, request, result)
    if options.as_json:
        print_json(result.to_dict() | {"exit_code": int(code), "resume_command": again})
    else:
        _print(result, again)
    return code


async def _run(options: Chosen, request: WorkflowRequest, wf: WorkflowDefinition, registry: Registry) -> WorkflowResult:
    from meshflow.kernel.runtime import StepRuntime

    config = options.load()
    ledger = configured_ledger(config, request.ledger) if request.ledger is not None else None
    if request.ledger is not None and ledger is None:
        raise typer.BadParameter("the configured audit provider does not write to a file that --ledger can name")
    run_id = request.run_id or new_id("run")
    common: dict[str, Any] = {"registry": registry, "agent_id": request.agent, "tenant": request.tenant}
    try:
        async with StepRuntime(ledger=ledger, config=config) as runtime:
            if request.resume or request.retry_failed:
                return await wf.resume(run_id, runtime=runtime, retry_failed=request.retry_failed, **common)
            return await wf.run(read_input(request.given), runtime=runtime, run_id=run_id, **common)
    finally:
        if ledger is not None:
            await ledger.aclose()


def read_workflow(file: Path, allow_imports: bool) -> WorkflowDefinition:
    """Read a workflow file."""
    from meshflow.workflow import WorkflowDefinition

    return WorkflowDefinition.from_yaml(file, allow_imports=allow_imports)


def registry_of(code: Sequence[str], hosts: Sequence[str]) -> Registry:
    """Return the registry that the command line names; several are taken together."""
    from meshflow.workflow import Registry

    whole = Registry()
    for target in code:
        found, place, name = load_named(target, DEFAULT_REGISTRY)
        if not isinstance(found, Registry):
            raise typer.BadParameter(
                f"{place}:{name} is of type {type(found).__name__}, not a meshflow.workflow.Registry"
            )
        whole.update(found)
    whole.allow_host(*hosts)
    return whole


def _again(options: Chosen, request: WorkflowRequest, result: WorkflowResult) -> str:
    """Return the command that goes on with a run, if anything is left to do."""
    undone = set(_undone(result.nodes.values()))
    left = undone - {"completed"}
    if result.status.value == "completed" or (undone and not left):
        return ""
    if not left and result.status.value in ("denied", "limit_reached"):
        return ""
    failed = result.status.value == "failed" if not undone else bool(left - {"paused"})
    words = [f"--with={one}" for one in request.code] + [f"--allow-host={one}" for one in request.hosts]
    words += [f"--config={options.config}"] if options.config is not None else []
    words += [f"--ledger={request.ledger}"] if request.ledger is not None else []
    words += [f"--tenant={request.tenant}"] if request.tenant is not None else []
    words += ["--allow-imports"] if request.allow_imports else []
    words += ["--resume"] + (["--retry-failed"] if failed else [])
    return command("workflow", "run", options=(*words, f"--run-id={result.run_id}"), ids=(str(request.file),))


def _undone(nodes: Iterable[NodeResult]) -> Iterator[str]:
    """Yield how the undoing of each node ended that was to be undone."""
    for node in nodes:
        if node.undone is not None:
            yield node.undone.value
        yield from _undone(node.inner.values())


def _print(result: WorkflowResult, again: str) -> None:
    rows = list(_rows(result.nodes.values(), ""))
    print_table(f"{result.workflow}, {result.run_id}", ("node", "kind", "status", "code", "runs", "cost"), rows)
    where = f" at {result.node}" if result.node else ""
    print_pairs(
        [
            ("status", f"{result.status.value}{where}"),
            ("why", f"{result.code}: {result.reason}" if result.code else ""),
            ("output", result.output),
            ("steps", result.steps),
            ("cost", usd(result.cost_micro_usd)),
            ("tokens", result.tokens or None),
            ("waits for", ", ".join(result.approvals)),
        ]
    )
    for approval in result.approvals:
        say(f"  {command('approvals', 'approve', ids=(approval,))}")
    if again:
        say(f"go on with: {again}")


def _rows(nodes: Any, prefix: str) -> Any:
    node: NodeResult
    for node in nodes:
        runs = node.attempts if node.kind == "map" else node.runs
        yield f"{prefix}{node.name}", node.kind, node.status.value, node.code, runs, usd(node.cost_micro_usd)
        yield from _rows(node.inner.values(), f"{prefix}{node.name}/")
