"""Reading of the records that carriers send, each in its own format, some of them broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime

Status = dict[str, str]


def read_record(carrier: str, record: str) -> Status:
    """Return state, place and time of a shipment; a record that cannot be read raises what its parser raises."""
    state, hub, scanned_at = PARSERS[carrier](record)
    return {
        "carrier": carrier,
        "state": state,
        "hub": hub,
        "scanned_at": datetime.fromisoformat(scanned_at).isoformat(),
    }


def _bar_separated(record: str) -> tuple[str, str, str]:
    scanned_at, state, hub = record.split("|")
    return state, hub, scanned_at


def _json_object(record: str) -> tuple[str, str, str]:
    fields = json.loads(record)
    return fields["state"], fields["hub"], fields["scan"]


PARSERS: dict[str, Callable[[str], tuple[str, str, str]]] = {
    "BlueRoute": _bar_separated,
    "DPX": _bar_separated,
    "Hanse Parcel": _bar_separated,
    "Nordfracht": _json_object,
    "Ferro Freight": _json_object,
}
