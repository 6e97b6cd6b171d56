"""``meshflow ledger doctor``: everything about a ledger that can be looked at without reading all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshflow.cli.exits import ExitCode
from meshflow.cli.ledgers import audit_plugin, shown, with_ledger
from meshflow.cli.options import Chosen
from meshflow.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from meshflow.ledger import ReplayLedger
    from meshflow.ledger.format.findings import Health


def examine_ledger(options: Chosen, path: str | None) -> ExitCode:
    """Examine, print, and return 1 if anything is wrong; a warning is not."""
    anchors = getattr(audit_plugin(options.load(), path), "anchors", ())

    async def work(ledger: ReplayLedger) -> tuple[str, list[Health]]:
        return shown(ledger), await ledger.health(anchors=anchors)

    name, found = with_ledger(options, path, work, writing=True)
    sound = not any(one.level == "error" for one in found)
    if options.as_json:
        print_json({"ledger": name, "ok": sound, "checks": [one._asdict() for one in found]})
    else:
        print_table(f"Ledger {name}", ("level", "check", "found"), found)
        counts = {level: sum(one.level == level for one in found) for level in ("ok", "warning", "error")}
        say(f"{counts['ok']} checks passed, {counts['warning']} warnings, {counts['error']} errors")
    return ExitCode.OK if sound else ExitCode.FAILED
