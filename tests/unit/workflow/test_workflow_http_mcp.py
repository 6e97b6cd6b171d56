"""An http node talks to the host that was allowed and to no other; an mcp node to the server that was registered."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
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
