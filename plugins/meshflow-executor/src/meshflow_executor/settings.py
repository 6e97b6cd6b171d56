"""Settings of the executor."""

from __future__ import annotations

from pydantic import Field

from meshflow.plugin import Settings


class Retry(Settings):
    """When a handler that failed is called again. Only read-only and idempotent steps ever are."""

    max_attempts: int = Field(default=1, ge=1, le=100, description="Calls in all; 1 never retries.")
    backoff_ms: int = Field(default=100, ge=0, description="Milliseconds before the second call; doubles each time.")
    max_backoff_ms: int = Field(default=5_000, ge=0, description="Most milliseconds between two calls.")
    jitter: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Share of each wait that is random, so that callers do not come back as one.",
    )
    on: tuple[str, ...] = Field(
        default=(), description="Names of exception classes, bases included, to retry on; empty means every Exception."
    )


class Circuit(Settings):
    """When a tool or node that keeps failing is left alone. Counted by tenant."""

    failures: int = Field(default=5, ge=0, description="Failed executions in a row that open the circuit; 0 never.")
    open_ms: int = Field(default=30_000, ge=1, description="Milliseconds until one execution may try again.")


class ToolLimits(Settings):
    """Limits of one tool, in place of the general ones."""

    timeout_ms: int | None = Field(default=None, ge=1, description="Milliseconds for all tries together.")
    retry: Retry | None = Field(default=None, description="Retry of this tool.")
    circuit: Circuit | None = Field(default=None, description="Circuit of this tool.")
    max_concurrent: int | None = Field(default=None, ge=1, description="Most executions of the tool at once.")


class ExecutorSettings(Settings):
    """Settings of ``plugins.executor``."""

    timeout_ms: int = Field(
        default=60_000,
        ge=1,
        description="Milliseconds for all tries together; a step may ask for less, never for more.",
    )
    grace_ms: int = Field(
        default=500, ge=0, description="Milliseconds that a cancelled handler has to clean up before it is left behind."
    )
    retry: Retry = Field(default_factory=Retry, description="Retry of every tool that has none of its own.")
    circuit: Circuit = Field(default_factory=Circuit, description="Circuit of every tool and node.")
    max_concurrent: int | None = Field(default=None, ge=1, description="Most executions of each tool at once.")
    workers: int = Field(default=32, ge=1, le=1_000, description="Threads for handlers that are not async.")
    max_stuck_workers: int = Field(
        default=32, ge=0, le=1_000, description="Threads that may hang past their time and be replaced."
    )
    shutdown_ms: int = Field(default=5_000, ge=0, description="Milliseconds that running handlers get at shutdown.")
    tools: dict[str, ToolLimits] = Field(default_factory=dict, description="Limits by tool name.")
