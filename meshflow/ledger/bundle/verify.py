"""Verifying a bundle: a graded result that says what was checked, what was not, and what does not hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from meshflow.ledger.bundle.check import BundleCheck
from meshflow.ledger.bundle.lines import MAX_LINE, FormError
from meshflow.ledger.bundle.runs import RunCheck
from meshflow.ledger.format.checkpoints import verifiers_of
from meshflow.ledger.format.findings import Finding
from meshflow.ledger.outside import Quorum, count

BUNDLE_LAYERS = (
    "form", "signers", "checkpoint", "merkle_log", "chain", "body", "keys", "places", "commitments", "erasures",
    "forks", "held_checkpoint",
)  # fmt: skip
"""What a verifier of bundles looks at, by the names that findings use."""

Progress = Callable[[int, int], None]


def verify_bundle(
    path: str | Path, keys: Iterable[str] | None = None, checkpoints: str | Sequence[str] = (), *,
    witnesses: Sequence[str] = (), quorum: int | None = None, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Verify a bundle with nothing but the public ``keys`` and the ``checkpoints`` that are held from outside.

    Without keys those in the bundle are believed, which shows that it agrees with itself and not who signed it.
    ``witnesses`` are public keys of witnesses, of which ``quorum`` (all, unless said) must have cosigned a checkpoint
    in the bundle or from outside. ``progress`` is called with bytes read and bytes in all. NoteError for a key given
    that is none; OSError for a file that cannot be read. All else that is wrong is in ``findings`` and ``errors``, and
    ``valid`` is False then.

    ``strength`` is what a valid bundle rests on: ``itself``, ``key``, ``checkpoint`` or ``witness``. The last two hold
    even against the key's owner, for what is not newer than ``held_size`` or the size that witnesses cosigned.
    """
    wanted = Quorum(witnesses, quorum) if witnesses or quorum is not None else None
    held = [checkpoints] if isinstance(checkpoints, str) else list(checkpoints)
    check = BundleCheck(None if keys is None else verifiers_of(keys), held)
    number, stopped = 0, False
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        try:
            while line := file.readline(MAX_LINE + 1):
                number += 1
                check.take(line)
                if progress is not None and not number % 1_000:
                    progress(file.tell(), size)
            check.finish()
        except FormError as error:
            stopped = True
            check.findings.append(Finding(error.layer, f"line {max(number, 1)}: {error}"))
    witness = None
    if wanted is not None:
        witness, findings = count(check.origin, wanted, [*check.notes, *held])
        check.findings += findings
    return _result(check, stopped, witness)


def _result(check: BundleCheck, stopped: bool, witness: dict[str, Any] | None) -> dict[str, Any]:
    header, findings = check.header, list(dict.fromkeys(check.findings))
    runs = [_run(run) for run in check.runs.values() if run.entries]
    payloads = bool(header.get("payloads"))
    checked = [] if stopped else [layer for layer in BUNDLE_LAYERS if payloads or layer != "commitments"]
    if check.held is None:
        checked = [layer for layer in checked if layer != "held_checkpoint"]
    not_checked = [layer for layer in BUNDLE_LAYERS if layer not in checked]
    if witness is not None and not stopped:
        checked.append("witness")
    not_checked += ["anchor"] if "witness" in checked else ["anchor", "witness"]
    not_checked += ["signing_key"] if check.signers.given is None else []
    not_checked += ["rest_of_the_log"] if check.skipped else []
    not_checked += ["rest_of_runs"] if any(run["part"] != "whole" for run in runs) else []
    not_checked += ["parents"] if any(run.orphaned and run.part != "inherited" for run in check.runs.values()) else []
    if check.skipped and any(run["state"] == "open" for run in runs):
        not_checked.append("ends_of_open_runs")
    return {
        "valid": not findings,
        "strength": None if findings else "witness" if witness is not None else _strength(check),
        "origin": header.get("origin"),
        "size": header.get("size"),
        "writer": header.get("writer"),
        "tenant": header.get("tenant"),
        "whole_ledger": bool(header) and header["runs"] is None,
        "payloads": check.payloads if payloads else None,
        "entries": check.entries,
        "steps": sum(run["steps"] for run in runs),
        "runs": runs,
        "checkpoints": [checkpoint.size for checkpoint in check.checkpoints],
        "keys": [str(term.verifier) for term in check.signers.terms],
        "keys_from_outside": check.signers.given is not None,
        "held_size": check.held.size if check.held is not None else None,
        "anchors": check.anchors,
        "witness": witness,
        "errors": [finding.in_ledger() for finding in findings],
        "findings": [finding.as_dict() for finding in findings],
        "checked": checked,
        "not_checked": not_checked,
    }


def _strength(check: BundleCheck) -> str:
    if check.signers.given is None:
        return "itself"
    return "key" if check.held is None else "checkpoint"


def _run(run: RunCheck) -> dict[str, Any]:
    parent = run.parent or (None, 0)
    return {
        "run_id": run.run_id,
        "part": run.part,
        "state": "part" if run.part != "whole" else "closed" if run.closed else "open",
        "entries": run.entries,
        "steps": run.steps,
        "erased_payloads": run.erased,
        "gaps": len(run.gaps),
        "parent_run_id": parent[0],
        "parent_steps": parent[1],
    }
