"""The control plane: agents, events, approvals, and switches that hold across processes."""

from __future__ import annotations

from meshflow.mesh.events import Event, MeshEvent
from meshflow.mesh.mesh import Mesh

__all__ = ["Event", "Mesh", "MeshEvent"]
