"""A run as text: JSON that anybody can recheck, and CSV that a spreadsheet may open."""

from __future__ import annotations

import csv
import re
from collections.abc import AsyncIterator, Mapping
from io import StringIO
from typing import Any

import orjson

from meshflow.errors import LedgerError
from meshflow.ledger.format.entry import UNBOUND, StoredEntry
from meshflow.ledger.history import HistoryStore

FORMAT = "meshflow/run-export/v1"

CSV_COLUMNS = (
    "run_id", "step_index", "seq", "step_id", "attempt", "node_id", "node_kind", "tool", "action", "tenant_id",
    "verdict", "blocked", "code", "block_reason", "risk", "executed", "cost_usd", "tokens_used", "uncertainty",
    "carbon_gco2", "timestamp", "duration_ms", "input_task", "output_content", "metadata", "erased", "redaction",
    "inherited", "fingerprint", "prev_hash", "entry_hash",
)  # fmt: skip
"""The columns of the CSV export; new ones are only ever added at the end."""

_CHUNK = 64 * 1024

# A formula begins with = + - or @, or what a spreadsheet takes for them (full width, small, superscript, true minus).
_SIGN = re.compile(
    "[=+\\-@\uff1d\uff0b\uff0d\uff20\ufe62\ufe63\ufe66\ufe6b\u207a\u207b\u207c\u208a\u208b\u208c\u2212\u2795\u2796]+"
)
# What may stand before it unseen: white space, controls, quotes, marks without width.
_SKIPPED = "".join(
    [chr(code) for code in (*range(0x21), *range(0x7F, 0xA1), 0xAD, 0x34F, 0x61C, 0x1680, 0x180E, 0x3000, 0xFEFF)]
    + [chr(code) for code in (*range(0x2000, 0x2010), *range(0x2018, 0x2020), *range(0x2028, 0x2030))]
    + [chr(code) for code in (0x202F, *range(0x205F, 0x2070), 0x22, 0x27, 0x60, 0xAB, 0xBB)]
)
# With another list separator than ours a spreadsheet splits at ; or a tab, and with broken quoting at a line's end.
_BREAKS = "\t\r\n"


def spreadsheet_safe(text: str) -> str:
    """Return text that no spreadsheet takes for a formula: an apostrophe goes before what could begin one."""
    parts: list[str] = []
    done = behind = 0
    for found in _SIGN.finditer(text):
        before = text[behind : found.start()]
        seen = before.rstrip(_SKIPPED)
        broken = max(before.rfind(mark, len(seen)) for mark in _BREAKS)
        start, behind = behind, found.end()
        places = [0] if start == 0 and not seen else []
        if broken >= 0:
            places.append(start + broken + 1)
        elif seen.endswith(";"):
            places.append(start + len(seen))
        for place in places:
            parts += (text[done:place], "'")
            done = place
    safe = "".join((*parts, text[done:]))
    return f"'{safe}" if safe[:1] in ("\t", "\r", "\n") else safe


