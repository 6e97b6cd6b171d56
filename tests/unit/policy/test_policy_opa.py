"""The OPA server as engine: pushed and checked bundles, and one cause for everything that can go wrong on the way."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meshflow.errors import ConfigError
from meshflow.policy import Bundle, Policy, PolicyAnswer, PolicyEngine, PolicyFailure, shipped_bundle
from meshflow.policy.opa import OpaEngine, OpaServer
from meshflow.policy.opa.namespace import namespace_of, place_in_namespace

if TYPE_CHECKING:
    from opa_server import Handler, Server

RULE = "data.meshflow.policy.decision"
HEAD = "package meshflow.policy\n\n"
ALLOW = 'decision := {"allow": input.x == 1}\n'


def bundle(rules: str = ALLOW, **data: Any) -> Bundle:
    return Policy.from_rego(HEAD + rules, data or None).bundle


@asynccontextmanager
async def started(
    server: str, made: Bundle | None = None, base: Path | None = None, **more: Any
) -> AsyncIterator[OpaEngine]:
    engine = OpaEngine(made or bundle(), OpaServer(server, **more), base=base)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


async def refusal(server: str, made: Bundle | None = None, base: Path | None = None, **more: Any) -> str:
    engine = OpaEngine(made or bundle(), OpaServer(server, **more), base=base)
    with pytest.raises(ConfigError) as caught:
        await engine.start()
    return str(caught.value)


async def test_it_keeps_the_contract(opa: Server) -> None:
    async with started(opa.url) as engine:
        kept: PolicyEngine = engine
        assert isinstance(kept, PolicyEngine)
        assert (kept.name, kept.version[:2], kept.bundle_digest) == ("opa", "3.", bundle().digest)
        assert kept.has(RULE)
        assert not kept.has("data.meshflow.tools.decision")
        assert await kept.evaluate(RULE, {"x": 1}) == PolicyAnswer(True)
        assert await kept.evaluate(RULE, {"x": 2}) == PolicyAnswer(False)
        failure = await kept.evaluate("data.meshflow.tools.decision", {})
        assert isinstance(failure, PolicyFailure)
        assert failure.cause == "undefined"


async def test_every_question_is_strict_and_names_the_bundle(opa: Server) -> None:
    async with started(opa.url) as engine:
        await engine.evaluate(RULE, {"x": 1})
    asked = [line for line in opa.asked if line.startswith("POST")]
    assert asked == [
        f"POST /v1/data/{namespace_of(bundle().digest)}/seal/meshflow_policy_decision?strict-builtin-errors=true"
    ]


async def test_connections_are_pooled(opa: Server) -> None:
    ports: set[int] = set()

    def noted(handler: Handler) -> bool:
        ports.add(handler.client_address[1])
        return False

    opa.fault = noted
    async with started(opa.url, connections=4) as engine:
        answers = await asyncio.gather(*(engine.evaluate(RULE, {"x": n % 2}) for n in range(60)))
    assert answers == [PolicyAnswer(n % 2 == 1) for n in range(60)]
    assert len(ports) <= 8  # a connection may be closed and made anew, but never one a question


async def test_two_versions_live_side_by_side(opa: Server) -> None:
    async with started(opa.url) as one, started(opa.url, bundle('decision := {"allow": input.x == 2}\n')) as two:
        for x in (1, 2):
            assert await one.evaluate(RULE, {"x": x}) == PolicyAnswer(x == 1)
            assert await two.evaluate(RULE, {"x": x}) == PolicyAnswer(x == 2)


async def test_the_starter_bundle_is_moved_and_compiles_in_order(opa: Server) -> None:
    made = Bundle.load(shipped_bundle("authz"))
    placed = place_in_namespace(made)
    names = [name.rpartition("/")[2] for name in placed.modules]
    assert names.index("lib.rego") < names.index("policy.rego")
    assert names[-1] == "seal.rego"
    async with started(opa.url, made) as engine:
        answer = await engine.evaluate(RULE, {"principal": None})
        assert isinstance(answer, PolicyAnswer)
        assert [reason.code for reason in answer.reasons] == ["no_principal"]


def test_text_and_comments_are_not_moved() -> None:
    rules = (
        '# data.x in a comment\ndecision := {"allow": data.list[_] == "data.y", "reasons": [{"code": "é", "message": '
        "`data.z`}]} if data.list\n"
    )
    made = bundle(rules, list=["data.y"])
    text = next(iter(place_in_namespace(made).modules.values()))
    name = namespace_of(made.digest)
    assert text == f"package {name}." + HEAD.removeprefix("package ") + rules.replace(
        "data.list", f"data.{name}.list"
    )  # fmt: skip


async def test_files_that_call_each_other_cannot_be_pushed(opa: Server) -> None:
    made = Policy.from_rego(
        {
            "a.rego": 'package meshflow.policy\ndecision := {"allow": data.b.f(1)}\ng(x) := x',
            "b.rego": "package b\nf(x) := data.meshflow.policy.g(x) == 1",
        }
    ).bundle
    assert "call each other's functions" in await refusal(opa.url, made)


async def test_a_server_that_forgot_the_bundle_gets_it_again(opa: Server) -> None:
    async with started(opa.url) as engine:
        opa.changed(lambda: (opa.policies.clear(), opa.data.clear()))
        assert await engine.evaluate(RULE, {"x": 1}) == PolicyAnswer(True)


async def test_a_bundle_that_is_there_in_part_answers_nothing(opa: Server) -> None:
    rules = {"p.rego": HEAD + 'decision := {"allow": count(denials) == 0}\ndenials contains 1 if false',
             "q.rego": HEAD + "denials contains 2"}  # fmt: skip
    made = Policy.from_rego(rules).bundle
    placed = place_in_namespace(made)
    async with started(opa.url, made) as engine:
        assert await engine.evaluate(RULE, {}) == PolicyAnswer(False)
        opa.changed(lambda: opa.policies.pop(placed.seal))
        opa.changed(lambda: opa.policies.pop(f"{placed.namespace}/q.rego"))
        assert await engine.evaluate(RULE, {}) == PolicyAnswer(False)


async def test_an_undefined_decision_is_undefined_and_pushes_nothing(opa: Server) -> None:
    async with started(opa.url, bundle('decision := {"allow": true} if input.x')) as engine:
        before = len([line for line in opa.asked if line.startswith("PUT")])
        failure = await engine.evaluate(RULE, {})
        assert isinstance(failure, PolicyFailure)
        assert failure.cause == "undefined"
        assert len([line for line in opa.asked if line.startswith("PUT")]) == before


async def test_exclusive_takes_the_bundle_away_at_the_end(opa: Server) -> None:
    async with started(opa.url):
        pass
    assert opa.policies
    async with started(opa.url, exclusive=True):
        pass
    assert (opa.policies, opa.data) == ({}, {})


async def test_a_checked_bundle_is_the_one_that_the_server_reports_with_each_answer(opa: Server) -> None:
    made = bundle()
    opa.changed(lambda: opa.policies.update(made.policies))
    assert "no bundle of the OPA server has the revision" in await refusal(opa.url, bundle="check")
    opa.revision = made.digest
    async with started(opa.url, bundle="check") as engine:
        assert await engine.evaluate(RULE, {"x": 1}) == PolicyAnswer(True)
        opa.revision = "another"
        failure = await engine.evaluate(RULE, {"x": 1})
        assert isinstance(failure, PolicyFailure)
        assert failure.cause == "server_bundle"
    assert not [line for line in opa.asked if line.startswith("PUT")]


Fault = Callable[["Handler"], bool]


def status(code: int) -> Fault:
    def answer(handler: Handler) -> bool:
        handler.answer(code, {"code": "internal_error", "message": "secret detail"})
        return True

    return answer


def html(handler: Handler) -> bool:
    handler.raw(200, b"<html>It works</html>", "text/html")
    return True


def cut_body(handler: Handler) -> bool:
    handler.raw(200, b'{"result": {"allow": tr', "application/json", length=4_000)
    handler.close_connection = True
    return True


def cut_at_once(handler: Handler) -> bool:
    handler.close_connection = True
    return True


def slow(handler: Handler) -> bool:
    time.sleep(2.0)
    return False


def endless(handler: Handler) -> bool:
    handler.raw(200, b" " * (5 << 20), "application/json")
    return True


def redirect(handler: Handler) -> bool:
    handler.send_response(307)
    handler.send_header("Location", "http://localhost:9/v1/data")
    handler.send_header("Content-Length", "0")
    handler.end_headers()
    return True


def array(handler: Handler) -> bool:
    handler.answer(200, [{"result": {"allow": True}}])
    return True


FAULTS: dict[str, tuple[Fault, str]] = {
    "500": (status(500), "server_error"),
    "503": (status(503), "server_error"),
    "404": (status(404), "server_error"),
    "401": (status(401), "server_unauthorized"),
    "403": (status(403), "server_unauthorized"),
    "a web page": (html, "server_nonsense"),
    "an array": (array, "server_nonsense"),
    "no end": (endless, "server_nonsense"),
    "closes mid-body": (cut_body, "server_cut_off"),
    "closes at once": (cut_at_once, "server_cut_off"),
    "slow": (slow, "server_timeout"),
    "a redirect": (redirect, "server_error"),
}


def _patience(name: str) -> int:
    """Little where a server is slow; else enough for a busy machine."""
    return 800 if name == "slow" else 10_000


@pytest.mark.parametrize("name", FAULTS)
async def test_each_fault_has_its_cause_and_quotes_nothing(opa: Server, name: str) -> None:
    fault, cause = FAULTS[name]
    async with started(opa.url, timeout_ms=_patience(name)) as engine:
        opa.fault = fault
        failure = await engine.evaluate(RULE, {"x": 1, "secret": "hunter2"})
        assert isinstance(failure, PolicyFailure)
        assert failure.cause == cause
        assert "secret" not in failure.message
        opa.fault = None
        assert await engine.evaluate(RULE, {"x": 1}) == PolicyAnswer(True)


@pytest.mark.parametrize("name", FAULTS)
async def test_each_fault_at_the_start_is_told_with_the_setting(opa: Server, name: str) -> None:
    fault, cause = FAULTS[name]
    opa.fault = fault
    told = await refusal(opa.url, timeout_ms=_patience(name))
    assert cause in told
    assert "plugins.rego.server.url" in told


async def test_a_server_that_goes_away_is_unreachable(opa: Server) -> None:
    async with started(opa.url) as engine:
        assert await engine.evaluate(RULE, {"x": 1}) == PolicyAnswer(True)
        opa.stop()
        opa.fault = cut_at_once  # of the connections that it still has
        causes = set()
        for _ in range(3):
            failure = await engine.evaluate(RULE, {"x": 1})
            assert isinstance(failure, PolicyFailure)
            causes.add(failure.cause)
        assert "server_unreachable" in causes
        assert causes <= {"server_unreachable", "server_cut_off"}


async def test_nobody_there_is_told_at_the_start() -> None:
    pytest.importorskip("opa_client")
    assert "server_unreachable" in await refusal("http://localhost:9")


async def test_tls_with_our_authority_and_a_token(certificates: Path) -> None:
    pytest.importorskip("opa_bindings")
    from opa_server import Server

    (certificates / "token").write_text("s3cret\n")
    with Server(certificate=certificates / "server.pem", token="s3cret") as server:
        async with started(server.url, base=certificates, ca_file="ca.pem", token="token") as engine:
            assert await engine.evaluate(RULE, {"x": 1}) == PolicyAnswer(True)
        (certificates / "token").write_text("wrong")
        assert "server_unauthorized" in await refusal(
            server.url, base=certificates, ca_file="ca.pem", token="token", bundle="check"
        )
        assert "server_untrusted" in await refusal(server.url, base=certificates)


async def test_a_wrong_certificate_is_not_trusted(certificates: Path) -> None:
    pytest.importorskip("opa_bindings")
    from opa_server import Server

    with Server(certificate=certificates / "other.pem") as server:
        assert "server_untrusted" in await refusal(server.url, base=certificates, ca_file="ca.pem")


@pytest.mark.parametrize(
    ("rules", "document", "cause"),
    [
        ('decision := {"allow": true} if input.a\n\ndecision := {"allow": false} if input.a', {"a": 1}, "conflict"),
        ('decision := {"allow": to_number(input.a) > 1}', {"a": "x"}, "engine_error"),
        ("decision := true", {}, "malformed_answer"),
        ('decision := {"allow": "yes"}', {}, "not_boolean"),
    ],
)
async def test_what_the_policy_does_wrong_is_not_the_servers_fault(
    opa: Server, rules: str, document: dict[str, Any], cause: str
) -> None:
    async with started(opa.url, bundle(rules)) as engine:
        failure = await engine.evaluate(RULE, document)
    assert isinstance(failure, PolicyFailure)
    assert failure.cause == cause


@pytest.mark.parametrize(
    "url", ["ftp://h", "localhost:8181", "http://u:pw@h:1", "http://h:1/v1", "http://h:port", "http://", "http://h?x"]
)
async def test_another_kind_of_url_is_refused_without_showing_it(url: str) -> None:
    told = await refusal(url)
    assert "plugins.rego.server.url" in told
    assert "pw" not in told


@pytest.mark.parametrize("token", ["env:MESHFLOW_NO_SUCH_TOKEN", "no-such-file", "empty", "two-lines"])
async def test_a_token_that_is_none_is_refused(token: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "two-lines").write_text("a\nX-Evil: 1")
    assert "plugins.rego.server.token" in await refusal("http://localhost:9", base=tmp_path, token=token)


async def test_a_caller_that_gives_up_ends_the_question(opa: Server) -> None:
    async with started(opa.url, timeout_ms=5_000) as engine:
        opa.fault = slow
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await engine.evaluate(RULE, {"x": 1})
        assert time.monotonic() - begun < 1.8
        opa.fault = None
        assert await engine.evaluate(RULE, {"x": 1}) == PolicyAnswer(True)


def test_one_engine_serves_several_event_loops_and_ends_its_thread(opa: Server) -> None:
    engine = OpaEngine(bundle(), OpaServer(opa.url))
    for x in (1, 2):
        assert asyncio.run(engine.evaluate(RULE, {"x": x})) == PolicyAnswer(x == 1)
    assert any(thread.name == "meshflow-opa" for thread in threading.enumerate())
    asyncio.run(engine.close())
    asyncio.run(engine.close())
    assert not any(thread.name == "meshflow-opa" for thread in threading.enumerate())


def test_an_engine_that_is_lost_ends_its_thread(opa: Server) -> None:
    engine = OpaEngine(bundle(), OpaServer(opa.url))
    asyncio.run(engine.start())
    asyncio.run(engine.close())
    del engine
    gc.collect()
    assert not any(thread.name == "meshflow-opa" for thread in threading.enumerate())


async def test_many_first_questions_start_one_engine(opa: Server) -> None:
    engine = OpaEngine(bundle(), OpaServer(opa.url, timeout_ms=10_000))
    answers = await asyncio.gather(*(engine.evaluate(RULE, {"x": 1}) for _ in range(16)))
    assert answers == [PolicyAnswer(True)] * 16
    assert sum(thread.name == "meshflow-opa" for thread in threading.enumerate()) == 1
    assert len([line for line in opa.asked if line.endswith("/health")]) == 1
    await engine.close()
