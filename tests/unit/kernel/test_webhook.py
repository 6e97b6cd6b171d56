"""A webhook is told that a step waits, under a signature, and holds nothing up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from meshflow import NodeInput, ReplayLedger, StepRuntime
from meshflow.config.load import config_from_mapping
from meshflow.errors import ConfigError
from meshflow.kernel.post import post
from meshflow.ledger.format.payload import payload_bytes, payload_value

SECRET = "a secret of twenty-odd characters"


class Receiver:
    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.location = "http://127.0.0.1:9/elsewhere"
        self.wait_s = 0.0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                time.sleep(receiver.wait_s)
                receiver.got.append((dict(self.headers), body))
                status = receiver.answers.pop(0) if receiver.answers else 204
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", receiver.location)
                self.end_headers()

            do_GET = do_POST  # what a redirect that is followed makes of a post

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/approvals"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


class Verifier:
    """What a receiver does by the documentation alone: HMAC by RFC 2104, a window, and each approval once."""

    def __init__(self, secret: str = SECRET, window_s: int = 300) -> None:
        self._key = secret.encode()
        self._window_s = window_s
        self._seen: set[tuple[str, int]] = set()

    def accepts(self, header: str, body: bytes, now_s: float | None = None) -> bool:
        parts = dict(part.split("=", 1) for part in header.split(","))
        message = parts["t"].encode() + b"." + body
        key = (sha256(self._key).digest() if len(self._key) > 64 else self._key).ljust(64, b"\0")
        inner = sha256(bytes(one ^ 0x36 for one in key) + message).digest()
        if sha256(bytes(one ^ 0x5C for one in key) + inner).hexdigest() != parts["v1"]:
            return False
        if abs(int(parts["t"]) - (time.time() if now_s is None else now_s)) > self._window_s:
            return False
        told = json.loads(body)
        known = (told["approval_id"], told["attempt"])
        if known in self._seen:
            return False
        self._seen.add(known)
        return True


async def pause(receiver: Receiver, **more: Any) -> Any:
    config = {"approvals": {"webhook": {"url": receiver.url, "secret": SECRET, **more}}}
    async with ReplayLedger(":memory:", key=None) as ledger, StepRuntime(ledger, config=config) as runtime:
        return await runtime.run(
            NodeInput(node_id="n", kind="tool", tool="refund", risk="irreversible", handler=print,
                      input={"to": "4111 1111 1111 1111"})
        )  # fmt: skip


async def test_what_waits_is_posted_under_a_signature(receiver: Receiver) -> None:
    outcome = await pause(receiver)
    ((headers, body),) = receiver.got
    told = json.loads(body)
    assert told["approval_id"] == outcome.approval_id
    assert (told["tool"], told["risk"], told["required"]) == ("refund", "irreversible", 1)
    assert "input" not in told
    assert Verifier().accepts(headers["Meshflow-Signature"], body)


async def test_the_input_is_told_redacted_when_asked_for(receiver: Receiver) -> None:
    await pause(receiver, include_input=True)
    assert json.loads(receiver.got[0][1])["input"] == {"to": "<CREDIT_CARD>"}


async def test_a_failing_receiver_is_tried_again(receiver: Receiver) -> None:
    receiver.answers = [500, 503]
    await pause(receiver)
    assert len(receiver.got) == 3


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.answers = [307] * 2
    await pause(receiver, attempts=2)
    assert len(receiver.got) == 2


async def test_a_slow_receiver_holds_no_step_up(receiver: Receiver) -> None:
    receiver.wait_s = 1.0
    config = {"approvals": {"webhook": {"url": receiver.url, "secret": SECRET}}}
    async with ReplayLedger(":memory:", key=None) as ledger, StepRuntime(ledger, config=config) as runtime:
        begun = time.perf_counter()
        step = NodeInput(node_id="n", kind="tool", tool="refund", risk="irreversible", handler=print, input={})
        outcome = await runtime.run(step)
        assert time.perf_counter() - begun < 0.8
        assert outcome.approval_id is not None
        await asyncio.sleep(0)
    assert len(receiver.got) == 1


@pytest.mark.parametrize("url", ["http://example.org/x", "ftp://example.org", "file:///etc/passwd", "https://", "x"])
def test_an_address_that_is_not_safe_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="https:// address"):
        config_from_mapping({"approvals": {"webhook": {"url": url, "secret": SECRET}}})


def test_the_secret_is_not_shown() -> None:
    config = config_from_mapping({"approvals": {"webhook": {"url": "https://example.org", "secret": SECRET}}})
    assert SECRET not in repr(config)


async def test_an_answer_that_is_no_http_is_tried_again_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def garble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(b"nonsense\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(garble, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await pause(SimpleNamespace(url=f"http://127.0.0.1:{port}/"), attempts=2)  # type: ignore[arg-type]
    assert "try 2 of 2: BadStatusLine" in caplog.text
    assert SECRET not in caplog.text


async def test_what_paused_on_a_loop_that_has_ended_is_posted_all_the_same(receiver: Receiver) -> None:
    receiver.wait_s = 0.2
    config = {"approvals": {"webhook": {"url": receiver.url, "secret": SECRET}}}
    step = NodeInput(node_id="n", kind="tool", tool="refund", risk="irreversible", handler=print, input={})
    async with ReplayLedger(":memory:", key=None) as ledger, StepRuntime(ledger, config=config) as runtime:
        await asyncio.to_thread(lambda: asyncio.run(runtime.run(step)))
        await asyncio.to_thread(runtime.run_sync, step)
    assert len(receiver.got) == 2


async def test_a_receiver_can_tell_what_was_changed_replayed_or_signed_by_another(receiver: Receiver) -> None:
    await pause(receiver)
    ((headers, body),) = receiver.got
    header = headers["Meshflow-Signature"]
    assert not Verifier(SECRET + "x").accepts(header, body)
    assert not Verifier().accepts(header, body.replace(b"refund", b"reward"))
    assert not Verifier().accepts(header.replace("t=1", "t=2"), body)
    assert not Verifier().accepts(header, body, now_s=time.time() + 301)
    verifier = Verifier()
    assert verifier.accepts(header, body)
    assert not verifier.accepts(header, body)


async def test_a_retry_says_the_same_again_under_its_own_time(receiver: Receiver) -> None:
    receiver.answers = [500]
    await pause(receiver)
    (first, body), (second, again) = receiver.got
    assert body == again
    assert all(Verifier().accepts(headers["Meshflow-Signature"], body) for headers in (first, second))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_whatever_redirect_is_answered_is_not_followed(receiver: Receiver, status: int) -> None:
    elsewhere = Receiver()
    receiver.location = elsewhere.url
    receiver.answers = [status]
    try:
        await pause(receiver, attempts=1)
    finally:
        elsewhere.close()
    assert (len(receiver.got), elsewhere.got) == (1, [])


async def test_a_proxy_of_the_environment_is_not_told_what_stays_on_this_machine(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Receiver()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    try:
        await pause(receiver)
    finally:
        proxy.close()
    assert (len(receiver.got), proxy.got) == (1, [])


def drip(server: socket.socket, at_most_s: float = 60) -> None:
    """Give one caller an answer that does not end, a byte at a time."""
    until = time.monotonic() + at_most_s
    connection, _ = server.accept()
    with connection, contextlib.suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while time.monotonic() < until:
            connection.sendall(b".")
            time.sleep(0.02)


async def test_an_answer_that_never_ends_is_cut_off_in_time(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server,))
        thread.start()
        address = SimpleNamespace(url=f"http://127.0.0.1:{server.getsockname()[1]}/")
        begun = time.perf_counter()
        await pause(address, attempts=1, timeout_ms=200)  # type: ignore[arg-type]
        assert time.perf_counter() - begun < 10
        await asyncio.to_thread(thread.join)
    assert "no answer within 200 ms" in caplog.text
    assert "nobody was told" in caplog.text


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, and which nobody else is given meanwhile."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        yield int(one.getsockname()[1])


async def test_a_receiver_that_is_down_fails_no_step_and_does_not_hold_up_the_end(
    closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"approvals": {"webhook": {"url": f"http://127.0.0.1:{closed_port}/", "secret": SECRET, "attempts": 4}}}
    step = NodeInput(node_id="n", kind="tool", tool="refund", risk="irreversible", handler=print, input={})
    async with ReplayLedger(":memory:", key=None) as ledger, StepRuntime(ledger, config=config) as runtime:
        outcomes = [await runtime.run(step) for _ in range(40)]
        begun = time.perf_counter()
    assert time.perf_counter() - begun < 20  # 40 posts of four tries each, four at a time, would take 35 seconds
    assert all(outcome.approval_id is not None for outcome in outcomes)
    assert caplog.text.count("nobody was told") == 40
    assert SECRET not in caplog.text


@pytest.mark.parametrize("value", [b"bytes", Decimal("1.5"), {1, 2}, float("nan"), {3: "x"}, "\ud800", object()])
async def test_an_input_that_is_no_json_is_told_as_the_ledger_keeps_it(
    receiver: Receiver, kit: Any, value: Any
) -> None:
    settings = {"webhook": {"url": receiver.url, "secret": SECRET, "include_input": True}}
    step = NodeInput(node_id="n", input={"value": value}, handler=print, ask="may it?")
    async with kit.runtime(approvals=settings) as runtime:
        outcome = await runtime.run(step)
    ((headers, body),) = receiver.got
    assert Verifier().accepts(headers["Meshflow-Signature"], body)
    told = json.loads(body)
    assert (told["approval_id"], told["input"]) == (outcome.approval_id, payload_value(payload_bytes(step.input)))


async def test_a_step_that_waits_when_no_thread_can_be_had_ends_as_any_other(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"approvals": {"webhook": {"url": receiver.url, "secret": SECRET}}}
    step = NodeInput(node_id="n", input="x", handler=print, ask="may it?")
    async with ReplayLedger(":memory:", key=None) as ledger, StepRuntime(ledger, config=config) as runtime:
        notifier = runtime._core.notifier
        assert notifier is not None
        notifier._threads.shutdown()  # as when the interpreter ends
        assert (await runtime.run(step)).approval_id is not None
    assert "is not posted" in caplog.text


class TestTheSecret:
    """It is nowhere but in the signature."""

    @pytest.mark.parametrize("section", [
        {"webhook": {"url": "https://example.org", "secret": SECRET, "attempts": 0}},
        {"webhook": {"url": "https://example.org", "secrets": SECRET}},
        {"webhook": {"url": "https://example.org", "secret": [SECRET]}},
        {"webhook": {"url": "https://example.org", "secret": {"is": SECRET}}},
        {"webhook": {"url": f"https://me:{SECRET}@example.org", "secret": SECRET}},
        {"webhook": SECRET},
        {"webhook": {"url": "https://example.org", "secret": SECRET[:10]}},
    ])  # fmt: skip
    def test_an_error_about_its_settings_does_not_tell_it(self, section: Any) -> None:
        with pytest.raises(ConfigError) as refused:
            config_from_mapping({"approvals": section})
        assert SECRET[:10] not in str(refused.value)
        assert SECRET[:10] not in repr(refused.value.__dict__)

    async def test_what_is_explained_recorded_and_logged_does_not_tell_it(
        self, receiver: Receiver, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(0)
        receiver.answers = [500]
        config = {"approvals": {"webhook": {"url": receiver.url, "secret": SECRET}}}
        step = NodeInput(node_id="n", input="x", handler=print, ask="may it?")
        async with ReplayLedger(":memory:", key=None) as ledger, StepRuntime(ledger, config=config) as runtime:
            told = [
                await runtime.explain(step), await runtime.run(step), runtime.config, runtime.stages(), runtime._core,
                await ledger.pending_approvals(), receiver.got,
            ]  # fmt: skip
        told += receiver.got
        assert SECRET not in repr(told)
        assert SECRET not in caplog.text


async def test_posts_that_wait_are_made_although_the_end_is_cut_off(receiver: Receiver) -> None:
    receiver.wait_s = 0.1
    config = {"approvals": {"webhook": {"url": receiver.url, "secret": SECRET}}}
    step = NodeInput(node_id="n", input="x", handler=print, ask="may it?")
    async with ReplayLedger(":memory:", key=None) as ledger:
        runtime = StepRuntime(ledger, config=config)
        for _ in range(9):
            assert (await runtime.run(step)).approval_id is not None
        assert runtime._core.notifier is not None
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(runtime._core.notifier.drained(), 0.05)
        await runtime.aclose()
    assert len(receiver.got) == 9


def test_a_connection_that_is_made_when_its_time_is_up_is_cut_off_too(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def slow(*asked: Any, **more: Any) -> Any:
        time.sleep(0.3)
        return real(*asked, **more)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server, 4.0))
        thread.start()
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        settings: Any = SimpleNamespace(
            url=f"http://127.0.0.1:{server.getsockname()[1]}/", secret=SecretStr(SECRET), timeout_ms=100
        )
        begun = time.perf_counter()
        with pytest.raises(TimeoutError, match="no answer within 100 ms"):
            post(settings, b"{}", 1)
        assert time.perf_counter() - begun < 3
        thread.join()