def _cell(value: Any) -> Any:
    """Return a value as a cell: numbers as they are, nothing as nothing, all else as text that is no formula."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return value
    return spreadsheet_safe(value if isinstance(value, str) else orjson.dumps(value, option=_SORTED).decode())


def csv_row(step: Mapping[str, Any]) -> list[Any]:
    """Return the cells of a step as ``get_run`` returns it."""
    return [_cell(step.get(name)) for name in CSV_COLUMNS]


async def csv_text(steps: AsyncIterator[Mapping[str, Any]]) -> AsyncIterator[str]:
    """Yield a CSV document (RFC 4180, with a header) in parts of some 64 KiB."""
    part = StringIO(newline="")
    writer = csv.writer(part, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    async for step in steps:
        writer.writerow(csv_row(step))
        if part.tell() > _CHUNK:
            yield part.getvalue()
            part.seek(0)
            part.truncate()
    yield part.getvalue()


_SORTED = orjson.OPT_SORT_KEYS


async def json_text(
    store: HistoryStore, run_id: str, tenant: str | None, *, complete: bool, summary: Mapping[str, Any],
    steps: AsyncIterator[Mapping[str, Any]],
) -> AsyncIterator[str]:  # fmt: skip
    """Yield the export of a run in parts; together they are one JSON object with sorted keys.

    ``entries`` hold the exact bytes that were hashed, so that a reader needs this text alone to recheck the chain;
    ``parents`` the same of the runs that a fork inherits from, the nearest first; ``steps`` what ``get_run`` returns.
    """
    parent: tuple[str, int] | None = None
    yield f'{{"complete":{"true" if complete else "false"},"entries":['
    separator = ""
    async for entry in store.history(run_id, tenant):
        if entry.seq == 0:
            parent = _parent_of(entry)
        yield separator + _dumped(_evidence(entry))
        separator = ","
    if not separator:
        raise LedgerError(f"the ledger has no run {run_id!r}")
    yield f'],"format":"{FORMAT}","parents":['
    separator = ""
    while parent is not None:
        parent_id, inherited = parent
        parent, opening = None, f'{separator}{{"entries":['
        async for entry in _prefix(store, parent_id, inherited, tenant):
            if entry.seq == 0 and (further := _parent_of(entry)) is not None:
                parent = (further[0], min(further[1], inherited))
            yield opening + _dumped(_evidence(entry))
            opening = ","
        yield f'{opening if opening != "," else ""}],"run_id":{_dumped(parent_id)},"steps_inherited":{inherited}}}'
        separator = ","
    yield f'],"run_id":{_dumped(run_id)},"steps":['
    separator = ""
    async for step in steps:
        yield separator + _dumped(step)
        separator = ","
    yield f'],"summary":{_dumped(summary)}}}\n'


def _dumped(value: Any) -> str:
    return orjson.dumps(value, option=_SORTED).decode()


def _evidence(entry: StoredEntry) -> dict[str, Any]:
    """Return what is needed to check an entry: its bytes as text, and what is left of its payloads, with salts."""
    try:
        return {
            "body": entry.body.decode(),
            "entry_hash": entry.entry_hash.hex(),
            "payloads": {
                name: {"data": data.decode(), "salt": salt.hex()} for name, (salt, data) in entry.payloads.items()
            },
            "position": entry.position,
            "prev_hash": entry.prev_hash.hex(),
            "seq": entry.seq,
            "step_index": entry.step_index,
        }
    except UnicodeDecodeError:
        raise LedgerError(f"entry {entry.seq} of run {entry.run_id!r} is damaged; verify the run") from None


def _parent_of(entry: StoredEntry) -> tuple[str, int] | None:
    body = orjson.loads(entry.body)
    return (body["parent_run_id"], body["parent_steps"]) if body.get("kind") == "fork" else None


async def _prefix(store: HistoryStore, run_id: str, steps: int, tenant: str | None) -> AsyncIterator[StoredEntry]:
    """Yield a parent's entries up to its last inherited step.

    Where tombstones follow, the entries up to the last of those come too, without payloads: an auditor needs them to
    tell an erasure from a loss.
    """
    held: list[StoredEntry] = []
    seen = 0
    async for entry in store.history(run_id, tenant):
        if seen < steps:
            yield entry
            parent = _parent_of(entry) if entry.seq == 0 else None
            seen = parent[1] if parent is not None else seen
        else:
            held.append(_bare(entry))
            if orjson.loads(entry.body).get("kind") in UNBOUND:
                for one in held:
                    yield one
                held = []
        if entry.step_index is not None:
            seen = entry.step_index + 1


def _bare(entry: StoredEntry) -> StoredEntry:
    return StoredEntry(
        entry.run_id, entry.seq, entry.prev_hash, entry.entry_hash, entry.body, {}, entry.step_index, entry.position
    )
