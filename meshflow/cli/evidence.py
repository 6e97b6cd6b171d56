"""``meshflow ledger checkpoint|prove|compare|anchor``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meshflow.cli.exits import ExitCode
from meshflow.cli.given import keys_of, text_of
from meshflow.cli.ledgers import audit_plugin, readable_ledger, shown, with_ledger
from meshflow.cli.options import Chosen
from meshflow.cli.output import line, print_json, print_table, say
from meshflow.errors import ConfigError, LedgerError

if TYPE_CHECKING:
    from meshflow.ledger import ReplayLedger
    from meshflow.ledger.anchors import Anchor


def show_checkpoint(options: Chosen, path: str | None, output: Path | None) -> None:
    """Print a checkpoint as it is, or write it to a file."""
    from meshflow.ledger.format.checkpoints import read_checkpoint

    async def work(ledger: ReplayLedger) -> tuple[str, str, list[str]]:
        note, second = await ledger.checkpoint(), await ledger.companion_verifier()
        return shown(ledger), note, [*await ledger.verifiers(), *([second] if second is not None else [])]

    name, note, keys = with_ledger(options, path, work, writing=True)
    made = read_checkpoint(note)
    if output is not None:
        output.write_text(note, "utf-8")
    if options.as_json:
        print_json({
            "ledger": name, "origin": made.origin, "size": made.size, "root": made.root.hex(), "checkpoint": note,
            "keys": keys,
        })  # fmt: skip
    elif output is not None:
        say(f"Wrote {shown(output)}: a checkpoint of {made.size:,} entries. Keep it with the public key:", *keys)
    else:
        typer.echo(note, nl=False)


def prove_entry(
    options: Chosen, path: str | None, run_id: str, step: str | None, seq: int | None, tenant: str | None,
    output: Path | None,
) -> None:  # fmt: skip
    """Print or write the proof that an entry is in the ledger."""

    async def work(ledger: ReplayLedger) -> dict[str, Any]:
        place = seq if step is None else await _place(ledger, run_id, step, tenant)
        return await ledger.prove(run_id, place, tenant=tenant)

    _hand_out(with_ledger(options, path, work, writing=True), output)


async def _place(ledger: ReplayLedger, run_id: str, step: str, tenant: str | None) -> int:
    """Return the place in its run of a step: its latest attempt, by id, or else by its index."""
    steps = await ledger.get_run(run_id, tenant=tenant)
    found = [one for one in steps if one["step_id"] == step]
    if found:
        return int(max(found, key=lambda one: int(one["attempt"]))["seq"])
    if step.removeprefix("-").isdecimal() and -len(steps) <= int(step) < len(steps):
        return int(steps[int(step)]["seq"])
    raise LedgerError(f"run {run_id!r} has no step {step!r}; it has {len(steps)} steps, from 0")


def prove_since(options: Chosen, path: str | None, held: Path, output: Path | None) -> None:
    """Print or write the proof that the ledger extends a checkpoint."""
    from meshflow.ledger.format.checkpoints import read_checkpoint

    note = text_of(held)

    async def work(ledger: ReplayLedger) -> dict[str, Any]:
        await ledger.checkpoint()
        proof = await ledger.prove_consistency(read_checkpoint(note).size)
        return {**proof, "old_checkpoint": note}

    _hand_out(with_ledger(options, path, work, writing=True), output)


def _hand_out(proof: Mapping[str, Any], output: Path | None) -> None:
    if output is None:
        print_json(proof)
        return
    output.write_text(json.dumps(proof, indent=2) + "\n", "utf-8")
    typer.echo(f"Wrote {shown(output)}", err=True)


def _read_proof(path: Path) -> dict[str, Any]:
    try:
        proof = json.loads(text_of(path))
    except ValueError:
        proof = None
    if not isinstance(proof, dict) or proof.get("v") != 1 or not isinstance(proof.get("path"), list):
        raise typer.BadParameter(f"{shown(path)} holds no proof")
    return proof


def check_proof(options: Chosen, path: Path, keys: Sequence[str]) -> ExitCode:
    """Check a proof with nothing but the keys; 1 when it does not hold."""
    from meshflow.ledger.format.checkpoints import check_consistency, check_inclusion, read_checkpoint

    if not keys:
        raise typer.BadParameter("name the ledger's public key with --key, as you have it from elsewhere")
    given, proof, problem = [one for key in keys for one in keys_of(key)], _read_proof(path), ""
    try:
        if "entry" in proof:
            check_inclusion(proof, given)
            what = f"entry {proof['seq']} of run {line(proof['run_id'])}, {line(proof['kind'])}"
        elif "old_checkpoint" in proof:
            check_consistency(proof["old_checkpoint"], proof["checkpoint"], proof["path"], given)
            what = f"an extension of the checkpoint of {read_checkpoint(proof['old_checkpoint']).size:,} entries"
        else:
            raise LedgerError("it is of no kind known; make it with meshflow ledger prove")
        size = read_checkpoint(proof["checkpoint"]).size
    except (LedgerError, ValueError, KeyError, TypeError, AttributeError) as error:
        what, size, problem = "", None, str(error) or type(error).__name__
    if options.as_json:
        print_json({"proof": shown(path), "valid": not problem, "proves": what, "size": size, "problem": problem})
    elif problem:
        say(f"Proof {shown(path)} DOES NOT HOLD: {problem}")
    else:
        say(f"Proof {shown(path)} holds: {what}, in the log of {size:,} entries")
    return ExitCode.FAILED if problem else ExitCode.OK


def compare_checkpoints(
    options: Chosen, path: str | None, first: Path, second: Path, proof: Path | None, keys: Sequence[str]
) -> ExitCode:
    """Compare what two people hold, with a proof from a file or from the ledger."""
    given = [one for key in keys for one in keys_of(key)] or None
    one, other = text_of(first), text_of(second)
    if proof is not None:
        from meshflow.ledger.anchoring import compare_by

        if given is None:
            raise typer.BadParameter("without a ledger name its public key with --key, as you have it from elsewhere")
        result = compare_by(_read_proof(proof)["path"], one, other, given)
    else:

        async def work(ledger: ReplayLedger) -> dict[str, Any]:
            return await ledger.compare(one, other, keys=given)

        result = with_ledger(options, path, work)
    if options.as_json:
        print_json(result)
    elif result["consistent"]:
        say(f"One history: the log of {result['new_size']:,} entries begins with that of {result['old_size']:,}")
    else:
        say(f"TWO HISTORIES, as far as anybody can show: {result['problem']}", "Keep both checkpoints.")
    return ExitCode.OK if result["consistent"] else ExitCode.FAILED


def publish(options: Chosen, path: str | None, kind: str | None) -> ExitCode:
    """Publish to each anchor, one after the other; an anchor that fails does not keep the others from it."""
    plugin = audit_plugin(options.load(), path)
    wanted = anchors_of(plugin, kind)
    ledger = readable_ledger(plugin)
    if ledger is None:
        raise ConfigError("the configured audit provider keeps no ledger that can be read here; pass --ledger WHERE")

    async def work(opened: ReplayLedger) -> list[dict[str, Any]]:
        done = []
        for anchor in wanted:
            try:
                (receipt,) = await opened.anchor(anchor)
                done.append({"anchor": anchor.name, "published": True, "where": receipt.where, "problem": ""})
            except LedgerError as error:
                done.append({"anchor": anchor.name, "published": False, "where": "", "problem": str(error)})
        return done

    rows = with_ledger(options, path, work, writing=True)
    if options.as_json:
        print_json({"ledger": shown(ledger), "anchors": rows})
    else:
        cells = [(row["anchor"], "published" if row["published"] else "FAILED", row["where"] or row["problem"])
                 for row in rows]  # fmt: skip
        print_table(f"Ledger {shown(ledger)}", ("anchor", "", "where, or why not"), cells)
    return ExitCode.OK if all(row["published"] for row in rows) else ExitCode.FAILED


def anchors_of(plugin: object, kind: str | None) -> list[Anchor]:
    """Return the configured anchors, or those of one kind; ConfigError when there are none."""
    anchors, uses = getattr(plugin, "anchors", ()), getattr(getattr(plugin, "settings", None), "anchors", ())
    named = [(use.use, anchor) for use, anchor in zip(uses, anchors, strict=True)]
    found = [anchor for name, anchor in named if kind in (None, name)]
    if not found:
        problem = f"no {kind} among {sorted({name for name, _ in named})}" if named else "the configuration lists none"
        raise ConfigError(f"{problem}; list one there to publish to", path="ledger.anchors")
    return found
