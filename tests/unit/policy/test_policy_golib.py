"""OPA's own evaluator in process: its threads, its failures, and the process that forked."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from meshflow.errors import ConfigError, ContractError
from meshflow.policy import Policy, PolicyAnswer, PolicyEngine, PolicyFailure
from meshflow.policy.builtins import builtins_of
from meshflow.policy.golib import GolibEngine

RULE = "data.meshflow.policy.decision"
HEAD = "package meshflow.policy\n\n"


@pytest.fixture(autouse=True)
def _installed() -> None:
    pytest.importorskip("opa_bindings", reason="the evaluator is not installed")


def made(rules: str, data: dict[str, Any] | None = None, **settings: Any) -> GolibEngine:
    return GolibEngine(Policy.from_rego(HEAD + rules, data).bundle, **settings)


async def test_it_keeps_the_contract() -> None:
    engine: PolicyEngine = made('decision := {"allow": input.x == data.y}', {"y": 1})
    assert isinstance(engine, PolicyEngine)
    with pytest.raises(ContractError):
        engine.has(RULE)
    await engine.start()
    assert (engine.name, engine.version) == ("golib", "0.4.4")
    assert engine.has(RULE)
    assert await engine.evaluate(RULE, {"x": 1}) == PolicyAnswer(True)
    assert await engine.evaluate(RULE, {"x": 2}) == PolicyAnswer(False)
    await engine.close()
    assert await engine.evaluate(RULE, {"x": 1}) == PolicyAnswer(True)
    await engine.close()
    await engine.close()


async def test_it_has_what_the_embedded_engine_lacks() -> None:
    engine = made('decision := {"allow": crypto.sha256(input.x) == "%s"}' % ("0" * 64))
    assert await engine.evaluate(RULE, {"x": "a"}) == PolicyAnswer(False)
    await engine.close()


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        ("decision := {", "policy.rego:3"),
        ('decision := {"allow": http.send({})}', "policy.rego:3"),
        ('decision := {"allow": no.such(1)}', "policy.rego:3"),
        ("decision := x if { not x }", "policy.rego:3"),
        ('decision := {"allow": a}\na if b\nb if a', "policy.rego:"),
        ("f(x) := f(x)\ndecision := f(1)", "policy.rego:3"),
    ],
)
async def test_what_is_wrong_is_placed_when_it_starts(rules: str, place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await made(rules).start()
    assert caught.value.where.startswith(place)


async def test_evaluations_leave_the_event_loop_alone() -> None:
    engine = made(
        'decision := {"allow": count([1 | some i in numbers.range(1, 700); some j in numbers.range(1, 700)]) > 0}'
    )
    await engine.start()
    evaluation = asyncio.ensure_future(engine.evaluate(RULE, {}))
    turns = 0
    while not evaluation.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert await evaluation == PolicyAnswer(True)
    assert turns >= 3
    await engine.close()


async def test_a_caller_that_gives_up_does_not_wait() -> None:
    engine = made(
        'decision := {"allow": count([1 | some i in numbers.range(1, 900); some j in numbers.range(1, 900)]) > 0}',
        engines=1,
    )
    await engine.start()
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await engine.evaluate(RULE, {})
    waited = time.monotonic() - begun
    await engine.close()  # waits for what runs
    assert waited < time.monotonic() - begun


async def test_more_waiting_steps_than_allowed_are_refused() -> None:
    engine = made('decision := {"allow": true}', max_waiting=4)
    await engine.start()
    answers = await asyncio.gather(*(engine.evaluate(RULE, {}) for _ in range(32)))
    assert {answer.cause for answer in answers if isinstance(answer, PolicyFailure)} == {"overloaded"}
    assert answers.count(PolicyAnswer(True)) >= 4
    await engine.close()


def test_close_ends_the_threads() -> None:
    engine = made('decision := {"allow": true}')
    asyncio.run(engine.evaluate(RULE, {}))
    asyncio.run(engine.close())
    assert not any(thread.name.startswith("meshflow-golib") for thread in threading.enumerate())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_denied_and_does_not_hang() -> None:
    code = (
        "import asyncio, os, warnings\nwarnings.simplefilter('ignore')\n"
        "from meshflow.policy import Policy\nfrom meshflow.policy.golib import GolibEngine\n"
        "rule = 'data.meshflow.policy.decision'\n"
        "e = GolibEngine(Policy.from_rego('package meshflow.policy\\ndecision := {\"allow\": true}').bundle)\n"
        "assert asyncio.run(e.evaluate(rule, {})).allow\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os._exit(0 if asyncio.run(e.evaluate(rule, {})).cause == 'engine_forked' else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "asyncio.run(e.close())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


async def test_without_the_distribution_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opa_bindings", None)
    with pytest.raises(ConfigError, match="opa-golib-python-bindings"):
        await made('decision := {"allow": true}').start()


def test_the_list_of_opas_builtins_is_that_of_the_evaluator() -> None:
    from opa_bindings import OpaEngine, OpaError

    unknown = []
    for name in sorted(builtins_of("opa")):
        engine = OpaEngine()
        try:
            engine.add_policy("a.rego", f"package a\n\np := {name}()")
            engine.eval_query("true")
        except OpaError as error:
            if "undefined function" in error.message or "parse_error" in error.message:
                unknown.append(name)
        finally:
            engine.close()
    assert unknown == [name for name in unknown if name.startswith("__builtin_sets")]
