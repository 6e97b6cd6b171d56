"""An http node talks to the host that was allowed and to no other; an mcp node to the server that was registered."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from meshflow import ConfigError, WorkflowDefinition
from meshflow.workflow import Registry, RunStatus

Answer = Callable[[str, str], tuple[str, str]]


class Server:
    """A small HTTP server; ``seen`` are the requests that came, head and body."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.answers: dict[str, tuple[str, str]] = {}
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next((int(line[16:]) for line in head.splitlines() if line.lower().startswith("content-length: ")), 0)
        self.seen.append((head, (await reader.readexactly(length)).decode()))
        status, body = self.answers.get(head.split()[1], ("200 OK", '{"ok": true}'))
        kind = "application/json" if body.startswith("{") else "text/plain"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n".encode())
        writer.write(f"Location: http://192.0.2.1/\r\nConnection: close\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()
    await listening.wait_closed()


def text(port: int, more: str = "method: POST, input: {a: 1}") -> str:
    return (
        f'nodes:\n  ask:\n    {{kind: http, url: "http://localhost:{port}/x?q=${{{{ input.q }}}}", '
        f'headers: {{X-Who: "${{{{ input.who }}}}"}}, {more}}}\n'
    )


async def test_a_request_goes_to_the_allowed_host_and_its_answer_is_the_output(world: Any, server: Server) -> None:
    world.registry.allow_host(f"localhost:{server.port}")
    result = await world.run(text(server.port), {"q": "x", "who": "ada"})
    assert result.output == {"status": 200, "content_type": "application/json", "body": {"ok": True}}
    ((head, body),) = server.seen
    assert head.startswith("POST /x?q=x HTTP/1.1\r\n")
    assert body == '{"a":1}'
    headers = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in head.splitlines()[1:]}
    assert headers["x-who"] == "ada"
    assert headers["idempotency-key"] == f"{world.run_id}:ask"
    (step,) = [one for one in await world.ledger.get_run(world.run_id) if one["step_id"] == "ask"]
    assert (step["node_kind"], step["tool"], step["risk"]) == ("http", "http", "external_io")
    steps = {one["step_id"]: one["labels"] for one in await world.ledger.get_run(world.run_id)}
    assert steps["@end"]["origin"] == "external"


async def test_a_host_that_is_not_allowed_is_refused_before_anything_runs(world: Any, server: Server) -> None:
    with pytest.raises(ConfigError, match=r"nodes\.ask: host localhost:\d+ is not allowed"):
        await world.run(text(server.port), {"q": "x", "who": "ada"})
    assert server.seen == []


@pytest.mark.parametrize("evil", ["@192.0.2.1/", "#@192.0.2.1", "/../..//192.0.2.1/", "\r\nHost: evil\r\n\r\n"])
async def test_data_in_an_address_cannot_choose_the_host(world: Any, server: Server, evil: str) -> None:
    world.registry.allow_host(f"localhost:{server.port}")
    await world.run(text(server.port), {"q": evil, "who": "ada"})
    for head, _ in server.seen:
        assert f"\r\nHost: localhost:{server.port}\r\n" in head
        assert "Host: evil\r\n" not in head.replace(f"Host: localhost:{server.port}\r\n", "")


async def test_a_header_cannot_be_smuggled_in(world: Any, server: Server) -> None:
    world.registry.allow_host(f"localhost:{server.port}")
    result = await world.run(text(server.port), {"q": "x", "who": "ada\r\nX-Admin: yes"})
    assert result.status is RunStatus.FAILED
    assert not any("X-Admin" in head for head, _ in server.seen)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("../../admin", "/v1/..%2F..%2Fadmin/x"),
        ("a?admin=1#b", "/v1/a%3Fadmin%3D1%23b/x"),
        ("%2e%2e", "/v1/%252e%252e/x"),
        ("\u00e9 &", "/v1/%C3%A9%20%26/x"),
        (7, "/v1/7/x"),
    ],
)
async def test_data_stays_within_its_part_of_the_address(world: Any, server: Server, value: Any, path: str) -> None:
    world.registry.allow_host(f"localhost:{server.port}")
    flow = f'nodes:\n  ask: {{kind: http, url: "http://localhost:{server.port}/v1/${{{{ input }}}}/x"}}\n'
    assert (await world.run(flow, value)).ok
    assert server.seen[0][0].splitlines()[0] == f"GET {path} HTTP/1.1"


