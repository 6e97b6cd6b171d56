"""What each tool of the desk is, takes, risks and costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

Risk = Literal["read_only", "internal", "external_io", "irreversible"]

ORDER_ID: dict[str, Any] = {"type": "string", "pattern": "^HS-[0-9]{5}$"}
EMAIL: dict[str, Any] = {"type": "string", "minLength": 3, "maxLength": 254}
QUEUES = ("general", "accounts", "complaints", "privacy", "returns", "shipping")


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool's declaration; `parameters` is the JSON Schema of its arguments."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    risk: Risk
    idempotent: bool
    cost_usd: float


def text(limit: int) -> dict[str, Any]:
    """Return the schema of a text that is not empty."""
    return {"type": "string", "minLength": 1, "maxLength": limit}


def spec(name: str, description: str, risk: Risk, *, idempotent: bool, cost_usd: float, **properties: Any) -> ToolSpec:
    """Declare a tool that requires all its arguments and takes no others."""
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return ToolSpec(name, description, MappingProxyType(schema), risk, idempotent, cost_usd)


_ALL = (
    spec(
        "lookup_order",
        "Read an order: its owner, lines, total, status, address and notes.",
        "read_only",
        idempotent=True,
        cost_usd=0.002,
        order_id=ORDER_ID,
    ),
    spec(
        "lookup_customer",
        "Read a customer's name, company, telephone number, address and order numbers.",
        "read_only",
        idempotent=True,
        cost_usd=0.002,
        email=EMAIL,
    ),
    spec(
        "search_catalogue",
        "Find up to five products by words of their name.",
        "read_only",
        idempotent=True,
        cost_usd=0.003,
        query=text(500),
    ),
    spec(
        "carrier_status",
        "Read where the carrier last saw an order.",
        "read_only",
        idempotent=True,
        cost_usd=0.005,
        order_id=ORDER_ID,
    ),
    spec(
        "update_address",
        "Change where an order that has not been delivered goes.",
        "internal",
        idempotent=True,
        cost_usd=0.004,
        order_id=ORDER_ID,
        address=text(300),
    ),
    spec(
        "add_note",
        "Append a line to an order's notes.",
        "internal",
        idempotent=False,
        cost_usd=0.002,
        order_id=ORDER_ID,
        note=text(1000),
    ),
    spec(
        "open_ticket",
        "Hand a matter to the people of a queue.",
        "internal",
        idempotent=False,
        cost_usd=0.004,
        customer_email=EMAIL,
        queue={"type": "string", "enum": [*QUEUES]},
        summary=text(2000),
    ),
    spec(
        "export_orders",
        "Write the orders of a customer, or of all with '*', to a CSV file in the outbox.",
        "internal",
        idempotent=True,
        cost_usd=0.02,
        customer_email=EMAIL,
        path=text(120),
    ),
    spec(
        "send_email",
        "Send a plain text message by SMTP.",
        "external_io",
        idempotent=False,
        cost_usd=0.01,
        to=EMAIL,
        subject=text(200),
        body=text(200_000),
    ),
    spec(
        "issue_refund",
        "Pay money back on an order, up to what is left of what was paid.",
        "irreversible",
        idempotent=False,
        cost_usd=0.05,
        order_id=ORDER_ID,
        amount_cents={"type": "integer", "minimum": 1},
        reason=text(500),
    ),
)

TOOLS: Mapping[str, ToolSpec] = MappingProxyType({tool.name: tool for tool in _ALL})
