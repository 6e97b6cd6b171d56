"""Which limits apply to a step, and under which key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from meshflow.plugin import StepContext
from meshflow_limits.settings import Match

Key = tuple[str | tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Scope:
    """The dimensions of one step that limits are kept by; None where no stage said."""

    tenant: str | None
    agent: str | None
    tool: str | None
    run: tuple[str, ...]
    principal: tuple[str, ...] | None

    @classmethod
    def of(cls, context: StepContext) -> Scope:
        """Return the dimensions of a step."""
        tenant, who = context.tenant_id, context.principal
        # A run belongs to a tenant: another tenant's run of the same name must not spend its budget.
        run = (tenant or "", context.run_id)
        if who is None:
            return cls(tenant, None, context.step.tool, run, None)
        return cls(tenant, who.agent_id, context.step.tool, run, (who.issuer, who.subject))


class Matcher:
    """Says whether a step fits a ``match`` setting and ``per: [tool]``."""

    __slots__ = ("_agent", "_all", "_tenant", "_tool", "_tool_needed")

    def __init__(self, match: Match, per: tuple[str, ...]) -> None:
        self._tool, self._tenant, self._agent = _Names(match.tool), _Names(match.tenant), _Names(match.agent)
        self._tool_needed = "tool" in per
        self._all = not self._tool_needed and match == Match()

    def fits(self, scope: Scope) -> bool:
        """Return whether the limit applies; a dimension that nobody named fits, so that the limit can refuse it."""
        if self._all:
            return True
        if scope.tool is None and (self._tool_needed or self._tool.listed):
            return False
        return self._tool.fit(scope.tool) and self._tenant.fit(scope.tenant) and self._agent.fit(scope.agent)


class _Names:
    __slots__ = ("_exact", "_prefixes", "listed")

    def __init__(self, names: tuple[str, ...] | None) -> None:
        self.listed = names is not None
        self._exact = frozenset(names or ())
        self._prefixes = tuple(name[:-1] for name in names or () if name.endswith("*"))

    def fit(self, name: str | None) -> bool:
        return not self.listed or name is None or name in self._exact or name.startswith(self._prefixes)


class Scoped(Protocol):
    """What a rate rule and a cap have in common."""

    @property
    def name(self) -> str: ...

    @property
    def per(self) -> tuple[str, ...]: ...

    @property
    def matcher(self) -> Matcher: ...


class UnscopedError(Exception):
    """A limit is kept by a dimension that no earlier stage has named."""

    def __init__(self, limit: str, dimension: str) -> None:
        self.limit, self.dimension = limit, dimension
        super().__init__(f"limit {limit!r} is kept by {dimension}, which no earlier stage has named")


def key_of(limit: Scoped, scope: Scope) -> Key:
    """Return the step's key under a limit; raise UnscopedError where a dimension is missing."""
    parts: list[str | tuple[str, ...]] = []
    for dimension in limit.per:
        part = getattr(scope, dimension)
        if part is None:
            raise UnscopedError(limit.name, dimension)
        parts.append(part)
    return tuple(parts)
