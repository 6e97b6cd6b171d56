"""Post a signed document to a webhook: to that address alone, once, and within the time that a setting gives."""

from __future__ import annotations

import hmac
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from socket import SHUT_RDWR
from typing import Any
from urllib.parse import urlsplit

from meshflow.config.models import WebhookConfig

SIGNATURE = "Meshflow-Signature"
_CUT_AGAIN_S = 0.1
FAILURES = (OSError, HTTPException, ValueError)
"""What a try that did not succeed raises."""


def post(settings: WebhookConfig, body: bytes, seconds: int) -> None:
    """Post once; raise one of FAILURES unless the answer is a success."""
    signed = f"t={seconds},v1={signature(settings.secret.get_secret_value(), seconds, body)}"
    headers = {"Content-Type": "application/json", SIGNATURE: signed}
    request = urllib.request.Request(settings.url, body, headers, method="POST")  # noqa: S310 - http or https
    timeout_s = settings.timeout_ms / 1_000
    with _deadline(timeout_s) as connections:
        try:
            _opener(settings.url, connections).open(request, timeout=timeout_s).close()
        except urllib.error.HTTPError as error:
            error.close()
            raise


def signature(secret: str, seconds: int, body: bytes) -> str:
    """Return the hexadecimal HMAC-SHA256 of a body at a time."""
    return hmac.new(secret.encode(), f"{seconds}.".encode() + body, sha256).hexdigest()


def unreachable(settings: WebhookConfig) -> str:
    """Return why no connection to a webhook can be made; empty if one can. Nothing is posted."""
    parts, timeout_s = urlsplit(settings.url), settings.timeout_ms / 1_000
    assert parts.hostname is not None  # noqa: S101 - checked with the configuration
    made = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = made(parts.hostname, parts.port, timeout=timeout_s)
    try:
        with _deadline(timeout_s) as connections:
            connections.append(connection)
            connection.connect()
    except FAILURES as error:
        return words(error)
    finally:
        connection.close()
    return ""


def words(error: Exception) -> str:
    """Return an account of a failure, without what was posted or where."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return f"{type(cause).__name__}: {cause}"


class _Opener(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens connections and shows them to whoever may have to cut them off."""

    def __init__(self, connections: list[HTTPConnection]) -> None:
        super().__init__()
        self._connections = connections

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(self._made, HTTPConnection), request)

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(self._made, HTTPSConnection), request)

    def _made(self, kind: type[HTTPConnection], host: str, **options: Any) -> HTTPConnection:
        connection = kind(host, **options)
        self._connections.append(connection)
        return connection


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is told goes where the setting says, and nowhere that an answer says."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _opener(url: str, connections: list[HTTPConnection]) -> urllib.request.OpenerDirector:
    handlers: list[Any] = [_Opener(connections), _NoRedirect]
    if urlsplit(url).scheme == "http":  # on this machine, and readable on the way: past every proxy
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)


@contextmanager
def _deadline(timeout_s: float) -> Iterator[list[HTTPConnection]]:
    """Cut off the connections in the list after a time: a time-out of a socket begins anew with each byte."""
    connections: list[HTTPConnection] = []
    late, done = threading.Event(), threading.Event()

    def cut() -> None:
        late.set()
        while True:  # one that is being made when its time is up has no socket yet
            for connection in connections:
                with suppress(OSError, AttributeError):  # not connected yet, or not any more
                    connection.sock.shutdown(SHUT_RDWR)
            if done.wait(_CUT_AGAIN_S):
                return

    timer = threading.Timer(timeout_s, cut)
    timer.daemon = True
    timer.start()
    try:
        yield connections
    except FAILURES:
        if not late.is_set():
            raise
    finally:
        done.set()
        timer.cancel()
    if late.is_set():
        raise TimeoutError(f"no answer within {timeout_s * 1_000:.0f} ms")
