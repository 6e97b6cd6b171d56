"""An OPA server as policy engine."""

from meshflow.policy.opa.engine import OpaEngine
from meshflow.policy.opa.server import OpaServer

__all__ = ["OpaEngine", "OpaServer"]
