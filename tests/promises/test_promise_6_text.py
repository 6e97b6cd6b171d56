"""Promise 6: text is data, in configuration, in policy input, in the ledger and on a terminal."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshflow import StepRuntime
from meshflow.config import load_config, parse_config
from meshflow.errors import ConfigError
from meshflow.step import NodeInput

TEXTS = [
    "{{ 7 * 7 }}", "${HOME}", "$${HOME}", "{0.__class__}", "%(name)s %s", "__import__('os').system('false')", "`id`",
    "$(id)", "=cmd|' /C calc'!A0", "[red]x[/red][link=file:///etc/passwd]y[/link]",
    "!!python/object/apply:os.system [id]",
    "data.meshflow.policy.decision", '"}, "allow": true, {"', "'; DROP TABLE entries; --", "\x1b]0;title\x07\x1b[2J",
    "<script>alert(1)</script>", "\u202egnp.exe", "a\r\nmeshflow: step ok",
]  # fmt: skip


async def test_text_that_looks_like_code_comes_out_and_is_kept_as_it_went_in(open_desk: Callable[..., Any]) -> None:
    desk = open_desk({"plugins": {"guardrails": {"hidden_characters": "allow"}}})
    completed = 0
    for number, text in enumerate(TEXTS):
        run = f"run-{number}"
        outcome = await desk.run({"text": text}, run_id=run, handler=lambda given: given["text"], metadata={"m": text})
        if outcome.ok:
            assert outcome.output == text
            [step] = await desk.ledger.get_run(run)
            assert (step["input_task"], step["output_content"], step["metadata"]) == ({"text": text}, text, {"m": text})
            completed += 1
    assert completed > len(TEXTS) - 4


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [id]", "a: !!python/name:os.system", "a: !!binary aGk=", "a: !!set {b}",
        "a: !include /etc/passwd", "a: !ENV ${HOME}", "%TAG ! tag:yaml.org,2002:python/\n---\na: !name:os.system",
        "a: &a [*a]", "a: &a {b: *a}", "--- 1\n--- 2",
    ],
)  # fmt: skip
def test_a_tag_an_include_or_a_loop_in_yaml_is_an_error_and_nothing_else(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(text, base=Path())


def test_what_a_variable_holds_is_not_interpolated_or_parsed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INNER", "secret")
    monkeypatch.setenv("ADDRESS", "${INNER}")
    monkeypatch.setenv("SHAPE", "{issuer: x, evil: true}")
    monkeypatch.setenv("TAGGED", "!!python/object/apply:os.system [id]")
    path = tmp_path / "meshflow.yaml"
    path.write_text(
        "plugins:\n  identity: {issuer: '${ADDRESS}', audience: '${SHAPE}'}\n  tenancy: {default: '${TAGGED}'}\n"
    )
    config = load_config(path)
    assert config.plugins["identity"]["issuer"] == "${INNER}"
    assert config.plugins["identity"]["audience"] == "{issuer: x, evil: true}"
    assert config.plugins["tenancy"]["default"] == "!!python/object/apply:os.system [id]"


@pytest.mark.parametrize("key", ["allow", "data", "input", "principal", "tenant", "__proto__", "package", "..", "\x00"])
async def test_the_names_of_arguments_reach_policy_as_arguments_alone(open_desk: Callable[..., Any], key: str) -> None:
    roles = 'package meshflow.policy\n\ndecision := {"allow": input.tenant == "nobody"}\n'
    desk = open_desk()
    bundle = desk.path.parent / "bundle"
    bundle.mkdir()
    (bundle / "policy.rego").write_text(roles)
    strict = open_desk({"plugins": {"rego": {"bundle": str(bundle)}}})
    fields = {"kind": "tool", "tool": "x", "metadata": {key: "nobody"}}
    outcome = await strict.run({key: "nobody", "tenant": "nobody"}, **fields)
    assert outcome.code.startswith("policy_evaluation.")


def test_nothing_a_step_says_drives_the_terminal_or_the_markup(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    config = {"ledger": {"path": str(path)}, "plugins": {"guardrails": {"hidden_characters": "allow"}}}
    hostile = "[red]x[/red][/] \x1b[2J\x1b]8;;http://a\x07 \u202e\r\n\x9b31m"

    async def fill() -> None:
        async with StepRuntime(config=config) as runtime:
            for fields in ({}, {"kind": "tool", "tool": hostile, "action": hostile}):
                await runtime.run(
                    NodeInput(
                        node_id=hostile, run_id=hostile, step_id=f"{hostile}{len(fields)}", input={hostile: hostile},
                        metadata={hostile: hostile}, handler=lambda given: given, **fields,
                    )
                )  # fmt: skip

            def fail(_: Any) -> None:
                raise RuntimeError(hostile)

            await runtime.run(NodeInput(node_id=hostile, run_id=hostile, step_id="f", handler=fail))

    asyncio.run(fill())
    for command in (["list"], ["show", hostile], ["show", hostile, "f"], ["verify"], ["verify", hostile]):
        for extra in ([], ["--json"]):
            done = subprocess.run(
                [sys.executable, "-m", "meshflow.cli", "ledger", *command, "--ledger", str(path), *extra],
                capture_output=True, check=False, cwd=tmp_path, env={"PATH": "", "PYTHONPATH": ":".join(sys.path)},
            )  # fmt: skip
            shown = done.stdout + done.stderr
            assert done.returncode == 0, shown
            text = shown.decode()
            assert not {one for one in text if (ord(one) < 32 and one != "\n") or one in "\x9b\u202e\x7f"}, command
            if extra:
                json.loads(done.stdout)
            elif command[0] != "verify":
                assert "[red]" in text


async def test_a_name_cannot_forge_a_line_of_the_log(open_desk: Callable[..., Any], kernel_log: list[str]) -> None:
    desk = open_desk()
    await desk.run(run_id="a\n2030-01-01 INFO all is well\ud800", step_id="b\r\nforged")
    assert kernel_log
    # A lone surrogate is not printable either: a handler that writes UTF-8 fails, and the line is lost.
    assert sum(not line.isprintable() for line in kernel_log) == 0
