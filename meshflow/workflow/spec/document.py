"""The file as a whole: its nodes, its edges and its limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from meshflow.workflow.spec.base import AtOnce, Condition, Count, Milliseconds, Name, Names, Part, Rounds, Tokens, Usd


class Loop(Part):
    """An edge that leads back."""

    max: Rounds = Field(description="Most times that the edge is taken; one more would end the run as limit_reached.")


class Edge(Part):
    """What comes after what, and under which condition."""

    source: Names = Field(alias="from", description="The node, or the nodes, that the edge leads from.")
    target: Names = Field(alias="to", description="The node, or the nodes, that the edge leads to.")
    when: Condition | None = Field(None, description="Condition in CEL; without it the edge is always taken.")
    loop: Loop | None = Field(None, description="Marks an edge that leads back, and bounds it.")


class Input(Part):
    """What the workflow takes."""

    schema_: Any = Field(None, alias="schema", description="JSON Schema of the input; it is checked before the run.")


class Limits(Part):
    """What a run may use."""

    timeout_ms: Milliseconds | None = Field(None, description="Milliseconds for the whole run.")
    concurrency: AtOnce = Field(16, description="Most steps at once.")
    max_steps: Count = Field(100_000, description="Most steps in all, attempts and items included.")
    cost_usd: Usd | None = Field(None, description="Most that the run may cost; estimates count until costs are known.")
    tokens: Tokens | None = Field(None, description="Most tokens that the run may use.")


def _version(value: object) -> object:
    if isinstance(value, bool | float):
        raise ValueError("should be 1")
    return 1 if value == "1" else value


def _present(value: object) -> object:
    return () if value is None else value


class Document(Part):
    """A workflow file. Nodes are checked one by one, each as its kind."""

    version: Annotated[Literal[1], BeforeValidator(_version)] = Field(1, description="Version of this format.")
    name: Name = Field("workflow", description="Name of the workflow, in records and drawings.")
    description: str = Field("", description="What it is for.")
    input: Input | None = Field(None, description="What the workflow takes.")
    state: dict[str, Any] | None = Field(
        None, description="Variables and what they are at first; nodes change them with set."
    )
    limits: Limits | None = Field(None, description="What a run may use.")
    start: Names | None = Field(None, description="Nodes to begin with; without it all that no edge leads to.")
    nodes: dict[str, Any] = Field(description="The nodes by name.")
    edges: Annotated[tuple[Edge, ...], BeforeValidator(_present), Field(strict=False)] = Field(
        (), description="The edges, each a mapping or a chain such as a -> b -> c."
    )
    output: Any = Field(
        None, description="What the run gives: data with ${{ }}. Without it the output of the last node, or of each."
    )
