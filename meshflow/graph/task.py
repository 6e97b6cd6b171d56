"""One node's turn in a superstep: call it, read what it returned, ask its routers, notice how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from meshflow.graph.copying import Isolated, copied
from meshflow.graph.errors import GraphError, GraphInterrupt, InvalidRunError, ParentCommand, RouteError
from meshflow.graph.markers import Command, Interrupt
from meshflow.graph.nodes import Node, Router
from meshflow.graph.output import Output, Update, read_output, read_route
from meshflow.graph.records import question_id
from meshflow.ids import id_of

if TYPE_CHECKING:
    from meshflow.graph.host import Host
    from meshflow.graph.run import Run

_CURRENT: ContextVar[Task | None] = ContextVar("meshflow_current_task", default=None)


def current_task() -> Task | None:
    """Return the task whose node is running, or None outside of one."""
    return _CURRENT.get()


@dataclass(frozen=True, slots=True)
class NodeRun:
    """What a node may know of its own run: take it as a parameter named ``run`` or ``runtime``.

    ``idempotency_key`` is the same for every try of this node at this place, also after a crash: hand it to services
    that deduplicate. ``remaining_steps`` counts the supersteps that the recursion limit leaves after this one.
    """

    node: str
    step: int
    attempt: int
    run_id: str
    thread_id: str | None
    task_id: str
    idempotency_key: str
    remaining_steps: int
    context: Any
    config: Mapping[str, Any]
    stream_writer: Callable[[Any], None]


class Task:
    """One run of one node, for the state (``index`` None) or for a Send's own argument."""

    __slots__ = (
        "alone", "answers", "arg", "asked", "attempt", "cached", "error", "held", "index", "interrupts", "node",
        "output", "parent_command", "resuming", "retrying", "routed", "run", "saved", "stopped", "subgraphs",
    )  # fmt: skip

    def __init__(self, run: Run, node: Node, arg: Any, index: int | None, alone: bool) -> None:
        self.run = run
        self.node = node
        self.arg = arg
        self.index = index
        self.alone = alone
        self.output: Output | None = None
        self.routed = 0
        self.error: BaseException | None = None
        self.interrupts: tuple[Interrupt, ...] = ()
        self.parent_command: Command[Any] | None = None
        self.attempt = 1
        self.cached = False
        self.asked = 0
        self.answers: list[Any] = []
        self.resuming = False
        self.retrying = False
        self.stopped = False
        self.held: list[Any] = []
        self.saved: dict[str, Any] = {}
        self.subgraphs = 0

    @property
    def id(self) -> str:
        """The same for every try of this node at this place, and no other's."""
        run = self.run
        return id_of(*run.namespace, run.anchor, str(run.step), self.node.name, str(self.index))

    @property
    def step_id(self) -> str:
        """The id of the node's step, for people and for the ledger."""
        return f"{self.run.step + 1:04d}-{self.node.name}-{self.id[:16]}"

    @property
    def updates(self) -> Sequence[Update]:
        """What the node has written, none as long as it has not ended."""
        return self.output.updates if self.output is not None else ()

    @property
    def finished(self) -> bool:
        """Whether the node and its routers are done and nothing else stands in the way."""
        return (
            self.output is not None
            and self.routed == len(self.node.routers)
            and self.error is None
            and not self.stopped
            and self.parent_command is None
        )

    def shown(self) -> Any:
        """Return the input as events show it: what the node is handed, to be copied."""
        return self.arg if self.index is not None else self.node.read(self.run.values)

    def given(self) -> Any:
        """Return the node's input: shared with the state if it runs alone, its own copy otherwise.

        A node that may be tried again gets its own copy too, or a second try would see what the first one changed.
        """
        node = self.node
        own = not self.alone or bool(node.retry)
        if self.index is not None:
            return copied(self.arg) if own else self.arg
        if not own:
            return node.read(self.run.values)
        return self._isolated(node.schema, self.run.values)

    def _isolated(self, schema: Any, values: Mapping[str, Any]) -> Any:
        own = Isolated({key: values[key] for key in schema.keys if key in values})
        return own if schema.make is None else schema.make(**own)

    async def perform(self, host: Host) -> None:
        """Run the node and its routers, or what is left of them; never raises for what their code raises."""
        token = _CURRENT.set(self)
        try:
            if self.output is None:
                run = self.run
                try:
                    value = await (self._ungoverned(host) if run.governor is None else run.governor.node(self, host))
                except ParentCommand as from_below:
                    value = replace(from_below.command, graph=None)
                self.output = read_output(self.node.name, value, run.graph.channels, run.graph.nodes)
            if self.routed < len(self.node.routers):
                await self._route(host)
        except GraphInterrupt as stop:
            self.interrupts, self.stopped = stop.interrupts, True
        except ParentCommand as up:
            if self.run.nested_in is None:
                self.error = RouteError(f"node {self.node.name!r} addresses the graph around this one; there is none")
            else:
                self.parent_command = up.command
        except Exception as error:  # a node's code may raise anything; its siblings go on, and the run raises it then
            self.error = error
        finally:
            _CURRENT.reset(token)

    async def _ungoverned(self, host: Host) -> Any:
        node = self.node
        if not node.retry:
            return await self.call(host)
        while True:
            try:
                return await self.call(host)
            except Exception as error:
                policy = next((one for one in node.retry if one.covers(error)), None)
                if policy is None or self.attempt >= policy.max_attempts:
                    raise
                await host.sleep(policy.wait_s(self.attempt))
                self.attempt += 1
                self.again()

    def again(self) -> None:
        """Get ready for another try, which meets the same questions and the same graphs inside in the same order."""
        self.asked = self.subgraphs = 0
        self.retrying = True

    async def call(self, host: Host) -> Any:
        """Call the node once, or take its result from the cache."""
        node = self.node
        given = self.given()
        if node.cache is None:
            return await self.invoke(host, given)
        cache = self.run.graph.cache
        key = cache.key(node, given, self.run.cache_scope)
        found = cache.get(key)
        if found is not None:
            self.cached = True
            return copied(found[0])
        value = await self.invoke(host, given)
        cache.put(key, copied(value), node.cache.ttl_s)
        return value

    async def invoke(self, host: Host, given: Any) -> Any:
        """Call the node's function."""
        node = self.node
        if node.is_graph:
            return await self.run.nested(self, node.function, given, host)
        more = self.injected(node.wants) if node.wants else {}
        if node.is_async:
            if node.timeout_s is None:
                return await node.function(given, **more)
            async with asyncio.timeout(node.timeout_s):
                return await node.function(given, **more)
        return await host.call(node.function, given, more)

    def injected(self, wants: tuple[str, ...]) -> dict[str, Any]:
        """Return the arguments that a function takes by their names."""
        found: dict[str, Any] = {}
        for name in wants:
            if name == "config":
                found[name] = self.run.settings.config_for(self)
            elif name == "writer":
                found[name] = self.write
            elif name == "context":
                found[name] = self.run.settings.context
            else:
                found[name] = self.node_run()
        return found

    def node_run(self) -> NodeRun:
        """Return what the node may know of its run."""
        run, task_id = self.run, self.id
        return NodeRun(
            node=self.node.name,
            step=run.step,
            attempt=self.attempt,
            run_id=run.settings.run_id,
            thread_id=run.settings.thread_id,
            task_id=task_id,
            idempotency_key=f"{run.settings.run_id}:{self.step_id}",
            remaining_steps=run.steps_left,
            context=run.settings.context,
            config=run.settings.config_for(self),
            stream_writer=self.write,
        )

    def write(self, data: Any) -> None:
        """Emit a custom event; one of a governed node waits until the kernel has released the node's step."""
        run = self.run
        if run.governor is not None:
            self.held.append(data)
        elif "custom" in run.sink.modes:
            run.sink.emit(run.namespace, "custom", data)

    def emit_released(self, events: Sequence[Any]) -> None:
        """Emit events as the kernel has released them."""
        run = self.run
        if "custom" in run.sink.modes:
            for event in events:
                run.sink.emit(run.namespace, "custom", event)

    async def _route(self, host: Host) -> None:
        run, node, output = self.run, self.node, self.output
        assert output is not None  # noqa: S101 - the node has run
        view = run.seen_by_routers(self)
        for router in node.routers[self.routed :]:
            given = router.schema.read(view, every=False) if self.alone else self._isolated(router.schema, view)
            if run.governor is None:
                answer = await self.ask(host, router, given)
            else:
                answer = await run.governor.router(self, host, router, given)
            read_route(node.name, router, answer, run.graph.nodes, output)
            self.routed += 1

    async def ask(self, host: Host, router: Router, given: Any) -> Any:
        """Call a router."""
        more = self.injected(router.wants) if router.wants else {}
        if router.is_async:
            return await router.function(given, **more)
        return await host.call(router.function, given, more)

    def answer(self, value: Any) -> Any:
        """Return the answer to the node's next question, or leave the node until there is one."""
        index = self.asked
        self.asked += 1
        if index < len(self.answers):
            return self.answers[index]
        run = self.run
        if run.saver is None:
            raise InvalidRunError(
                f"node {self.node.name!r} called interrupt(), and nothing keeps the run until somebody answers; "
                "compile with a checkpointer"
            )
        asked = Interrupt(value, question_id(self.id, index))
        found, answer = run.answers.take(asked.id)
        if not found:
            raise GraphInterrupt(asked)
        self.answers.append(answer)
        return answer


