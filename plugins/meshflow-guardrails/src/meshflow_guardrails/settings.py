"""What an operator may set for the guardrails."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from meshflow.plugin import Settings
from meshflow_guardrails.patterns import compile_re2


class HiddenAction(StrEnum):
    """What is done about characters that show nothing."""

    STRIP = "strip"
    DENY = "deny"
    ALLOW = "allow"


class RuleAction(StrEnum):
    """What a rule of the operator's own does where it matches."""

    DENY = "deny"
    MASK = "mask"
    FLAG = "flag"


class Rule(Settings):
    """A pattern or a list of words of the operator's own."""

    name: str = Field(min_length=1, description="What evidence calls the rule.")
    pattern: str | None = Field(None, description="An RE2 pattern; one that RE2 refuses is an error.")
    keywords: tuple[str, ...] = Field((), description="Words or phrases, whole, in any case.")
    action: RuleAction = Field(
        RuleAction.DENY, description="deny, mask (replace what matched) or flag (evidence alone)."
    )
    where: Literal["input", "output", "both"] = Field("both", description="Where the rule looks.")
    replacement: str = Field("[removed]", description="What takes the place of what matched, where action is mask.")

    @model_validator(mode="after")
    def _one_of_both(self) -> Rule:
        if (self.pattern is None) == (not self.keywords):
            raise ValueError(f"rule {self.name!r} needs either pattern or keywords")
        if any(not word.strip() for word in self.keywords):
            raise ValueError(f"rule {self.name!r} has an empty keyword, which would match everywhere")
        if self.pattern is not None and compile_re2(self.pattern).search("") is not None:
            raise ValueError(f"rule {self.name!r} matches the empty text, which is everywhere")
        return self


class GuardrailsSettings(Settings):
    """Settings of the ``guardrails`` plugin."""

    injection: Literal["deny", "flag", "allow"] = Field(
        "deny",
        description="What is done where injection signals reach the threshold; flag records, allow does not look.",
    )
    threshold: float = Field(1.0, gt=0, description="Sum of the signals' weights from which a text is an injection.")
    disable_signals: tuple[str, ...] = Field((), description="Names of signals that do not count.")
    scan_tool_results: bool = Field(True, description="Look for injections in what tool, mcp and http steps give back.")
    scan_all_outputs: bool = Field(False, description="Look for injections in every output, not only in tool results.")
    hidden_characters: HiddenAction = Field(
        HiddenAction.STRIP,
        description="strip, deny or allow zero-width, bidi-control, tag and stacked variation characters.",
    )
    decode: bool = Field(
        True, description="Decode base64, hex, percent and entity encoded runs once and scan what they say."
    )
    decode_chars: int = Field(65_536, ge=0, description="Characters of encoded runs that are decoded in one value.")
    max_chars: int = Field(1_000_000, ge=1, description="Characters of text in one input; beyond, it denies.")
    max_output_chars: int = Field(2_000_000, ge=1, description="Characters of text in one output; beyond, it denies.")
    max_depth: int = Field(64, ge=1, le=200, description="Levels of nesting; beyond, it denies.")
    max_nodes: int = Field(200_000, ge=1, description="Values in one input or output; beyond, it denies.")
    thread_above: int = Field(65_536, ge=0, description="Characters above which a scan leaves the event loop.")
    rules: tuple[Rule, ...] = Field((), description="Patterns and keywords of your own.")
    output_schemas: dict[str, dict[str, Any] | bool] = Field(
        default_factory=dict,
        description="JSON Schema by tool name or node id ('*': all others) for outputs; text is read as JSON.",
    )
    links: Literal["strip", "deny", "flag", "allow"] = Field(
        "strip", description="What is done about links and images in outputs that carry data to hosts not allowed."
    )
    link_kinds: tuple[str, ...] = Field(
        ("model", "agent", "function", "subgraph"),
        description="Kinds of steps whose outputs are searched for such links.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Hosts that links may carry data to; .example.com allows the host and all under it."
    )
    link_data_chars: int = Field(
        16,
        ge=1,
        description="Characters in a link's query or fragment, or in one path part, from which it carries data.",
    )
    canaries: tuple[str, ...] = Field(
        (),
        description="Tokens planted in prompts or documents; one in an output denies. 8 characters or more.",
    )

    @field_validator("canaries")
    @classmethod
    def _long_enough(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(len(token) < 8 for token in value):
            raise ValueError("a canary of fewer than 8 characters turns up by chance")
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(host.lower().rstrip(".") for host in value)
