"""Where a run stands: what each node waits for, has put out, and what was decided. It runs nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from meshflow.facts import TaintLabels
from meshflow.workflow.compiling import type_of
from meshflow.workflow.expressions import EvaluationError
from meshflow.workflow.plain import NOTHING, NotPlainError, Plain, plain
from meshflow.workflow.plan import Plan
from meshflow.workflow.result import NodeStatus
from meshflow.workflow.topology import Arrow

_ANY, _WHOLE, _NUMBER = "any", "whole", "number"


class Trace(NamedTuple):
    """What a value was made of, for its labels: steps of this run, and labels of what was run before it was resumed."""

    reads: tuple[str, ...] = ()
    labels: TaintLabels | None = None

    def join(self, others: Iterable[Trace]) -> Trace:
        """Return a trace that covers all."""
        reads = dict.fromkeys(self.reads)
        labels = self.labels
        for other in others:
            reads.update(dict.fromkeys(other.reads))
            if other.labels is not None:
                labels = other.labels if labels is None else labels.join(other.labels)
        return Trace(tuple(reads), labels)


class Halt(Exception):
    """A node ends without an output, with a status and a code; ``executed`` where it has had its effect anyhow."""

    def __init__(
        self, status: NodeStatus, code: str, reason: str, approvals: tuple[str, ...] = (), node: str = "",
        executed: bool = False,
    ) -> None:  # fmt: skip
        self.status = status
        self.code = code
        self.reason = reason
        self.approvals = approvals
        self.node = node
        self.executed = executed
        super().__init__(f"{code}: {reason}")


def joined(values: Mapping[str, Any]) -> Plain:
    """Return several values as one; EvaluationError where together they are more than a workflow carries."""
    try:
        return plain(values)
    except NotPlainError as error:
        raise EvaluationError("too_large", str(error)) from None


class Cell:
    """One node of a run. ``waits`` counts the arrows that are not decided, ``taken`` says whether one leads here."""

    __slots__ = (
        "approvals", "attempts", "code", "cost_micro_usd", "inner", "reason", "runs", "status", "step_ids", "taken",
        "tokens", "trace", "undone", "value", "waits", "withheld",
    )  # fmt: skip

    def __init__(self, waits: int) -> None:
        self.waits = waits
        self.taken = False
        self.status = NodeStatus.PENDING
        self.code = ""
        self.reason = ""
        self.value: Plain = NOTHING
        self.withheld = ""
        self.trace = Trace()
        self.runs = 0
        self.attempts = 0
        self.cost_micro_usd = 0
        self.tokens = 0
        self.step_ids: list[str] = []
        self.approvals: tuple[str, ...] = ()
        self.undone: NodeStatus | None = None
        self.inner: Callable[[], Mapping[str, Any]] = dict


class Board:
    """All cells of one workflow in one run, its state, and its loops' counts."""

    def __init__(self, plan: Plan, run_id: str, given: Plain, trace: Trace) -> None:
        self.plan = plan
        self.cells = {name: Cell(len(plan.shape.reaching.get(name, ()))) for name in plan.shape.order}
        self.loops: dict[str, int] = {}
        self._given = given
        self._trace = trace
        self._fixed = {"run.id": plain(run_id), "run.workflow": plain(plan.name)}
        self._state = {name: plain(value) for name, value in (plan.document.state or {}).items()}
        self._state_traces: dict[str, Trace] = {}
        self._writers: dict[str, str] = {}

    @property
    def given(self) -> tuple[Plain, Trace]:
        """The workflow's input, and what it was made of."""
        return self._given, self._trace

    def data(self, names: Iterable[str], extra: Mapping[str, Plain] | None = None) -> dict[str, Plain]:
        """Return the variables of an expression; EvaluationError for an output that the ledger no longer holds."""
        found: dict[str, Plain] = {}
        for name in names:
            root, _, rest = name.partition(".")
            if root == "nodes":
                node, _, what = rest.partition(".")
                found[name] = self._of_node(node, what)
            elif root == "state":
                found[name] = self._state[rest]
            elif root == "input":
                found[name] = self._given
            elif extra is not None and name in extra:
                found[name] = extra[name]
            else:
                found[name] = self._fixed[name]
        return found

    def _of_node(self, node: str, what: str) -> Plain:
        cell = self.cells[node]
        if what == "output":
            if cell.withheld:
                raise EvaluationError("output_unavailable", f"the output of {node} {cell.withheld}")
            return cell.value
        return Plain(cell.runs, 1) if what == "runs" else Plain(cell.status.value, 16)

    def trace(self, names: Iterable[str], extra: Trace | None = None) -> Trace:
        """Return what an expression's value is made of. Statuses and counts carry no data."""
        traces: list[Trace] = []
        for name in names:
            root, _, rest = name.partition(".")
            if root == "nodes" and rest.endswith(".output"):
                traces.append(self.cells[rest.partition(".")[0]].trace)
            elif root == "state":
                traces.append(self._state_traces.get(rest, Trace()))
            elif root == "input":
                traces.append(self._trace)
            elif extra is not None and root in ("item", "index", "output"):
                traces.append(extra)
        return Trace().join(traces)

    def default_input(self, node: str) -> tuple[Plain, Trace]:
        """Return what a node is given that names no input: the output of what led to it, or the workflow's input."""
        sources = [arrow.source for arrow in self.plan.shape.reaching.get(node, ())]
        names = [f"nodes.{one}.output" for one in sources if self.cells[one].status is NodeStatus.COMPLETED]
        if not sources:
            return self._given, self._trace
        data = self.data(names)
        trace = self.trace(names)
        if len(sources) == 1:
            return data[names[0]], trace
        return joined({name.split(".")[1]: value.value for name, value in data.items()}), trace

    def begin(self) -> list[str]:
        """Return the nodes to begin with."""
        return list(self.plan.shape.starts)

    def put(self, name: str, value: Plain, trace: Trace, withheld: str = "") -> None:
        """Take a node's output and set its state; Halt where a variable cannot be set."""
        cell = self.cells[name]
        cell.value, cell.trace, cell.withheld = value, trace, withheld
        cell.status = NodeStatus.COMPLETED
        self._set_state(name)

    def follow(self, name: str) -> list[str]:
        """Decide the arrows that leave a node whose output is there, and return the nodes that are ready now.

        Halt where that cannot be decided, or a loop has come to its bound; it names the node that is to blame.
        """
        back = self.plan.shape.back.get(name)
        if back is not None and self._holds(back, name):
            return self._again(name, back)
        ready: list[str] = []
        decided = [{arrow: self._holds(arrow, arrow.target) for arrow in self._leaving(name)}]
        while decided:
            for arrow, taken in decided.pop().items():
                target = self.cells[arrow.target]
                target.waits -= 1
                target.taken = target.taken or taken
                if target.waits:
                    continue
                if target.taken:
                    ready.append(arrow.target)
                else:
                    target.status = NodeStatus.SKIPPED
                    target.value, target.trace = NOTHING, Trace()
                    decided.append(dict.fromkeys(self._leaving(arrow.target), False))
        return ready

    def _leaving(self, name: str) -> tuple[Arrow, ...]:
        return self.plan.shape.leaving.get(name, ())

    def _holds(self, arrow: Arrow, blamed: str) -> bool:
        condition = self.plan.conditions.get(arrow.edge)
        if condition is None:
            return True
        try:
            return condition.truth(self.data(condition.names))
        except EvaluationError as error:
            code = "condition_error" if error.cause == "expression_error" else error.cause
            where = f"the condition of the edge {arrow.source} -> {arrow.target}"
            raise Halt(NodeStatus.FAILED, f"workflow.{code}", f"{where}: {error}", node=blamed) from None

    def _again(self, name: str, back: Arrow) -> list[str]:
        """Take an edge that leads back: everything in the loop is to run once more."""
        count = self.loops.get(name, 0)
        if count >= back.most:
            message = f"the edge {name} -> {back.target} was taken {count} times, its most, and would be taken again"
            raise Halt(NodeStatus.LIMIT_REACHED, "workflow.loop_limit", message, node=name)
        self.loops[name] = count + 1
        body = self.plan.shape.bodies[name]
        for node in body:
            cell = self.cells[node]
            cell.status = NodeStatus.PENDING
            cell.taken = False
            cell.waits = sum(arrow.source in body for arrow in self.plan.shape.reaching.get(node, ()))
            if node != name and node in self.loops and self.plan.shape.bodies[node] <= body:
                self.loops[node] = 0
        return [back.target]

    def _set_state(self, name: str) -> None:
        for variable, template in self.plan.nodes[name].sets.items():
            writer = self._writers.get(variable)
            if writer is not None and writer != name and not self.plan.shape.precedes(writer, name):
                message = f"{name} and {writer} both set state.{variable}, and neither comes before the other"
                raise Halt(NodeStatus.FAILED, "workflow.state_conflict", message, node=name)
            try:
                value = template.render(self.data(template.names))
            except EvaluationError as error:
                message = f"setting state.{variable}: {error}"
                raise Halt(NodeStatus.FAILED, f"workflow.{error.cause}", message, node=name) from None
            kind = self.plan.state[variable]
            found = type_of(value.value)
            if kind not in (_ANY, found) and not (kind == _NUMBER and found == _WHOLE):
                message = f"state.{variable} is a {kind} at first and would become {found}; set it to a {kind}"
                raise Halt(NodeStatus.FAILED, "workflow.state_type", message, node=name)
            if kind == _NUMBER:
                value = Plain(float(value.value), 1)
            self._state_traces[variable] = self.trace(template.names)
            self._state[variable] = value
            self._writers[variable] = name
