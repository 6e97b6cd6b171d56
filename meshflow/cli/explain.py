"""``meshflow explain``: what each gate would say of a step."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from meshflow.cli.exits import ExitCode
from meshflow.cli.options import Chosen
from meshflow.cli.output import flat, line, ms, print_json, print_table, say
from meshflow.errors import ConfigError

if TYPE_CHECKING:
    from meshflow.kernel.explain import Explanation
    from meshflow.step import NodeInput

_WOULD = {"completed": "would go on to execution", "denied": "would be denied", "paused": "would wait for a person"}
_EXIT = {"completed": ExitCode.OK, "denied": ExitCode.FAILED, "paused": ExitCode.PAUSED}
_MAX_CREDENTIAL = 64 * 1024


def step_from(
    node: str, kind: str | None, tool: str | None, action: str | None, given: str | None, agent: str,
    tenant: str | None, estimate_usd: str | None, credential_file: Path | None,
) -> NodeInput:  # fmt: skip
    """Return the step that the options describe; ``typer.BadParameter`` says what is wrong with them."""
    from meshflow.step import NodeInput, to_micro_usd

    try:
        if estimate_usd is not None:
            to_micro_usd(estimate_usd)
        return NodeInput(
            node_id=node,
            input=read_input(given),
            kind=kind or ("tool" if tool is not None else "function"),
            tool=tool,
            action=action,
            agent_id=agent,
            tenant=tenant,
            estimate_usd=estimate_usd,
            credential=_credential(credential_file),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def explain_step(options: Chosen, step: NodeInput, *, fail_on_denied: bool) -> ExitCode:
    """Print every gate's answer."""
    found = asyncio.run(_explain(options, step))
    if options.as_json:
        print_json(_document(found))
    else:
        _print(found)
    return _EXIT[found.status.value] if fail_on_denied else ExitCode.OK


async def _explain(options: Chosen, step: NodeInput) -> Explanation:
    from meshflow.kernel.runtime import StepRuntime
    from meshflow.ledger import ReplayLedger

    config = options.load()
    # Starting the plugins would open, and make, the ledger that is configured; nothing of an explanation is recorded.
    async with ReplayLedger(":memory:") as nowhere, StepRuntime(ledger=nowhere, config=config) as runtime:
        return await runtime.explain(step)


def _document(found: Explanation) -> dict[str, Any]:
    return {
        "status": found.status.value,
        "code": found.code,
        "reason": found.reason,
        "fingerprint": found.fingerprint,
        "facts": found.facts,
        "input": found.input,
        "stages": [result.to_dict() for result in found.results],
    }


def _print(found: Explanation) -> None:
    rows = [
        (one.stage, one.plugin, one.effect.value if one.enforced else f"{one.effect.value} (shadow)", one.code,
         "replaced; " * one.replaced + one.reason, ms(one.elapsed_ns / 1_000_000))
        for one in found.results
    ]  # fmt: skip
    print_table("", ("stage", "plugin", "effect", "code", "reason", "ms"), rows, right={"ms"})
    for name, fact in found.facts.items():
        said = _fact(fact)
        if said:
            say(f"{name}: {said}")
    say(f"The step {_WOULD[found.status.value]}." + (f" {found.code}: {line(found.reason)}" if found.code else ""))


def _fact(fact: Any) -> str:
    """Return a fact in one line, without what is empty in it."""
    if not isinstance(fact, dict):
        return line(fact)
    return "; ".join(f"{key} {_value(value)}" for key, value in fact.items() if value not in ([], {}, 0, None))


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_value(one) for one in value)
    return line(flat(value)).replace(", ", " ") if isinstance(value, dict) else line(value)


def read_input(given: str | None) -> Any:
    if given is None:
        return None
    source = _read(given[1:]) if given.startswith("@") else given
    try:
        return json.loads(source, parse_constant=_refuse_constant)
    except RecursionError:
        raise typer.BadParameter("--input is nested too deeply") from None
    except ValueError as error:
        raise typer.BadParameter(
            f"--input is not JSON: {error}; text needs quotes of its own, as in '\"hello\"'"
        ) from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _read(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {name}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{name} is not UTF-8 text") from None


def _credential(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        with path.open(encoding="ascii") as file:
            return file.read(_MAX_CREDENTIAL).strip()
    except OSError as error:
        raise ConfigError(f"cannot read the credential: {error.strerror or error}", where=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError("the credential is not a token", where=str(path)) from None
