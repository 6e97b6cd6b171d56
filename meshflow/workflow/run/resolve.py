"""Find, before anything runs, all that a definition leaves to code: what nodes call, and by what they are governed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from meshflow.config.source import dotted, shown
from meshflow.errors import ConfigError
from meshflow.workflow.plan import Plan, PlannedNode
from meshflow.workflow.registry import Registry
from meshflow.workflow.repeat import contradiction
from meshflow.workflow.spec.nodes import SubgraphNode

if TYPE_CHECKING:
    from meshflow.kernel.runtime import StepRuntime
    from meshflow.workflow.run.steps import Run


class Placed(NamedTuple):
    """A node, the workflow that it stands in, and the name of the runtime that governs it there."""

    node: PlannedNode
    plan: Plan
    runtime: str | None = None


def every_node(plan: Plan, registry: Registry) -> Iterator[Placed]:
    """Yield each node of a workflow and of those within it, also those that are registered.

    A workflow that is held several times, or by itself, is walked once for each runtime that governs it.
    """
    seen: set[tuple[int, str | None]] = set()
    waiting: list[tuple[Plan, str | None]] = [(plan, None)]
    while waiting:
        current, outer = waiting.pop()
        if (id(current), outer) in seen:
            continue
        seen.add((id(current), outer))
        for node in current.nodes.values():
            runtime = node.spec.runtime or outer
            yield Placed(node, current, runtime)
            held = [(node, runtime)]
            if node.each is not None:
                runtime = node.each.spec.runtime or runtime
                yield Placed(node.each, current, runtime)
                held = [(node.each, runtime)]
            waiting += [(inner, name) for one, name in held if (inner := _held_by(one, current, registry)) is not None]


def _held_by(node: PlannedNode, plan: Plan, registry: Registry) -> Plan | None:
    """Return the workflow that a subgraph node runs, None for another node."""
    if not isinstance(node.spec, SubgraphNode) or node.spec.ref is None:
        return node.inner
    try:
        inner: Plan = registry.find("workflow", node.spec.ref).plan
    except ConfigError as error:
        raise ConfigError(error.problem, where=plan.where(node.path)) from None
    if inner.document.limits is not None:
        message = f"workflow {shown(node.spec.ref)} has limits of its own, which hold for whole runs only"
        raise ConfigError(message, where=plan.where(node.path))
    return inner


def definition_digest(plan: Plan, registry: Registry) -> str:
    """Return the digest of a definition together with the registered workflows that it runs by name."""
    others: dict[str, str] = {}
    for node, _, _ in every_node(plan, registry):
        if isinstance(node.spec, SubgraphNode) and node.spec.ref is not None:
            others[node.spec.ref] = registry.find("workflow", node.spec.ref).plan.digest
    if not others:
        return plan.digest
    return sha256("\n".join([plan.digest, *(f"{others[name]} {name}" for name in sorted(others))]).encode()).hexdigest()


def found_for(placed: Placed, find: Callable[[PlannedNode], object]) -> None:
    """Find what a node calls; ConfigError says where in the file the name stands that nothing goes by."""
    node, plan, _ = placed
    if node.kind in ("map", "subgraph"):
        return
    try:
        find(node)
    except ConfigError as error:
        raise ConfigError(error.problem, where=plan.where(node.path), path=dotted(node.path)) from None


def resolve(plan: Plan, run: Run) -> None:
    """Find what every node needs; ConfigError for what is not there."""
    for placed in every_node(plan, run.registry):
        found_for(placed, run.target)
        _check(placed, run)


def _check(placed: Placed, run: Run) -> None:
    node, plan, runtime = placed
    spec = node.spec

    def wrong(message: str, *inside: str) -> ConfigError:
        path = (*node.path, *inside)
        return ConfigError(message, where=plan.where(path), path=dotted(path))

    if runtime not in run.runtimes:
        given = sorted(str(one) for one in run.runtimes if one is not None)
        message = f"no runtime {shown(runtime)} is given (there are {', '.join(given) or 'none'}); pass it in runtimes="
        raise wrong(message, *(("runtime",) if spec.runtime is not None else ()))
    if spec.compensate is not None:
        try:
            undoes = run.undo_target(node)
        except ConfigError as error:
            raise wrong(error.problem, "compensate") from None
        problem = contradiction(spec.compensate, undoes.tool, run.base)
        if problem:
            raise wrong(problem, "compensate")
    tool = getattr(spec, "tool", None)
    problem = contradiction(spec, tool, run.base)
    if problem:
        raise wrong(problem)
    for profile in spec.profiles or ():
        if profile not in _profiles(run.runtimes[runtime]):
            message = f"needs the compliance profile {shown(profile)}, which its runtime does not enforce"
            raise wrong(message, "profiles")


def _profiles(runtime: StepRuntime) -> frozenset[str]:
    """Return the profiles that a runtime's base enforces: packs by their names, and all that they extend."""
    names: set[str] = set()
    for choice in runtime.stages():
        if choice.stage.name != "compliance_profile" or choice.mode != "enforce":
            continue
        for slot in choice.slots:
            packs = getattr(slot.provider.plugin, "packs", None)
            if slot.enforced and callable(packs):
                names.update(one.manifest.name for pack in packs() for one in pack.line())
    return frozenset(names)
