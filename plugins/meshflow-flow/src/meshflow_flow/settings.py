"""Settings of the section ``tools``, which the risk, taint and tools plugins share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from meshflow.plugin import Settings

TierName = Literal["read_only", "internal", "external_io", "irreversible"]
OriginName = Literal["trusted", "user", "tool", "external"]
ConfidentialityName = Literal["public", "internal", "tenant", "personal", "secret"]
SinkName = Literal["internal", "outside"]
KindName = Literal["function", "agent", "model", "tool", "mcp", "http", "human", "subgraph"]


class Accepts(Settings):
    """The clearances of a tool: the highest labels that its arguments may carry."""

    max_origin: OriginName | None = Field(
        default=None, description="Least trusted origin that the arguments may have; an irreversible tool has user."
    )
    max_confidentiality: ConfidentialityName | None = Field(
        default=None, description="Highest confidentiality that the arguments may have; a sink outside has tenant."
    )


class Emits(Settings):
    """The labels that a tool's own result adds to those of its arguments."""

    origin: OriginName | None = Field(
        default=None, description="Origin of the result; by default tool, and external for mcp and http."
    )
    confidentiality: ConfidentialityName = Field(default="public", description="Least confidentiality of the result.")


class KindDeclaration(Settings):
    """What holds for steps of one node kind that no tool declaration covers."""

    risk: TierName | None = Field(default=None, description="Risk tier; never lowered by other signals.")
    accepts: Accepts = Field(default_factory=Accepts, description="Clearances for the step's input.")
    emits: Emits = Field(default_factory=Emits, description="Labels that the output adds.")
    sink: SinkName | None = Field(
        default=None, description="Whether the input leaves this system; by default from kind and risk."
    )


class ToolDeclaration(KindDeclaration):
    """What an operator declares about one tool."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(default="", description="Name to show; by default the key under which the tool is declared.")
    description: str = Field(default="", description="What the tool does, in a sentence.")
    arguments: dict[str, Any] | bool | None = Field(
        default=None, alias="schema", description="JSON Schema of the arguments; patterns must run in linear time."
    )
    idempotent: bool = Field(default=False, description="True where a second call with the same key does no harm.")
    owner: str = Field(default="", description="Who answers for the tool.")
    enabled: bool = Field(default=True, description="False refuses every call.")


class RaiseRule(Settings):
    """A plain comparison on one argument that raises the risk tier. Exactly one of above, equals, matches_any."""

    tool: str = Field(default="*", description="Name of the tool, or * for every step.")
    argument: str = Field(min_length=1, description="Dotted path of the argument; a list on the way means any element.")
    above: float | None = Field(
        default=None, allow_inf_nan=False, description="Raise unless the argument is a number no higher than this."
    )
    equals: str | int | float | bool | None = Field(default=None, description="Raise when the argument is this value.")
    matches_any: tuple[str, ...] | None = Field(
        default=None, description="Raise when the argument is one of these texts, whatever their case."
    )
    to: TierName = Field(description="Tier to raise to.")

    @model_validator(mode="after")
    def _one_comparison(self) -> RaiseRule:
        given = [name for name in ("above", "equals", "matches_any") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a rule needs exactly one of above, equals, matches_any; it has {given}")
        return self


class History(Settings):
    """Raise the tier of a tool that keeps failing."""

    failures: int = Field(default=5, ge=1, description="Failures in a row, by tenant and tool, that raise the tier.")
    to: TierName = Field(default="irreversible", description="Tier to raise to until the tool succeeds once.")


class Labels(Settings):
    """A pair of labels."""

    origin: OriginName = Field(default="user", description="Where the value came from.")
    confidentiality: ConfidentialityName = Field(default="internal", description="Who may see the value.")


class LowerTo(Settings):
    """Labels that a declassification lowers to; one that is left out stays."""

    origin: OriginName | None = Field(default=None, description="Origin afterwards, where it was less trusted.")
    confidentiality: ConfidentialityName | None = Field(default=None, description="Confidentiality afterwards.")


class Declassification(Settings):
    """A named act that lowers the labels of one tool's calls, for principals with one of the roles."""

    name: str = Field(min_length=1, description="Name of the act; each record of it carries this name.")
    tool: str = Field(min_length=1, description="Name of the tool whose input is lowered.")
    to: LowerTo = Field(description="Labels to lower to; a label is never raised.")
    roles: tuple[str, ...] = Field(min_length=1, description="Roles of which the principal must have one.")
    verified: bool = Field(default=True, description="Whether the principal must be backed by a credential.")


class FlowSettings(Settings):
    """Settings of ``tools:`` in meshflow.yaml."""

    tools: dict[str, ToolDeclaration] = Field(default_factory=dict, description="Declared tools by name.")
    kinds: dict[KindName, KindDeclaration] = Field(
        default_factory=dict, description="Declarations for whole node kinds, such as model."
    )
    strict: bool | None = Field(
        default=None, description="Refuse undeclared tools; by default true as soon as one tool is declared."
    )
    verbs: dict[str, TierName] = Field(
        default_factory=dict,
        description="Tiers of verbs in actions and undeclared tools' names, over the built-in ones.",
    )
    raise_when: tuple[RaiseRule, ...] = Field(default=(), description="Comparisons on arguments that raise the tier.")
    history: History | None = Field(default=None, description="Raise the tier of tools that keep failing; unset: no.")
    approval_from: TierName | Literal["never"] = Field(
        default="irreversible", description="Lowest tier at which a person must approve a tool call."
    )
    untrusted_to_irreversible: Literal["escalate", "deny"] = Field(
        default="escalate", description="What becomes of a call whose arguments come from an origin not accepted."
    )
    first_input: Labels = Field(
        default_factory=Labels, description="Labels of an input without labels at the start of a run."
    )
    unlabelled: Literal["run", "first_input"] = Field(
        default="run",
        description="Labels of a later input without labels and reads: the join of all that the run has produced, "
        "or those of first_input.",
    )
    entities: dict[str, ConfidentialityName] = Field(
        default_factory=dict, description="Confidentiality by kind of sensitive data found, over the built-in ones."
    )
    declassify: tuple[Declassification, ...] = Field(default=(), description="Acts that may lower labels.")
    max_runs: int = Field(default=10_000, ge=1, description="Runs by tenant whose labels are remembered.")
    max_steps: int = Field(default=10_000, ge=1, description="Steps by run whose labels are remembered.")
