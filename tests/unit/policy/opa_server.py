"""The part of OPA's REST API that an engine uses, over OPA's own evaluator.

It proves the client's side and the evaluator's; it is not the OPA server. ``fault`` is called before every answer and
may take it over.
"""

from __future__ import annotations

import datetime
import json
import re
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ERROR = re.compile(r"(?P<file>[^\s:]+):(?P<row>\d+): (?P<code>\w+): (?P<message>.*)")


class Server:
    """Serves on a free port of the loopback interface until the block is left."""

    def __init__(self, *, certificate: Path | None = None, token: str | None = None, port: int = 0) -> None:
        self.policies: dict[str, str] = {}
        self.data: dict[str, Any] = {}
        self.revision = ""
        self.token = token
        self.fault: Callable[[Handler], bool] | None = None
        self.asked: list[str] = []
        self.lock = threading.Lock()
        self._engine: Any = None
        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self._http.owner = self  # type: ignore[attr-defined]
        self._scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
            self._scheme = "https"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://localhost:{self._http.server_address[1]}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def compiled(self) -> Any:
        from opa_bindings import OpaEngine

        if self._engine is None:
            engine = OpaEngine()
            engine.print_handler = lambda message, location: None
            for name, text in self.policies.items():
                engine.add_policy(name, text)
            engine.add_data(self.data)
            engine.eval_query("true")
            self._engine = engine
        return self._engine

    def changed(self, change: Callable[[], object]) -> None:
        """Apply a change, or leave all as it was if it does not compile."""
        before = dict(self.policies), dict(self.data)
        try:
            change()
            self._engine = None
            self.compiled()
        except Exception:
            self.policies, self.data = before
            self._engine = None
            raise


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def opa(self) -> Server:
        owner: Server = self.server.owner  # type: ignore[attr-defined]
        return owner

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:  # the client has gone, or did not trust us
            self.close_connection = True

    def do_GET(self) -> None:
        self.serve()

    do_POST = do_PUT = do_DELETE = do_GET

    def serve(self) -> None:
        from opa_bindings import OpaError

        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = urlsplit(self.path)
        query, path = parse_qs(parts.query), unquote(parts.path)
        with self.opa.lock:
            self.opa.asked.append(f"{self.command} {self.path}")
        if self.opa.fault is not None and self.opa.fault(self):
            return
        if self.opa.token and self.headers.get("Authorization") != f"Bearer {self.opa.token}":
            self.answer(401, {"code": "unauthorized", "message": "request rejected by administrative policy"})
            return
        try:
            with self.opa.lock:
                status, document = self.route(path, query, body)
        except OpaError as error:
            status, document = _told(error, 400 if self.command == "PUT" else 500)
        self.answer(status, document)

    def route(self, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        opa, command = self.opa, self.command
        if path == "/health":
            return 200, {}
        if path.rstrip("/") == "/v1/policies":
            return 200, {"result": [{"id": name, "raw": text} for name, text in opa.policies.items()]}
        if path.startswith("/v1/policies/"):
            name = path.removeprefix("/v1/policies/")
            if command == "PUT":
                opa.changed(lambda: opa.policies.update({name: body.decode()}))
                return 200, {}
            if name not in opa.policies:
                return 404, {"code": "resource_not_found", "message": "storage_not_found_error"}
            opa.changed(lambda: opa.policies.pop(name))
            return 200, {}
        name = path.removeprefix("/v1/data/")
        if command == "PUT":
            opa.changed(lambda: opa.data.update({name: json.loads(body)}))
            return 204, None
        if command == "DELETE":
            opa.changed(lambda: opa.data.pop(name, None))
            return 204, None
        return 200, self.decide(name, query, json.loads(body)["input"] if body != b"{}" else None)

    def decide(self, name: str, query: dict[str, list[str]], document: Any) -> dict[str, Any]:
        from opa_bindings import OpaUndefinedError

        # The evaluator cannot be set to anything else, so what would not be equal to a server is refused.
        assert query.get("strict-builtin-errors") == ["true"], self.path
        answer: dict[str, Any] = {}
        if query.get("provenance") == ["true"]:
            answer["provenance"] = {"version": "1.20.2", "bundles": {"authz": {"revision": self.opa.revision}}}
        with suppress(OpaUndefinedError):
            answer["result"] = self.opa.compiled().eval_document(name.replace("/", "."), document)
        return answer

    def answer(self, status: int, document: Any) -> None:
        body = b"" if document is None else json.dumps(document).encode()
        self.raw(status, body, "application/json")

    def raw(self, status: int, body: bytes, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


def _told(error: Any, status: int) -> tuple[int, Any]:
    errors = [
        {
            "code": found["code"],
            "message": found["message"],
            "location": {"file": found["file"], "row": int(found["row"]), "col": 1},
        }
        for found in ERROR.finditer(error.message)
    ]
    code, message = ("invalid_parameter", "error(s) occurred while compiling module(s)") if status == 400 else (
        "internal_error", "error(s) occurred while evaluating query",
    )  # fmt: skip
    return status, {"code": code, "message": message, "errors": errors}


def write_certificates(folder: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)

    def made(subject: str, issuer: Any = None, issuer_key: Any = None) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer.subject if issuer is not None else name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + datetime.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        if issuer is None:  # without it the strict checks that Python 3.13 makes refuse an authority
            signing = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(signing, critical=True)
        else:
            names = [x509.DNSName("localhost")]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
            builder = builder.add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False
            )
        return builder.sign(issuer_key or key, hashes.SHA256()), key

    def write(name: str, certificate: Any, key: Any = None) -> None:
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        if key is not None:
            pem += key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        (folder / name).write_bytes(pem)

    authority, authority_key = made("an authority")
    write("ca.pem", authority)
    write("server.pem", *made("localhost", authority, authority_key))
    stranger, stranger_key = made("a stranger")
    write("other.pem", *made("localhost", stranger, stranger_key))
