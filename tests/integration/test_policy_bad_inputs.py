"""Whatever goes wrong with a policy denies under a code of its own, in time, and the ledger says so."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meshflow import ConfigError, NodeInput, ReplayLedger, StepRuntime
from meshflow.policy import Policy
from meshflow.record import RuntimeOutcome, Status

sys.path.append(str(Path(__file__).parents[1] / "unit" / "policy"))  # for ``opa_server``

if TYPE_CHECKING:
    from opa_server import Handler

HEAD = "package meshflow.policy\n\n"
ALLOW = HEAD + 'decision := {"allow": true}\n'
TIMEOUT_S = 2.0


async def denied(
    policy: Any, config: dict[str, Any] | None = None, before: Callable[[], None] | None = None, value: Any = 1
) -> RuntimeOutcome:
    """Run a step, see that it is denied at stage 5 with the same code in the ledger, and return its outcome."""
    settings = {"version": 1, "stages": {"policy_evaluation": {"timeout_ms": int(TIMEOUT_S * 1_000)}}, **(config or {})}
    async with (
        ReplayLedger(":memory:") as ledger,
        StepRuntime(ledger=ledger, policy=policy, config=settings) as runtime,
    ):
        if before is not None:
            before()
        outcome = await runtime.run(NodeInput(node_id="n", run_id="r", input=value, handler=pytest.fail))
        (step,) = await ledger.get_run("r")
        assert (await ledger.verify_chain("r"))["valid"]
    assert outcome.status is Status.DENIED
    stage = next(one for one in step["stages"] if one["stage"] == "policy_evaluation")
    assert (step["verdict"], step["code"], stage["code"]) == ("reject", outcome.code, outcome.code)
    assert stage["elapsed_ns"] < (TIMEOUT_S + 1) * 1e9
    return outcome


RULES = {
    "undefined": 'decision := {"allow": true} if data.limits.most > 1',  # the data document is missing
    "conflict": 'decision := {"allow": true} if input.version\n\ndecision := {"allow": false} if input.version',
    "malformed_answer": "decision := true if input.version",
    "not_boolean": 'decision := {"allow": input.version}',
    "engine_error": 'decision := {"allow": to_number(input.stage) > 1}',
    "engine_crashed": 'decision := {"allow": strings.count(input.stage, substring(input.stage, 0, 0)) > 0}',
}


@pytest.mark.parametrize("cause", RULES)
async def test_what_a_rule_does_wrong(cause: str, capfd: pytest.CaptureFixture[str]) -> None:
    outcome = await denied(Policy.from_rego(HEAD + RULES[cause] + "\n"))
    assert outcome.code == f"policy_evaluation.{cause}"
    capfd.readouterr()


async def test_an_input_of_ten_megabytes_and_one_without_a_json_form() -> None:
    assert (await denied(Policy.from_rego(ALLOW), value="x" * 10_000_000)).code == "policy_evaluation.input_too_large"
    assert (
        await denied(Policy.from_rego(ALLOW), value={"x": float("nan")})
    ).code == "policy_evaluation.unencodable_input"


@pytest.mark.slow
async def test_ten_megabytes_of_data_decide_like_any_other(tmp_path: Path) -> None:
    rows = {f"role{number}": {"tools": [f"tool{number}" * 10]} for number in range(90_000)}
    policy = Policy.from_rego(HEAD + 'decision := {"allow": data.roles[input.input].tools[0] == "no"}', {"roles": rows})
    assert len(policy.bundle.data_json) > 10_000_000
    assert (await denied(policy, value="role7")).code == "policy_evaluation.denied"


async def test_a_slow_rule_in_process_is_judged_late() -> None:
    slow = 'decision := {"allow": count([1 | some i in numbers.range(1, 900); some j in numbers.range(1, 900)]) > 0}'
    config = {"stages": {"policy_evaluation": {"timeout_ms": 20}}}
    assert (await denied(Policy.from_rego(HEAD + slow), config)).code == "policy_evaluation.stage_timeout"


BROKEN = {
    "malformed": ("decision := {", r"policy\.rego:3"),
    "a ring of rules": ('decision := {"allow": a}\na if b\nb if a', "recursion"),
    "a ring of functions": ('decision := {"allow": f(1)}\nf(x) := g(x)\ng(x) := f(x)', "call themselves"),
    "a forbidden built-in": ('decision := {"allow": http.send({})}', "may not be called"),
    "an unknown built-in": ('decision := {"allow": no.such(1)}', "known to the engine regorus"),
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_does_not_load_stops_the_start(name: str) -> None:
    rules, said = BROKEN[name]
    with pytest.raises(ConfigError, match=said):
        async with (
            ReplayLedger(":memory:") as ledger,
            StepRuntime(ledger=ledger, policy=Policy.from_rego(HEAD + rules)),
        ):
            pass


def _status(handler: Handler) -> bool:
    handler.answer(500, {"code": "internal_error", "message": "secret"})
    return True


def _html(handler: Handler) -> bool:
    handler.raw(200, b"<html></html>", "text/html")
    return True


def _cut(handler: Handler) -> bool:
    handler.raw(200, b'{"result": {"allow": tru', "application/json", length=999)
    handler.close_connection = True
    return True


def _slow(handler: Handler) -> bool:
    time.sleep(1.5)
    return False


FAULTS: dict[str, tuple[Callable[[Handler], bool], int, str]] = {
    "answers 500": (_status, 1_900, "server_error"),
    "answers a web page": (_html, 1_900, "server_nonsense"),
    "closes mid-body": (_cut, 1_900, "server_cut_off"),
    "is slow": (_slow, 700, "server_timeout"),
}


def _config(url: str, timeout_ms: int = 1_000, **server: Any) -> dict[str, Any]:
    return {"plugins": {"rego": {"engine": "opa", "server": {"url": url, "timeout_ms": timeout_ms, **server}}}}


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    pytest.importorskip("opa_bindings")
    (tmp_path / "p.rego").write_text(ALLOW)
    return str(tmp_path / "p.rego")


@pytest.mark.parametrize("name", FAULTS)
async def test_an_opa_server_that(name: str, bundle: str) -> None:
    from opa_server import Server

    fault, timeout_ms, cause = FAULTS[name]
    with Server() as server:
        outcome = await denied(bundle, _config(server.url, timeout_ms), lambda: setattr(server, "fault", fault))
    assert outcome.code == f"policy_evaluation.{cause}"
    assert "secret" not in outcome.reason


async def test_an_opa_server_that_is_slower_than_the_stage_is_cut_off(bundle: str) -> None:
    from opa_server import Server

    config = _config("", 60_000) | {"stages": {"policy_evaluation": {"timeout_ms": 100}}}
    with Server() as server:
        config["plugins"]["rego"]["server"]["url"] = server.url
        outcome = await denied(bundle, config, lambda: setattr(server, "fault", _slow))
    assert outcome.code == "policy_evaluation.stage_timeout"


async def test_an_opa_server_that_goes_down(bundle: str) -> None:
    from opa_server import Server

    with Server() as server:

        def down() -> None:
            server.fault = lambda handler: bool(setattr(handler, "close_connection", True)) or True
            server.stop()

        outcome = await denied(bundle, _config(server.url), down)
    assert outcome.code in ("policy_evaluation.server_unreachable", "policy_evaluation.server_cut_off")


async def test_an_opa_server_with_another_certificate(bundle: str, tmp_path: Path) -> None:
    from opa_server import Server, write_certificates

    write_certificates(tmp_path)
    with Server(certificate=tmp_path / "server.pem") as honest:
        config = {"version": 1, **_config(honest.url, ca_file=str(tmp_path / "ca.pem"))}
        step = NodeInput(node_id="n", run_id="r", input=1, handler=str)
        async with (
            ReplayLedger(":memory:") as ledger,
            StepRuntime(ledger=ledger, policy=bundle, config=config) as runtime,
        ):
            assert (await runtime.run(step)).ok
            honest.fault = lambda handler: bool(setattr(handler, "close_connection", True)) or True
            honest.stop()
            with Server(certificate=tmp_path / "other.pem", port=int(honest.url.rpartition(":")[2])):
                codes = [(await runtime.run(step)).code for _ in range(3)]
            recorded = [one["code"] for one in await ledger.get_run("r")]
    # The first may still go by a connection to the honest server, which closes it.
    assert codes[1:] == ["policy_evaluation.server_untrusted"] * 2
    assert recorded == ["", *codes]