async def test_data_cannot_lead_up_in_the_path(world: Any, server: Server) -> None:
    world.registry.allow_host(f"localhost:{server.port}")
    flow = f'nodes:\n  ask: {{kind: http, url: "http://localhost:{server.port}/v1/${{{{ input }}}}/x"}}\n'
    result = await world.run(flow, "..")
    assert (result.status, server.seen) == (RunStatus.FAILED, [])
    assert "leads elsewhere" in result.reason


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Authorization: Bearer x", "is secret, and a step's input is on record; give it in code"),
        ("X-Api-Key: x", "is secret"),
        ("HOST: internal", "is set by the request itself"),
        ("Transfer-Encoding: chunked", "is set by the request itself"),
    ],
)
def test_headers_that_are_secret_or_steer_the_request_are_refused_at_load(header: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=r"workflow:2:\d+: nodes\.ask\.headers\.[A-Za-z-]+: " + expected):
        WorkflowDefinition.from_yaml(f"nodes:\n  ask: {{kind: http, url: 'http://h/', headers: {{{header}}}}}\n")


async def test_headers_given_in_code_are_sent_and_on_no_record(world: Any, server: Server) -> None:
    keys = iter(["Bearer first-key", "Bearer second-key"])
    world.registry.allow_host(
        f"localhost:{server.port}", headers={"Authorization": lambda: next(keys), "X-Fixed": "f1", "x-who": "me"}
    )
    assert (await world.run(text(server.port), {"q": "x", "who": "ada"})).ok
    assert "authorization: bearer first-key" in server.seen[0][0].lower()
    assert server.seen[0][0].lower().count("x-who: ") == 1
    assert "x-who: me" in server.seen[0][0].lower()
    assert "x-fixed: f1" in server.seen[0][0].lower()
    assert "accept-encoding: identity" in server.seen[0][0].lower()
    record = await world.ledger.export_run(world.run_id)
    assert "first-key" not in record
    assert "X-Fixed" not in record
    assert "X-Who" in record
    assert "first-key" not in repr(world.registry)


@pytest.mark.parametrize("value", ["hunter2\n", " hunter2", "hunter2\r\nX-More: 1", "hunter2 \xe9", b"hunter2"])
async def test_a_header_of_code_that_cannot_be_sent_is_named_without_its_value(
    world: Any, server: Server, value: Any
) -> None:
    host = f"localhost:{server.port}"
    with pytest.raises(ConfigError, match=r"the value of the header 'X-Key' cannot be sent: ") as refused:
        world.registry.allow_host(host, headers={"X-Key": value})
    assert "hunter2" not in str(refused.value)
    world.registry.allow_host(host, headers={"X-Key": lambda: value})
    result = await world.run(text(server.port), {"q": "x", "who": "ada"})
    assert "the value of the header X-Key cannot be sent: " in result.reason
    assert "hunter2" not in result.reason
    assert "hunter2" not in await world.ledger.export_run(world.run_id)
    assert server.seen == []


async def test_headers_given_in_code_are_not_sent_in_the_clear(world: Any) -> None:
    world.registry.allow_host("api.example.org", headers={"Authorization": "Bearer x"})
    with pytest.raises(ConfigError, match="sent by https only"):
        await world.run("nodes:\n  a: {kind: http, url: 'http://api.example.org:80/'}\n")
    with pytest.raises(ConfigError, match="there are headers for host"):
        world.registry.allow_host("api.example.org", headers={"Authorization": "Bearer y"})


async def test_an_answer_that_would_swell_is_refused(world: Any) -> None:
    """A hundred kilobytes of gzip are a hundred megabytes of text, which one chunk would have made of it."""
    bomb = gzip.compress(b"x" * 100_000_000, 9)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
        writer.write(head.encode() + bomb)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    world.registry.allow_host(f"localhost:{port}")
    result = await world.run(f"nodes:\n  a: {{kind: http, url: 'http://localhost:{port}/'}}\n")
    listening.close()
    await listening.wait_closed()
    assert (result.status, result.code) == (RunStatus.FAILED, "execution.handler_error")
    assert "the answer is encoded as gzip" in result.reason