class Answers:
    """What a caller handed in to resume a run, by the ids of the questions."""

    __slots__ = ("by_id",)

    def __init__(self) -> None:
        self.by_id: dict[str, Any] = {}

    def take(self, interrupt_id: str) -> tuple[bool, Any]:
        """Return whether there is an answer to this question, and the answer."""
        return interrupt_id in self.by_id, self.by_id.get(interrupt_id)


def failure_of(tasks: Sequence[Task]) -> BaseException | None:
    """Return what a task raised, with a note of where. Siblings are cancelled for it, so it is no cancellation."""
    errors = [task for task in tasks if task.error is not None]
    if not errors:
        return None
    first = next((task for task in errors if not isinstance(task.error, asyncio.CancelledError)), errors[0])
    error = first.error
    if error is not None and not any("in node " in note for note in getattr(error, "__notes__", ())):
        error.add_note(f"in node {first.node.name!r}, superstep {first.run.step + 1}")
    return error


def interrupt(value: Any) -> Any:
    """Ask the caller of the graph, and return the answer.

    The first time this leaves the node, and ``invoke`` returns with the question under ``__interrupt__``. When the
    caller resumes the thread with ``Command(resume=answer)`` the node runs again from its beginning and gets the
    answer here. Several calls in one node are matched with their answers by their order.
    """
    task = _CURRENT.get()
    if task is None:
        raise GraphError("interrupt() works inside a node of a running graph, in the thread or task that runs the node")
    return task.answer(value)


def get_stream_writer() -> Callable[[Any], None]:
    """Return the function that emits custom events of the running node."""
    task = _CURRENT.get()
    if task is None:
        raise GraphError("get_stream_writer() works inside a node of a running graph")
    return task.write


def get_config() -> Mapping[str, Any]:
    """Return the config of the run whose node is running."""
    task = _CURRENT.get()
    if task is None:
        raise GraphError("get_config() works inside a node of a running graph")
    return task.run.settings.config_for(task)
