"""Whether a step may be done a second time: what a file says of it, and what the operator declares of its tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from meshflow.config.source import shown

if TYPE_CHECKING:
    from meshflow.kernel.runtime import StepRuntime
    from meshflow.workflow.spec.nodes import Retry, Tier

_READ_ONLY = "read_only"


class Repeated(Protocol):
    """What of a node, or of a compensation, bears on it."""

    @property
    def idempotent(self) -> bool | None:
        """Whether doing it twice is as good as once."""

    @property
    def risk(self) -> Tier | None:
        """The tier that the file gives it."""

    @property
    def retry(self) -> Retry | None:
        """When it is tried again."""


def repeatable(spec: Repeated, tool: str | None, runtime: StepRuntime) -> bool:
    """Return whether a step whose first attempt may have had its effect may be done again without asking.

    The file speaks for what nobody has declared. What ``tools`` in meshflow.yaml declares of a tool holds against it.
    """
    declared = _declared(tool, runtime)
    if declared.get("idempotent") is False:
        return False
    if spec.idempotent or declared.get("idempotent") is True:
        return True
    return spec.risk == _READ_ONLY and declared.get("risk", _READ_ONLY) == _READ_ONLY


def contradiction(spec: Repeated, tool: str | None, runtime: StepRuntime) -> str:
    """Return where a file says of a tool what the operator's declaration denies, or nothing."""
    declared = _declared(tool, runtime)
    if spec.idempotent and declared.get("idempotent") is False:
        return f"says idempotent: true, and tools.tools.{tool} declares that it is not; remove it"
    if spec.retry is not None and spec.retry.max_attempts > 1 and not repeatable(spec, tool, runtime):
        risk = shown(str(declared.get("risk")))
        return f"is tried again because it says risk: read_only, and tools.tools.{tool} declares {risk}; remove retry"
    return ""


def _declared(tool: str | None, runtime: StepRuntime) -> Mapping[str, Any]:
    """Return what meshflow.yaml declares of a tool, as it stands there."""
    section: Any = runtime.config.sections.get("tools") if tool else None
    tools = section.get("tools") if isinstance(section, Mapping) else None
    found = tools.get(tool) if isinstance(tools, Mapping) else None
    return found if isinstance(found, Mapping) else {}
