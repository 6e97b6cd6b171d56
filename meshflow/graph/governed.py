"""What takes nodes and routers through the kernel instead of calling them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from meshflow.graph.host import Host
    from meshflow.graph.nodes import Node, Router
    from meshflow.graph.run import Run
    from meshflow.graph.task import Task


class Governor(Protocol):
    """Runs each node and router of a run as a step."""

    async def node(self, task: Task, host: Host) -> Any:
        """Run a node and return what it returned, as far as it was released."""
        ...

    async def router(self, task: Task, host: Host, router: Router, given: Any) -> Any:
        """Ask a router and return its answer."""
        ...

    async def update(self, run: Run, node: Node, values: Any) -> Any:
        """Take a change from outside, as if ``node`` had returned it."""
        ...
