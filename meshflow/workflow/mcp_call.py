"""What an mcp node does: call one tool of a server that was registered in code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from meshflow.errors import ConfigError


class McpToolError(Exception):
    """A tool that says it failed, in its own words."""


def caller(server: Any, tool: str) -> Callable[[Any], Awaitable[Any]]:
    """Return the handler of an mcp node; ConfigError where the MCP library is not installed.

    A session is opened for each call: one that is kept would belong to one task, and steps run in many. The tool's
    structured content is the output, its text where there is none.
    """
    try:
        from mcp import Client
    except ImportError as error:
        raise ConfigError('an mcp node needs the MCP library; install it with pip install "meshflow[mcp]"') from error

    async def call(given: Any) -> Any:
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"a tool takes a mapping of arguments as its input, not {type(given).__name__}")
        async with Client(server) as client:
            answer = await client.call_tool(tool, dict(given or {}))
        texts = [part.text for part in answer.content if part.type == "text"]
        if answer.is_error:
            raise McpToolError(" ".join(texts)[:300] or f"{tool} failed")
        if answer.structured_content is not None:
            return answer.structured_content
        return "\n".join(texts)

    return call
