"""Take each node and router of a run through StepRuntime: nothing of the application's runs past the kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meshflow.facts import TaintLabels
from meshflow.graph.copying import copied
from meshflow.graph.errors import (
    GraphError,
    GraphInterrupt,
    NodeDeniedError,
    NodeFailedError,
    NodePausedError,
    NodeStoppedError,
    ParentCommand,
)
from meshflow.graph.handlers import as_given, handler_of, noting, plain_of, state_of
from meshflow.graph.markers import Interrupt
from meshflow.graph.provenance import Provenance, labels_from_plain, labels_to_plain
from meshflow.graph.shape import Shape, released_output
from meshflow.ids import id_of
from meshflow.record import RuntimeOutcome, Status
from meshflow.step import NodeInput

if TYPE_CHECKING:
    from meshflow.graph.host import Host
    from meshflow.graph.nodes import Node, Router
    from meshflow.graph.run import Run
    from meshflow.graph.settings import Settings
    from meshflow.graph.task import Task
    from meshflow.kernel.runtime import StepRuntime


class Governor:
    """Runs the nodes of one run as steps: with its identity, an id for each place, and the labels of what they read."""

    def __init__(self, runtime: StepRuntime, graph: str, settings: Settings, labels: TaintLabels | None) -> None:
        self.runtime = runtime
        self.settings = settings
        self.provenance = Provenance(labels)
        self._template = NodeInput(
            node_id=graph,
            run_id=settings.run_id,
            agent_id=settings.agent_id,
            credential=settings.credential,
            tenant=settings.tenant,
            metadata={"graph": graph} | ({"thread_id": settings.thread_id} if settings.thread_id else {}),
        )

    async def begin(self, run: Run) -> None:
        """Learn whose run it is before anything is read for it. One that the kernel denies is recorded, and raised."""
        tenant = await self.runtime.tenant_of(self._template)
        if tenant is None:
            step = replace(self._template, kind="subgraph", step_id=f"begin-{run.anchor}", handler=as_given)
            outcome = await self.runtime.run(step)
            if not outcome.ok:
                raise NodeDeniedError(run.graph.name, outcome)
            tenant = outcome.record.tenant_id
        self.settings.tenant = tenant
        if run.saver is not None:
            run.saver.key = replace(run.saver.key, tenant=tenant)

    def within(self, task: Task, graph: str) -> Governor:
        """Return the governor of a graph inside of a node."""
        return Governor(self.runtime, graph, self.settings, self._reading(task))

    async def node(self, task: Task, host: Host) -> Any:
        """Run a node and return what it returned, as far as it was released."""
        node = task.node
        given = state_of(task)
        if node.is_graph:
            entered = task.saved.get("entered")
            if entered is None:
                entered = await self._run(task, node, given, Shape(), host, kind="subgraph")
                task.saved["entered"] = entered
            return await task.run.nested(task, node.function, entered, host)
        key = None
        if node.cache is not None:
            key = task.run.graph.cache.key(node, given, task.run.cache_scope)
            found = task.run.graph.cache.get(key)
            if found is not None:
                kind, value = found[0]
                task.cached = True
                return released_output(kind, await self._run(task, node, given, Shape(kind), host, cached=[value]))
        shape = Shape(*task.saved.get("shape", ("plain", False)))
        released = await self._run(task, node, given, shape, host)
        if shape.kind == "asks":
            raise GraphInterrupt(*(Interrupt(value, asked) for asked, value in released["interrupts"]))
        if key is not None and node.cache is not None:
            task.run.graph.cache.put(key, (shape.kind, copied(released)), node.cache.ttl_s)
        output = _read(node.name, shape.kind, released)
        if shape.kind == "parent":
            raise ParentCommand(output)
        return output

    async def router(self, task: Task, host: Host, router: Router, given: Any) -> Any:
        """Ask a router and return its answer."""
        shape = Shape("answers")
        name = f"{task.node.name}.{router.name}"
        step_id = f"{task.step_id}-{router.name}"
        step = replace(
            self._template, node_id=name, step_id=step_id, action="route", labels=self.provenance.everything()
        )

        def make(plain: Any) -> Any:
            return given if router.schema.make is not None else plain

        if router.is_async:

            async def handler(plain: Any) -> Any:
                return shape.router_result(await router.function(make(plain), **task.injected(router.wants)))
        else:

            def handler(plain: Any) -> Any:  # type: ignore[misc]
                return shape.router_result(router.function(make(plain), **task.injected(router.wants)))

        plain = plain_of(given, router.schema.keys)
        which = f"@{router.name}"
        outcome = await self._outcome(task, replace(step, input=plain, handler=noting(shape, handler)), which)
        if not outcome.ok:
            raise self._stop(task, name, outcome, shape, which)
        return _read(name, "answers", outcome.output)

    async def update(self, run: Run, node: Node, values: Any) -> Any:
        """Take a change from outside, as if ``node`` had returned it: a step of kind ``human``."""
        step = replace(
            self._template,
            node_id=node.name,
            step_id=f"update-{run.anchor}",
            attempt=await self.runtime.next_attempt(self.settings.run_id, f"update-{run.anchor}"),
            kind="human",
            action="update_state",
            input=values,
            labels=self.provenance.everything(),
            handler=as_given,
        )
        outcome = await self.runtime.run(step)
        if not outcome.ok:
            kinds = {Status.DENIED: NodeDeniedError, Status.PAUSED: NodePausedError}
            raise kinds.get(outcome.status, NodeFailedError)(node.name, outcome)
        return outcome.output

    def applied(self, task: Task) -> None:
        """Note whose the values are that a node has written."""
        labels = labels_from_plain(task.saved.get("labels")) or self._reading(task)
        if labels is None:
            return
        for key, _ in task.updates:
            self.provenance.wrote(key, labels, over=task.run.graph.channels[key].reducer is None)

    async def _run(
        self, task: Task, node: Node, given: Any, shape: Shape, host: Host, *, kind: str = "", cached: Any = None
    ) -> Any:
        """Run a node's step until it completes, or raise; failures are tried again as the node's policy says."""
        step = replace(
            self._template,
            node_id=node.name,
            step_id=task.step_id,
            input=given,
            handler=noting(shape, handler_of(task, shape, kind, cached)),
            labels=self._reading(task),
            timeout_ms=int(node.timeout_s * 1_000) if node.timeout_s is not None else None,
            metadata={**self._template.metadata, **node.metadata, "superstep": task.run.step + 1},
            **{**node.step, **({"kind": kind} if kind else {})},
        )
        while True:
            outcome = await self._outcome(task, step, "")
            if outcome.ok:
                self._note_labels(task, outcome)
                return _told(task, shape, outcome.output)
            policy = next((one for one in node.retry if shape.error is not None and one.covers(shape.error)), None)
            tries = task.saved["tries"]
            if outcome.status is not Status.FAILED or policy is None or tries >= policy.max_attempts:
                raise self._stop(task, node.name, outcome, shape, "")
            await host.sleep(policy.wait_s(tries))
            task.again()
            shape.error = None
            task.held.clear()

    async def _outcome(self, task: Task, step: NodeInput, which: str) -> RuntimeOutcome:
        """Hand a step in under the number that its try has, or as one that a person has decided on."""
        waiting = f"approval{which}"
        if waiting in task.saved:
            step = replace(step, resume=True)
        else:
            known = task.saved.get(f"attempt{which}", 0)
            number = known + 1
            if task.resuming and not task.saved.get(f"tries{which}"):
                # What was kept does not know of a try whose process ended before it was; the ledger does.
                number = await self.runtime.next_attempt(self.settings.run_id, str(step.step_id))
                if number > known + 1 and step.idempotent is False and step.kind != "subgraph":
                    await self._ask_again(task, step, number, known)
            task.saved[f"attempt{which}"] = task.attempt = number
            step = replace(step, attempt=number)
        task.saved[f"tries{which}"] = task.saved.get(f"tries{which}", 0) + 1
        outcome = await self.runtime.run(step)
        if outcome.status is Status.PAUSED:
            task.saved[waiting] = outcome.approval_id or task.saved.get(waiting)
            return outcome
        if outcome.code != "approval.rejected":  # a no stays a no; what expired or no longer fits is asked anew
            task.saved.pop(waiting, None)
        task.saved[f"attempt{which}"] = outcome.record.attempt
        if outcome.ok and outcome.record.tenant_id != self.settings.tenant:
            raise GraphError(
                f"node {task.node.name!r} ran for tenant {outcome.record.tenant_id!r}, the run is of "
                f"{self.settings.tenant!r}"
            )
        return outcome

    async def _ask_again(self, task: Task, step: NodeInput, number: int, known: int) -> None:
        """Ask a person before a step runs again that may have run already and must not run twice."""
        if not await self.runtime.may_have_run(self.settings.run_id, str(step.step_id), after=known):
            return
        asked = id_of(task.id, "again", str(number))
        found, answer = task.run.answers.take(asked)
        if not found:
            question = "it may have run before its process ended, and is not idempotent; run it again?"
            raise GraphInterrupt(
                Interrupt({"node": step.node_id, "step_id": step.step_id, "question": question}, asked)
            )
        if answer is not True:
            raise GraphError(
                f"node {step.node_id!r} does not run again: the answer was {answer!r}, and only True lets it"
            )

    def _stop(self, task: Task, name: str, outcome: RuntimeOutcome, shape: Shape, which: str) -> BaseException:
        """Return what to raise for a step that did not complete."""
        if isinstance(shape.error, NodeStoppedError):
            return shape.error  # a node of a graph inside, which says more
        if outcome.status is Status.DENIED:
            return NodeDeniedError(name, outcome)
        if outcome.status is Status.PAUSED:
            if task.run.saver is None:
                return NodePausedError(name, outcome)
            task.saved["shape"] = [shape.kind, shape.has_events]
            approval_id = task.saved[f"approval{which}"]
            asked = {"approval_id": approval_id, "node": name, "code": outcome.code, "reason": outcome.reason}
            return GraphInterrupt(Interrupt(asked, str(approval_id)))
        failed = NodeFailedError(name, outcome)
        failed.__cause__ = shape.error
        return failed

    def _reading(self, task: Task) -> TaintLabels | None:
        if task.index is not None:
            return self.provenance.everything()
        return self.provenance.reading(key for key in task.node.schema.keys if key in task.run.values)

    def _note_labels(self, task: Task, outcome: RuntimeOutcome) -> None:
        record = outcome.record
        if self.provenance.base is None and record.origin and record.confidentiality:
            self.provenance.base = TaintLabels.named(record.origin, record.confidentiality, "input")
        labels = self.runtime.labels_of(outcome)
        if labels is not None:
            task.saved["labels"] = labels_to_plain(labels)


def _told(task: Task, shape: Shape, released: Any) -> Any:
    """Emit the events that were released with a node's result, and return the result."""
    if not shape.has_events:
        return released
    try:
        events, result = released["events"], released["result"]
    except (TypeError, KeyError) as error:
        raise GraphError(f"what node {task.node.name!r} told its writer was replaced on its way: {error}") from error
    task.emit_released(events)
    return result


def _read(node: str, kind: str, released: Any) -> Any:
    try:
        return released_output(kind, released)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise GraphError(
            f"what node {node!r} returned was replaced by a {type(released).__name__} on its way through the kernel: "
            f"{error}"
        ) from error
