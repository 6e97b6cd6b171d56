"""What ``meshflow ledger copy`` and ``rewrap`` do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from meshflow.cli.exits import ExitCode
from meshflow.cli.ledgers import resolved, shown, with_ledger
from meshflow.cli.options import Chosen
from meshflow.cli.output import counted, print_json, say
from meshflow.cli.progress import Display

if TYPE_CHECKING:
    from meshflow.ledger import ReplayLedger


def copy_between(options: Chosen, source: str, target: str, key_encryption_key: str | None) -> ExitCode:
    """Copy, verify, and return 1 if the copy does not verify."""
    from meshflow.ledger.copy import copy_ledger

    async def work() -> dict[str, Any]:
        with Display() as display:
            return await copy_ledger(
                resolved(source), resolved(target), key_encryption_key=key_encryption_key,
                progress=lambda done, total: display.progress(done, total, "entries"),
            )  # fmt: skip

    result = asyncio.run(work())
    verification = result["verification"]
    if options.as_json:
        print_json(result)
    else:
        say(
            f"Copied {result['entries']:,} entries and {counted(result['payloads'], 'payload')}",
            f"  from {result['source']}",
            f"  to {result['target']}",
        )
        if verification["valid"]:
            say(f"The copy verifies; checked: {', '.join(verification['checked'])}")
        else:
            say("The copy does NOT verify, and neither may the ledger that it was made of:")
            say(*(f"  {error}" for error in verification["errors"]))
        if result["behind"]:
            say(
                f"Written meanwhile, and not in the copy: {result['behind']:,} entries; stop what writes, and copy anew"
            )
        say("Open it with the same signing key: the key is not copied")
    return ExitCode.OK if verification["valid"] else ExitCode.FAILED


def rewrap_keys(options: Chosen, path: str | None, to: str) -> None:
    """Wrap data keys anew and say what to do with the old one."""

    async def work(ledger: ReplayLedger) -> tuple[str, int]:
        return shown(ledger), await ledger.rewrap(to)

    name, count = with_ledger(options, path, work, writing=True)
    if options.as_json:
        print_json({"ledger": name, "keys": count})
        return
    say(
        f"Ledger {name}: {counted(count, 'data key')} under the new key-encryption key",
        f"Set ledger.key_encryption_key to {to} now; destroy the old key once no backup needs it",
    )
