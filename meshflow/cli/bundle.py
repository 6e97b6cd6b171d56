"""``meshflow ledger export --format bundle`` and ``meshflow verify``: evidence in one file, and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meshflow.cli.exits import ExitCode
from meshflow.cli.given import keys_of, text_of, witnesses_of
from meshflow.cli.ledgers import command, shown, with_ledger
from meshflow.cli.options import Chosen
from meshflow.cli.output import counted, line, print_json, print_table, say
from meshflow.cli.outside import anchors_named
from meshflow.cli.progress import Display

if TYPE_CHECKING:
    from meshflow.ledger import ReplayLedger

_MAX_RUNS = 50
_SQLITE = b"SQLite format 3\0"
_RESTS = {
    "itself": "on the keys in the bundle itself, which anybody could have put there",
    "key": "on the key given; its owner could have signed another history",
    "checkpoint": "on the key and the checkpoint given; what is newer than that, on the key alone",
    "witness": "on the key and on witnesses; what is newer than they cosigned, on the key alone",
}
_MEANING = {
    "commitments": "what was said: the bundle holds no payloads",
    "held_checkpoint": "whether its log is the one that others saw: no checkpoint from outside was given",
    "anchor": "anchors: ask each of them for its checkpoint yourself",
    "witness": "cosignatures of witnesses",
    "signing_key": "who signed it",
    "rest_of_the_log": "entries of the log that the bundle leaves out",
    "rest_of_runs": "what the bundle leaves out of the runs listed as part",
    "parents": "steps that a run inherits and this tenant may not see",
    "ends_of_open_runs": "whether open runs went on: what follows may have been left out",
}


def export_bundle(
    options: Chosen, path: str | None, runs: Sequence[str] | None, tenant: str | None, *, payloads: bool,
    checkpoints: Sequence[Path], anchors: Sequence[str], output: Path,
) -> None:  # fmt: skip
    """Write a bundle to a file."""
    held = [text_of(one) for one in checkpoints]
    asked = [anchor for one in anchors for anchor in anchors_named(options, path, one)]

    async def read(ledger: ReplayLedger) -> tuple[str, dict[str, Any]]:
        result = await ledger.export_bundle(
            output, runs, payloads=payloads, checkpoints=held, anchors=asked, tenant=tenant
        )
        return shown(ledger), result

    name, result = with_ledger(options, path, read)
    if options.as_json:
        print_json({"ledger": name, "written": shown(output), **result})
        return
    runs_in = counted(len(result["runs"]), "run")
    say(f"Wrote {shown(output)}: {runs_in}, {result['entries']:,} of the log's {result['size']:,} entries")
    say("Keys to give to whoever verifies it, by another way than the bundle:", *(f"  {key}" for key in result["keys"]))


def verify_bundle(
    options: Chosen, bundle: Path, keys: Sequence[str], checkpoints: Sequence[Path], witnesses: Sequence[str],
    quorum: int | None, *, trust_keys: bool,
) -> ExitCode:  # fmt: skip
    """Verify a bundle and print how far it holds; 1 where it does not."""
    from meshflow.ledger.bundle import verify_bundle as verify

    if bool(keys) is trust_keys:
        raise typer.BadParameter(
            "name the signing key with --key, or believe the bundle's own with --trust-bundle-keys"
        )
    if quorum is not None and not witnesses:
        raise typer.BadParameter("--quorum counts witnesses; name them with --witness")
    given = None if trust_keys else [one for key in keys for one in keys_of(key)]
    with Display() as display:
        result = verify(
            bundle, given, [text_of(one) for one in checkpoints],
            witnesses=[key for one in witnesses for key in witnesses_of(one)], quorum=quorum,
            progress=lambda done, size: display.progress(done, size, shown(bundle)),
        )  # fmt: skip
    if options.as_json:
        print_json({"bundle": shown(bundle), **result})
    else:
        _print_result(shown(bundle), result)
        if not result["valid"] and _is_database(bundle):
            again = command("ledger", "verify", options=("--ledger", str(bundle)))
            say(f"  it is a ledger, not a bundle of one: {again}")
    return ExitCode.OK if result["valid"] else ExitCode.FAILED


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _print_result(name: str, result: Mapping[str, Any]) -> None:
    found = "VERIFIES" if result["valid"] else "DOES NOT VERIFY"
    say(f"Bundle {line(name)} {found}")
    say(*(f"  {error}" for error in result["errors"]))
    if result["size"] is not None:
        whole = "the whole log" if result["whole_ledger"] else f"{result['entries']:,} of them"
        say(f"  log {line(result['origin'])}, {result['size']:,} entries, {whole} in the bundle")
    if result["valid"]:
        say(f"  rests {_RESTS[result['strength']]}")
        if result["held_size"] is not None:
            say(f"  checkpoint given: {result['held_size']:,} entries")
        if result["witness"] is not None:
            who = ", ".join(map(line, result["witness"]["cosigned"]))
            say(f"  cosigned at {result['witness']['size']:,} entries by {who}")
    if result["checked"]:
        say(f"  checked: {', '.join(result['checked'])}")
    if result["valid"]:
        say("  not checked:", *(f"    {_MEANING[one]}" for one in result["not_checked"] if one in _MEANING))
    for anchor, size in result["anchors"].items():
        say(f"  said to be kept at {size:,} entries by {line(anchor)}")
    rows = [
        (run["run_id"], run["state"], run["entries"], run["steps"], run["erased_payloads"], run["parent_run_id"])
        for run in result["runs"][:_MAX_RUNS]
    ]
    if rows:
        say("")
        headers = ("run", "state", "entries", "steps", "erased", "forks")
        print_table("", headers, rows, right={"entries", "steps", "erased"})
    if len(result["runs"]) > _MAX_RUNS:
        say(f"{len(result['runs']) - _MAX_RUNS:,} more runs; --json lists them all")
