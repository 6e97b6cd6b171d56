"""What a workflow file may hold."""

from meshflow.workflow.spec.document import Document, Edge, Limits, Loop
from meshflow.workflow.spec.nodes import NODE_TYPES, Node

__all__ = ["NODE_TYPES", "Document", "Edge", "Limits", "Loop", "Node"]
