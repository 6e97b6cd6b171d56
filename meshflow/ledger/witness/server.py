"""A witness over HTTP, on the standard library's server; put a proxy in front of it for TLS."""

from __future__ import annotations

import logging
import re
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from meshflow.ledger.witness.answer import MAX_BODY, Answer, Witness

log = logging.getLogger(__name__)
_CHECKPOINT = re.compile(r"/([0-9a-f]{64})/checkpoint")
_TIMEOUT_S = 30
_MOST_CONNECTIONS = 128


class WitnessServer(ThreadingHTTPServer):
    """Listens on an address; ``serve_forever`` answers until ``shutdown``."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], witness: Witness) -> None:
        self.witness = witness
        self._room = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__(address, _Handler)

    @property
    def url(self) -> str:
        """Return where the witness is reached on this machine."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread, when there is room."""
        if not self._room.acquire(timeout=_TIMEOUT_S):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, and make room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what ended a connection: mostly a client that went away."""
        log.info("connection of %s ended early", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "meshflow-witness"
    sys_version = ""
    timeout = _TIMEOUT_S
    server: WitnessServer

    def do_POST(self) -> None:
        """Answer a checkpoint."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 12):
            self._send(Answer(411, "a request has a Content-Length\n"), close=True)
        elif int(length) > MAX_BODY:
            self._send(Answer(413, f"a request has at most {MAX_BODY} bytes\n"), close=True)
        else:
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                self.close_connection = True
            elif self.path != "/add-checkpoint":
                self._send(Answer(404, "there is /add-checkpoint\n"))
            else:
                self._send(self._answered(body))

    def _answered(self, body: bytes) -> Answer:
        try:
            answer = self.server.witness.add_checkpoint(body)
        except sqlite3.Error as error:
            log.error("the witness's file fails: %s", error)
            return Answer(500, "the witness cannot remember checkpoints now\n")
        if answer.status != 200:
            log.warning("refused a checkpoint: %d %s", answer.status, answer.body.strip())
        return answer

    def do_GET(self) -> None:
        """Answer the newest checkpoint of a log, or who the witness is."""
        match = _CHECKPOINT.fullmatch(self.path)
        if match is not None:
            self._send(self.server.witness.checkpoint(match[1]))
        elif self.path == "/":
            self._send(Answer(200, "".join(f"{key.verifier}\n" for key in self.server.witness.keys)))
        else:
            self._send(Answer(404, "there is /<SHA-256 of the origin>/checkpoint\n"))

    def _send(self, answer: Answer, *, close: bool = False) -> None:
        body = answer.body.encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(body)))
        if close:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log a request."""
        log.debug(format, *args)
