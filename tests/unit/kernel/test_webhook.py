"""A webhook is told that a step waits, under a signature, and holds nothing up."""

from __future__ import annotations

import asyncio
import hmac
import json
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from meshflow import NodeInput, ReplayLedger, StepRuntime
from meshflow.config.load import config_from_mapping
from meshflow.errors import ConfigError

SECRET = "a secret of twenty-odd characters"


class Receiver:
    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.wait_s = 0.0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(receiver.wait_s)
                receiver.got.append((dict(self.headers), body))
                status = receiver.answers.pop(0) if receiver.answers else 204
                self.send_response(status)
                if status in (301, 307):
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.end_headers()

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
    seconds, digest = (part.split("=")[1] for part in headers["Meshflow-Signature"].split(","))
    wanted = hmac.new(SECRET.encode(), f"{seconds}.".encode() + body, sha256).hexdigest()
    assert hmac.compare_digest(digest, wanted)
    assert abs(int(seconds) - time.time()) < 60


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
