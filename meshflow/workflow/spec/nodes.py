"""The kinds of nodes and what may be set for each."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import Field

from meshflow.workflow.spec.base import (
    AnswerTokens,
    AtOnce,
    Attempts,
    Milliseconds,
    Name,
    Names,
    Part,
    Rounds,
    Share,
    Tokens,
    Usd,
)

Tier = Literal["read_only", "internal", "external_io", "irreversible"]
OriginName = Literal["trusted", "user", "tool", "external"]
ConfidentialityName = Literal["public", "internal", "tenant", "personal", "secret"]


class Retry(Part):
    """When a node that failed is tried again. What was denied never is."""

    max_attempts: Attempts = Field(
        3, description="Attempts in all; each is a step of its own with the same idempotency key."
    )
    backoff_ms: Milliseconds = Field(200, description="Milliseconds before the second attempt; doubles each time.")
    max_backoff_ms: Milliseconds = Field(30_000, description="Most milliseconds between two attempts.")
    jitter: Share = Field(0.5, description="Share of each wait that is random, so that callers do not come as one.")
    codes: Names | None = Field(None, description="Codes of failures to try again after; without it every failure.")


class Labels(Part):
    """Labels that the node's input carries at least, whatever it reads."""

    origin: OriginName = Field("trusted", description="Where the input came from.")
    confidentiality: ConfidentialityName = Field("public", description="Who may see the input.")


class Node(Part):
    """What may be set for every node."""

    step_kind: ClassVar[str] = "function"

    description: str = Field("", description="What the node is for; shown in drawings.")
    input: Any = Field(
        None,
        description="What the node is given: data in which ${{ }} holds expressions. Without it the output of the node "
        "before it, by name where there are several, or the workflow's input where there is none.",
    )
    needs_approval: bool = Field(False, description="Whether a person must approve the step before it runs.")
    action: Name | None = Field(None, description="What the step does, for policies and risk: a verb such as send.")
    risk: Tier | None = Field(None, description="Least risk tier of the step; a declared one is never lowered.")
    idempotent: bool | None = Field(None, description="Whether doing it twice is as good as doing it once.")
    estimate_usd: Usd | None = Field(None, description="Most that the step may cost; reserved before it runs.")
    estimate_tokens: Tokens | None = Field(None, description="Most tokens that the step may use.")
    timeout_ms: Milliseconds | None = Field(None, description="Milliseconds for one attempt.")
    retry: Retry | None = Field(None, description="When a failed attempt is followed by another.")
    labels: Labels | None = Field(None, description="Labels that the input carries at least.")
    agent_id: Name | None = Field(None, description="Who acts; without it the agent of the run.")
    runtime: Name | None = Field(
        None,
        description="Which of the runtimes given in code governs the node too: its policy, budgets and profiles hold "
        "beside those of the run.",
    )
    profiles: Names | None = Field(
        None, description="Compliance profiles without which the node may not run; checked before the run begins."
    )
    set: dict[str, Any] | None = Field(
        None, description="State that the node leaves behind: a variable and what it becomes, when the node completes."
    )
    compensate: CompensationNode | None = Field(
        None, description="What undoes the node when the run fails after it; the newest is undone first."
    )


class TransformNode(Node):
    """Shapes data: its output is its input."""

    kind: Literal["transform"]


class PythonNode(Node):
    """Calls a function that code registered, or that an installed package offers as an entry point."""

    kind: Literal["python"]
    call: Name | None = Field(None, description="Name of the function.")
    import_: Name | None = Field(
        None, alias="import", description="package.module:function; refused unless imports are allowed in code."
    )


class ToolNode(Node):
    """Calls a tool that code registered; its input is the mapping of its arguments."""

    step_kind = "tool"
    kind: Literal["tool"]
    tool: Name = Field(description="Name of the tool, for its declaration in meshflow.yaml, policies and records.")


class AgentNode(Node):
    """Runs an agent that code registered; each of its model and tool calls is a governed step too."""

    step_kind = "agent"
    kind: Literal["agent"]
    agent: Name = Field(description="Name of the agent.")


