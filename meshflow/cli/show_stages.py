"""``meshflow stages``: who serves each stage, and what happens when it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshflow.cli.options import Chosen
from meshflow.cli.output import print_json, print_table, say, warn
from meshflow.stages import Kind

if TYPE_CHECKING:
    from meshflow.registry.select import Slot, StageChoice

_ON_FAILURE = {
    "deny": "denies the step",
    "withhold": "output withheld",
    "fail": "the step fails",
    "log": "logged, the step stands",
    "record": "recorded, not enforced",
    "none": "the stage is disabled",
}
_HEADERS = ("#", "stage", "provider", "distribution", "version", "mode", "on failure", "timeout")


def show_stages(options: Chosen, tenant: str | None) -> None:
    """Print what serves each stage for a tenant or the base. Making the runtime checks all that can be checked."""
    from meshflow.kernel.runtime import StepRuntime

    config = options.load()
    runtime = StepRuntime(config=config)
    if tenant is not None and tenant not in config.tenants:
        warn(f"tenant {tenant!r} has no entry of its own; the base serves it")
    rows = [_stage(choice) for choice in runtime.stages(tenant)]
    if options.as_json:
        print_json({
            "config": config.name, "tenant": tenant, "fingerprint": runtime.fingerprint, "stages": rows,
        })  # fmt: skip
        return
    title = f"Stages by {config.name}" + (f" for tenant {tenant}" if tenant is not None else "")
    print_table(title, _HEADERS, [line for row in rows for line in _lines(row)], right={"#"})
    say(f"Fingerprint of the base: {runtime.fingerprint}")


def on_failure(choice: StageChoice) -> str:
    """Return what an exception, a time-out or a wrong answer at a stage does: a key of ``_ON_FAILURE``."""
    if choice.mode == "disabled" and not choice.slots:
        return "none"
    if not any(slot.enforced for slot in choice.slots):
        return "record"
    kind, name = choice.stage.kind, choice.stage.name
    if kind is Kind.RECORDER:
        return "withhold" if name == "audit_ledger" else "log"
    if kind is Kind.EXECUTION:
        return "fail"
    return "withhold" if kind is Kind.OUTPUT else "deny"


def _timeout_ms(choice: StageChoice) -> int | None:
    """Return a stage's time limit; None where there is none but the plugin's own."""
    from meshflow.kernel.compile import DEFAULT_TIMEOUT_MS, RECORDER_TIMEOUT_MS

    if choice.timeout_ms is not None:
        return choice.timeout_ms
    if choice.stage.kind is Kind.EXECUTION or choice.mode == "disabled":
        return None
    return RECORDER_TIMEOUT_MS if choice.stage.kind is Kind.RECORDER else DEFAULT_TIMEOUT_MS


def _stage(choice: StageChoice) -> dict[str, Any]:
    stage, failure = choice.stage, on_failure(choice)
    return {
        "number": stage.number,
        "stage": stage.name,
        "hook": stage.hook,
        "kind": stage.kind.value,
        "combine": stage.combine.value,
        "mode": choice.mode,
        "on_failure": failure,
        "on_failure_text": _ON_FAILURE[failure],
        "silence_denies": stage.silence_denies,
        "protected": stage.protected,
        "timeout_ms": _timeout_ms(choice),
        "providers": [_provider(slot) for slot in choice.slots],
    }


def _provider(slot: Slot) -> dict[str, Any]:
    return {
        "plugin": slot.provider.name,
        "distribution": slot.provider.distribution,
        "version": slot.provider.version,
        "enforced": slot.enforced,
        "tenant": slot.tenant,
    }


def _lines(row: dict[str, Any]) -> list[tuple[object, ...]]:
    """Return a line for each provider; what belongs to the stage stands on the first alone."""
    limit = f"{row['timeout_ms']} ms" if row["timeout_ms"] is not None else "its own" if row["providers"] else ""
    lines: list[tuple[object, ...]] = []
    for provider in row["providers"] or [None]:
        mode = row["mode"] if provider is None else "enforce" if provider["enforced"] else "shadow"
        who = (
            ("", "", "") if provider is None else tuple(provider[key] for key in ("plugin", "distribution", "version"))
        )
        first = not lines
        failure = row["on_failure_text"] if provider is None or provider["enforced"] else _ON_FAILURE["record"]
        head = (row["number"], row["stage"]) if first else ("", "")
        lines.append((*head, *who, mode, failure, limit if first else ""))
    return lines