async def test_redirects_are_not_followed_and_errors_fail_the_node(world: Any, server: Server) -> None:
    world.registry.allow_host(f"localhost:{server.port}")
    server.answers["/x?q=a"] = ("302 Found", "elsewhere")
    result = await world.run(text(server.port), {"q": "a", "who": "b"})
    assert result.output["status"] == 302
    server.answers["/x?q=b"] = ("503 Busy", "busy")
    result = await world.run(text(server.port), {"q": "b", "who": "b"}, run_id=f"{world.run_id}-2")
    assert (result.status, result.code) == (RunStatus.FAILED, "execution.handler_error")
    assert "HttpStatusError: 503" in result.reason
    server.answers["/x?q=c"] = ("200 OK", "x" * 9_000_000)
    result = await world.run(text(server.port), {"q": "c", "who": "b"}, run_id=f"{world.run_id}-3")
    assert "longer than" in result.reason


async def test_proxies_of_the_environment_are_not_used(
    world: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://192.0.2.1:9/")
    world.registry.allow_host(f"localhost:{server.port}")
    assert (await world.run(text(server.port), {"q": "x", "who": "ada"})).ok


@pytest.mark.parametrize("module", ["httpx", "mcp"])
def test_a_library_that_is_missing_is_named_with_its_extra(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    node = {"httpx": "{kind: http, url: 'http://h/'}", "mcp": "{kind: mcp, server: s, tool: t}"}[module]
    registry = Registry()
    registry.allow_host("h")
    registry.server("s", "http://192.0.2.1/mcp")
    wf = WorkflowDefinition.from_yaml(f"nodes:\n  a: {node}\n")
    extra = {"httpx": "http", "mcp": "mcp"}[module]
    from meshflow.workflow.calls import target

    with pytest.raises(ConfigError, match=rf'pip install "meshflow\[{extra}\]"'):
        target(wf.plan.nodes["a"], registry)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_tool_of_an_mcp_server_is_called(world: Any) -> None:
    from mcp.server import MCPServer

    server = MCPServer("desk")

    @server.tool()
    def add(one: int, two: int) -> int:
        """Add two numbers."""
        return one + two

    @server.tool()
    def fail() -> str:
        """Fail."""
        raise ValueError("out of paper")

    world.registry.server("desk", server)
    flow = "nodes:\n  a: {kind: mcp, server: desk, tool: add, input: {one: '${{ input }}', two: 4}}\n"
    result = await world.run(flow, 3)
    assert result.output == {"result": 7}
    (step,) = [one for one in await world.ledger.get_run(world.run_id) if one["step_id"] == "a"]
    assert (step["node_kind"], step["tool"]) == ("mcp", "add")
    flow = "nodes:\n  a: {kind: mcp, server: desk, tool: fail}\n"
    result = await world.run(flow, {}, run_id=f"{world.run_id}-fail")
    assert (result.status, result.code) == (RunStatus.FAILED, "execution.handler_error")


DESK = """
import os, sys
from mcp.server import MCPServer

server = MCPServer("desk")


@server.tool()
def add(one: int, two: int) -> int:
    return one + two


@server.tool()
def who() -> str:
    return f"process {os.getpid()} knows {os.environ.get('TOKEN', 'nothing')}"


@server.tool()
def die() -> str:
    os._exit(3)


server.run("stdio")
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_tool_of_an_mcp_server_in_a_process_of_its_own_is_called(world: Any, tmp_path: Path) -> None:
    from mcp.client.stdio import StdioServerParameters

    (tmp_path / "desk.py").write_text(DESK, "utf-8")
    started = StdioServerParameters(command=sys.executable, args=[str(tmp_path / "desk.py")], env={"TOKEN": "k-123"})
    world.registry.server("desk", started)
    flow = """\
nodes:
  add: {kind: mcp, server: desk, tool: add, input: {one: "${{ input }}", two: 4}}
  who: {kind: mcp, server: desk, tool: who}
edges: [add -> who]
output: ["${{ nodes.add.output.result }}", "${{ nodes.who.output.result }}"]
"""
    result = await world.run(flow, 3)
    assert result.output[0] == 7
    process = re.fullmatch(r"process (\d+) knows k-123", result.output[1])
    assert process is not None
    assert int(process[1]) != os.getpid()
    assert not Path(f"/proc/{process[1]}").exists(), "the server outlived its call"
    steps = {one["step_id"]: one for one in await world.ledger.get_run(world.run_id)}
    assert steps["@end"]["labels"]["origin"] == "external"
    broken = "nodes:\n  a: {kind: mcp, server: desk, tool: TOOL}\n"
    for tool in ("die", "no_such_tool"):
        result = await world.run(broken.replace("TOOL", tool), {}, run_id=f"{world.run_id}-{tool}")
        assert (result.status, result.code) == (RunStatus.FAILED, "execution.handler_error"), tool