class ModelNode(Node):
    """Asks a model; its input is the prompt."""

    step_kind = "model"
    kind: Literal["model"]
    model: Name = Field(
        description="Name under which code registered it, or a model of pydantic-ai such as openai:gpt-5; test is one "
        "that asks nobody."
    )
    instructions: str | None = Field(
        None, min_length=1, description="What the model is told before the prompt; ${{ }} puts data into it."
    )
    max_tokens: AnswerTokens = Field(4_096, description="Most tokens of the answer; an answer that is cut off fails.")


class HttpNode(Node):
    """Sends one request to a host that code or the command line allows; its input is the body."""

    step_kind = "http"
    kind: Literal["http"]
    url: str = Field(
        min_length=1,
        description="Address, with ${{ }} for parts of path and query, percent-encoded; not for the host.",
    )
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = Field("GET", description="Method.")
    headers: dict[str, str] | None = Field(
        None, description="Headers; ${{ }} is allowed in their values. What is secret is given in code."
    )
    tool: Name = Field("http", description="Name under which policies and tool declarations know the call.")


class McpNode(Node):
    """Calls a tool of an MCP server that code registered; its input is the mapping of its arguments."""

    step_kind = "mcp"
    kind: Literal["mcp"]
    server: Name = Field(description="Name of the server, as it was registered.")
    tool: Name = Field(description="Name of the tool on that server.")


class HumanNode(Node):
    """Asks a person: the run pauses here until someone approves or denies."""

    step_kind = "human"
    kind: Literal["human"]
    ask: str = Field(min_length=1, description="The question; ${{ }} puts data into it.")


class SubgraphNode(Node):
    """Runs another workflow as one node; its input is that workflow's input."""

    step_kind = "subgraph"
    kind: Literal["subgraph"]
    workflow: Any = Field(None, description="The workflow, written out in place.")
    ref: Name | None = Field(None, description="Name of a workflow that code registered.")


class MapNode(Node):
    """Runs one node for each item of a list, several at a time; its output is the list of theirs, in order."""

    kind: Literal["map"]
    over: Any = Field(description="The list, or the expression that gives it.")
    do: Any = Field(
        description="The node; ${{ item }} is one item and its input without another, ${{ index }} its place."
    )
    concurrency: AtOnce = Field(8, description="Most items at once.")
    max_items: Rounds = Field(1_000, description="A longer list fails the node before its first item.")


class CompensationNode(Part):
    """A call that undoes: a node of kind python or tool in short."""

    kind: Literal["python", "tool"]
    call: Name | None = Field(None, description="Name of the function, for kind python.")
    tool: Name | None = Field(None, description="Name of the tool, for kind tool.")
    input: Any = Field(
        None,
        description="What it is given: data in which ${{ }} holds expressions, and ${{ output }} is what the node put "
        "out. Made when the node completes; without it that output.",
    )
    action: Name | None = Field(None, description="What the step does, for policies and risk.")
    risk: Tier | None = Field(None, description="Least risk tier of the step.")
    idempotent: bool | None = Field(None, description="Whether undoing twice is as good as once.")
    timeout_ms: Milliseconds | None = Field(None, description="Milliseconds for one attempt.")
    retry: Retry | None = Field(None, description="When a failed attempt is followed by another.")


Node.model_rebuild()

AnyNode: TypeAlias = (
    TransformNode
    | PythonNode
    | ToolNode
    | AgentNode
    | ModelNode
    | HttpNode
    | McpNode
    | HumanNode
    | SubgraphNode
    | MapNode
)
NODE_TYPES: dict[str, type[Node]] = {
    "transform": TransformNode, "python": PythonNode, "tool": ToolNode, "agent": AgentNode, "model": ModelNode,
    "http": HttpNode, "mcp": McpNode, "human": HumanNode, "subgraph": SubgraphNode, "map": MapNode,
}  # fmt: skip
