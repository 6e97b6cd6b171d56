"""What a graph raises: when it is built, when it is run, and when a node asks for something by raising."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshflow.errors import MeshflowError, StepDeniedError

if TYPE_CHECKING:
    from meshflow.graph.markers import Command, Interrupt
    from meshflow.record import RuntimeOutcome


class GraphError(MeshflowError):
    """A graph is built or used wrongly; the application's author mends it."""


class InvalidGraphError(GraphError, ValueError):
    """A graph cannot be compiled; ``node`` names the node at fault, where one is."""

    def __init__(self, message: str, node: str = "") -> None:
        self.node = node
        super().__init__(message)


class InvalidUpdateError(GraphError, ValueError):
    """A node, a caller or a reducer gave the state what it cannot take; ``key`` names the state's key, where one is."""

    def __init__(self, message: str, *, node: str = "", key: str = "") -> None:
        self.node = node
        self.key = key
        super().__init__(message)


class RouteError(GraphError, ValueError):
    """A router, a ``goto`` or a ``Send`` names a node that is not there."""


class InvalidRunError(GraphError, ValueError):
    """A run lacks something or contradicts itself: a thread, a checkpointer, an input, an answer."""


class GraphRecursionError(GraphError, RecursionError):
    """A run took as many supersteps as ``recursion_limit`` allows and was not done."""


class NodeStoppedError(GraphError, StepDeniedError):
    """A governed node did not complete; ``outcome`` is the kernel's, ``node`` the node's name."""

    outcome: RuntimeOutcome

    def __init__(self, node: str, outcome: RuntimeOutcome) -> None:
        self.node = node
        self.outcome = outcome
        super(StepDeniedError, self).__init__(
            f"node {node!r} was {outcome.status.value}: {outcome.code}: {outcome.reason}"
        )


class NodeDeniedError(NodeStoppedError):
    """A gate refused the node. Its handler did not run, or its output was withheld."""


class NodePausedError(NodeStoppedError):
    """A node waits for a person's approval, and no checkpointer keeps the run until then."""


class NodeFailedError(NodeStoppedError):
    """A node ran and failed, or could not be recorded. The node's own exception, if there is one, is the cause."""


class UnreachableNodeWarning(UserWarning):
    """No edge, router or declared destination leads to a node."""


class GraphInterrupt(BaseException):
    """Raised by ``interrupt`` to leave the node. Not an Exception: a node's own ``except Exception`` lets it pass."""

    def __init__(self, *interrupts: Interrupt) -> None:
        self.interrupts = interrupts
        super().__init__(*interrupts)


class ParentCommand(BaseException):
    """Carries a subgraph's ``Command(graph=Command.PARENT)`` to the graph around it."""

    def __init__(self, command: Command[Any]) -> None:
        self.command = command
        super().__init__(command)


def did_you_mean(name: str, known: Any) -> str:
    """Return a hint with the nearest known name, or nothing."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
