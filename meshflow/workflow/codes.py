"""The codes that a run gives itself, beside those that its steps end with."""

from __future__ import annotations

CODES: dict[str, str] = {
    "workflow.budget": "The step would pass limits.cost_usd or limits.tokens of the run.",
    "workflow.cancelled": "Someone asked for the run to be cancelled.",
    "workflow.condition_error": "The condition of an edge has no value for the data it was given; it is never false.",
    "workflow.expression_error": "An expression in an input, in over, in set or in output has no value.",
    "workflow.expression_too_costly": "An expression would do too much work on the data that it was given.",
    "workflow.invalid_input": "What a subgraph is given does not match its JSON Schema.",
    "workflow.loop_limit": "An edge that leads back was taken as often as it may be, and would be taken again.",
    "workflow.max_items": "The list of a map is longer than max_items; none of its items was run.",
    "workflow.max_steps": "The run has taken as many steps as limits.max_steps allows.",
    "workflow.node_timeout": "A map or a subgraph did not end in its timeout_ms.",
    "workflow.not_a_list": "What a map runs over is no list.",
    "workflow.output_not_plain": "The output of a node is not JSON, or more of it than a workflow carries.",
    "workflow.output_unavailable": "A resumed run reads an output that the ledger no longer holds as it was put out.",
    "workflow.run_ended": "The node would have run, and the run ended before.",
    "workflow.state_conflict": "Two nodes set one state variable, and neither comes before the other.",
    "workflow.state_type": "A state variable would become a value of another type than its first.",
    "workflow.timeout": "The run did not end in limits.timeout_ms.",
    "workflow.too_deep": "Workflows run deeper in each other than is allowed.",
    "workflow.too_large": "What a node is given, or the run gives, is together more than a workflow carries.",
    "workflow.undone": "What the run did was undone when it ended, so it is not gone on with.",
}
