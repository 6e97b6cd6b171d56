"""Turn whatever goes wrong on the way to an OPA server into one failure, with its cause."""

from __future__ import annotations

from typing import Any

import orjson

from meshflow.policy.engine import PolicyFailure
from meshflow.policy.opa.messages import failure_of

_REFUSED = frozenset({401, 403})


class ServerFault(Exception):
    """An answer could not be had; ``failure`` says why."""

    def __init__(self, failure: PolicyFailure) -> None:
        super().__init__(failure.cause)
        self.failure = failure


def fault(cause: str, message: str) -> ServerFault:
    """Return a fault of one of the contract's causes."""
    return ServerFault(PolicyFailure(cause, message))


def fault_of(error: Exception) -> ServerFault:
    """Return what an exception of the client means. Its text may name addresses and is left out."""
    import aiohttp

    kind = type(error).__name__
    if isinstance(error, ServerFault):
        return error
    if isinstance(error, (aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch)):
        return fault("server_untrusted", f"the OPA server's certificate is not trusted ({kind})")
    if isinstance(error, TimeoutError):
        return fault("server_timeout", "the OPA server did not answer in time")
    if isinstance(error, (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionResetError)):
        return fault("server_cut_off", f"the OPA server closed the connection before its answer was whole ({kind})")
    if isinstance(error, (aiohttp.ClientConnectionError, OSError)):
        return fault("server_unreachable", f"the OPA server could not be reached ({kind})")
    return fault("server_nonsense", f"what answered is no OPA server ({kind})")


def read_object(status: int, body: bytes) -> dict[str, Any]:
    """Return the JSON object of a good answer; raise a ServerFault for any other."""
    if status in _REFUSED:
        raise fault("server_unauthorized", f"the OPA server refused the token (HTTP {status})")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if status != 200:
        raise _told(status, document)
    if not isinstance(document, dict):
        raise fault("server_nonsense", "the OPA server's answer is no JSON object")
    return document


def _told(status: int, document: Any) -> ServerFault:
    """Return the fault of an error answer. What OPA says of an evaluation is the policy's fault, not the server's."""
    errors = document.get("errors") if isinstance(document, dict) else None
    if isinstance(errors, list):
        for one in errors:
            code = one.get("code") if isinstance(one, dict) else None
            if isinstance(code, str) and code.startswith(("eval_", "rego_")):
                return ServerFault(failure_of(f"{code}: {one.get('message', '')}", _place(one.get("location"))))
    return fault("server_error", f"the OPA server answered with an error (HTTP {status})")


def _place(location: Any) -> str:
    if isinstance(location, dict) and isinstance(location.get("file"), str) and isinstance(location.get("row"), int):
        return f"{location['file']}:{location['row']}"
    return ""
