"""The settings that say how long payloads are kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from meshflow.errors import LedgerError
from meshflow.ledger.retention import RetentionRule, duration_us
from meshflow.plugin import Settings

FieldName = Literal["input", "output", "metadata", "reason", "results", "principal", "request_salt", "approver"]


class RetentionMatch(Settings):
    """Which entries a retention rule is for; what is left out matches all."""

    tenant: str | None = Field(None, min_length=1, description="id of a tenant")
    tool: str | None = Field(None, min_length=1, description="name of a tool")
    node: str | None = Field(None, min_length=1, description="id of a node")


class Retention(Settings):
    """One rule: what `meshflow ledger retention` erases, and after how long."""

    match: RetentionMatch = Field(RetentionMatch(), description="which entries; without it all")
    keep: str = Field(description="how long payloads are kept after their step began, such as 30d; s, m, h, d or w")
    fields: tuple[FieldName, ...] | None = Field(None, description="names of the payloads that go; without it all")

    @field_validator("keep")
    @classmethod
    def _a_duration(cls, value: str) -> str:
        try:
            duration_us(value)
        except LedgerError as error:
            raise ValueError(str(error)) from None
        return value

    def rule(self) -> RetentionRule:
        """Return the rule that the ledger applies."""
        fields = {} if self.fields is None else {"fields": frozenset[str](self.fields)}
        match = self.match
        return RetentionRule(
            keep_us=duration_us(self.keep), tenant=match.tenant, tool=match.tool, node=match.node, **fields
        )
