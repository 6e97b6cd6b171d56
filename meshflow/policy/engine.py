"""The contract of policy engines: one question, one answer or one failure, whatever evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NOTHING


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """The rule of a bundle that answers at one stage."""

    stage: str
    rule: str


POLICY = EntryPoint("policy_evaluation", "data.meshflow.policy.decision")
COMPLIANCE = EntryPoint("compliance_profile", "data.meshflow.compliance.decision")
TOOLS = EntryPoint("tool_permission", "data.meshflow.tools.decision")
OUTPUT = EntryPoint("output_guardrails", "data.meshflow.output.decision")
ENTRY_POINTS: tuple[EntryPoint, ...] = (POLICY, COMPLIANCE, TOOLS, OUTPUT)

ENGINES = ("regorus", "opa", "golib")
"""What may evaluate: in process; an OPA server; OPA's own evaluator in process."""

MAX_INPUT_BYTES = 1 << 20
"""How large the decision document may be, unless a setting says otherwise."""

CAUSES: Mapping[str, str] = MappingProxyType(
    {
        "undefined": "The bundle has the entry point, but no rule of it gives an answer for this step.",
        "conflict": "Two rules of the bundle give different answers where there may be one.",
        "not_boolean": "The answer's allow or escalate is neither true nor false.",
        "malformed_answer": "The answer is not the documented object; an unknown key counts.",
        "builtin_missing": "A rule calls a function that the engine does not have.",
        "engine_error": "The engine failed while it evaluated, on a built-in's error for instance.",
        "engine_crashed": "The engine crashed while it evaluated; it was rebuilt for the next step.",
        "unencodable_input": "The step holds a value that has no JSON form, such as a NaN, a set or bytes.",
        "input_too_large": "The decision document is larger than the plugin's max_input_bytes.",
        "overloaded": "More steps wait for the engine than it accepts.",
        "engine_forked": "The process was forked after the engine had been used, which it does not survive.",
        "server_unreachable": "The OPA server could not be reached.",
        "server_timeout": "The OPA server did not answer within the plugin's server.timeout_ms.",
        "server_untrusted": "The OPA server's certificate is not one that the settings trust.",
        "server_unauthorized": "The OPA server refused the token or the client's certificate.",
        "server_error": "The OPA server answered with an error of its own.",
        "server_cut_off": "The OPA server closed the connection before its answer was whole.",
        "server_nonsense": "What answered is no OPA server, or its answer is too large.",
        "server_bundle": "The OPA server does not hold the bundle that this runtime was compiled with.",
    }
)
"""Why an engine gives no answer. Each denies, under ``<stage>.<cause>``."""

NOT_OF_THE_BUNDLE = frozenset({
    "unencodable_input", "input_too_large", "overloaded", "engine_forked",
    *(cause for cause in CAUSES if cause.startswith("server_")),
})  # fmt: skip
"""Those that say nothing about the bundle: no other one would have answered either."""


@dataclass(frozen=True, slots=True)
class PolicyReason:
    """One rule's say: its stable code, a sentence for people, the rule's name, and the control that it serves."""

    code: str
    message: str = ""
    rule: str = ""
    control: str = ""


@dataclass(frozen=True, slots=True)
class PolicyDuty:
    """An obligation that the policy lays on the step."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class PolicyAnswer:
    """What a policy says. Not allowed denies whatever ``escalate`` says; allowed and escalate asks a person."""

    allow: bool
    reasons: tuple[PolicyReason, ...] = ()
    obligations: tuple[PolicyDuty, ...] = ()
    escalate: bool = False


@dataclass(frozen=True, slots=True)
class PolicyFailure:
    """No answer: one of ``CAUSES``, and a message that quotes nothing of the step's data."""

    cause: str
    message: str


@runtime_checkable
class PolicyEngine(Protocol):
    """Evaluates one bundle. A new bundle is a new engine, swapped whole."""

    @property
    def name(self) -> str:
        """The engine's name, as records show it."""
        ...

    @property
    def version(self) -> str:
        """The engine's version, as records show it."""
        ...

    @property
    def bundle_digest(self) -> str:
        """The sha256 of all that decides: policy texts and data. Known before ``start``."""
        ...

    async def start(self) -> None:
        """Load and check the bundle; ConfigError names file and line. Again is harmless; after ``close`` it reopens."""
        ...

    async def close(self) -> None:
        """Release threads and connections; evaluations under way are finished first."""
        ...

    def has(self, entry_point: str) -> bool:
        """Return whether the bundle defines the rule at all; only after ``start``."""
        ...

    async def evaluate(self, entry_point: str, document: Mapping[str, Any]) -> PolicyAnswer | PolicyFailure:
        """Evaluate a rule on a decision document; nothing that the policy or the document does raises."""
        ...
