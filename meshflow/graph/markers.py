"""The small values that graphs are written with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Generic, TypeVar, overload

from meshflow.graph.errors import InvalidGraphError

F = TypeVar("F", bound=Callable[..., Any])
N = TypeVar("N")

START: Final = "__start__"
END: Final = "__end__"
RESERVED = frozenset({START, END, "__parent__", "__interrupt__", "__metadata__"})


@dataclass(frozen=True, slots=True)
class Send:
    """Run ``node`` in the next superstep with ``arg`` instead of the state; once for each Send."""

    node: str
    arg: Any = None


@dataclass(frozen=True, slots=True)
class Command(Generic[N]):
    """What a node returns to update the state and say where to go, or a caller hands in to resume a run.

    ``goto`` is a node's name, a ``Send``, or a sequence of them, and comes on top of the node's edges. ``resume``
    answers an interrupt: a value, or a mapping from interrupt ids to values. ``graph=Command.PARENT`` addresses the
    graph around a subgraph.
    """

    PARENT: ClassVar[str] = "__parent__"

    update: Any = None
    goto: str | Send | Sequence[str | Send] = ()
    resume: Any = None
    graph: str | None = None


@dataclass(frozen=True, slots=True)
class Overwrite:
    """Put ``value`` in place of a key's value, past its reducer; once a superstep."""

    value: Any


@dataclass(frozen=True, slots=True)
class Interrupt:
    """A question that a node waits on: what it asks, and the id that an answer may name."""

    value: Any
    id: str = ""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What ``@node`` says of a function. ``step`` holds fields of NodeInput for a governed run."""

    name: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)


NODE_ARGUMENTS = ("retry", "cache", "timeout_s", "defer", "destinations", "input_schema", "metadata")
STEP_ARGUMENTS = (
    "kind", "tool", "action", "agent_id", "estimate_usd", "estimate_tokens", "risk", "idempotent", "labels",
)  # fmt: skip


@overload
def node(function: F, /, *, name: str | None = None, **options: Any) -> F: ...
@overload
def node(function: None = None, /, *, name: str | None = None, **options: Any) -> Callable[[F], F]: ...
def node(function: F | None = None, /, *, name: str | None = None, **options: Any) -> F | Callable[[F], F]:
    """Mark a function as a node and note its options; the function itself stays as it is.

    Options are those of ``StateGraph.add_node``, where they win over these.
    """
    check_options(options, "@node")

    def mark(marked: F) -> F:
        marked.__meshflow_node__ = NodeOptions(name, options)  # type: ignore[attr-defined]
        return marked

    return mark if function is None else mark(function)


def check_options(options: Mapping[str, Any], where: str) -> None:
    """Refuse an option that nothing reads."""
    unknown = sorted(set(options) - {*NODE_ARGUMENTS, *STEP_ARGUMENTS})
    if unknown:
        known = [*NODE_ARGUMENTS, *STEP_ARGUMENTS]
        raise InvalidGraphError(f"{where} does not know the options {unknown}; choose among {known}")
