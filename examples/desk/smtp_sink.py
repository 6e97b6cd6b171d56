"""A mail server for tests and demonstrations that keeps what it receives and delivers nothing."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Received:
    """One message as it came in, with its envelope."""

    sender: str
    recipients: tuple[str, ...]
    message: EmailMessage

    @property
    def body(self) -> str:
        """The text of the message, its lines ended as in Python."""
        return str(self.message.get_content()).replace("\r\n", "\n")


class SmtpSink:
    """Listens on a free port of 127.0.0.1 from `with` to the end of its block, in a thread of its own."""

    def __init__(self) -> None:
        self.host = HOST
        self.port = 0
        self.received: list[Received] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="smtp-sink", daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> SmtpSink:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, HOST, 0), self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        sessions = asyncio.all_tasks() - {task for task in (asyncio.current_task(),) if task is not None}
        for session in sessions:
            session.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._converse(reader, writer)
        except ConnectionError:
            return  # the client went away in the middle of a message, which is then not received
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sender, recipients = "", list[str]()
        writer.write(b"220 sink\r\n")
        while line := await reader.readline():
            verb, _, rest = line.decode("utf-8", "replace").strip().partition(" ")
            answer = "250 OK"
            match verb.upper():
                case "MAIL":
                    sender, recipients = _address(rest), []
                case "RCPT":
                    recipients.append(_address(rest))
                case "DATA":
                    writer.write(b"354 go ahead\r\n")
                    await self._receive(reader, sender, tuple(recipients))
                case "EHLO" | "HELO" | "RSET" | "NOOP":
                    pass
                case "QUIT":
                    writer.write(b"221 bye\r\n")
                    break
                case _:
                    answer = "502 not implemented"
            writer.write(f"{answer}\r\n".encode())
            await writer.drain()

    async def _receive(self, reader: asyncio.StreamReader, sender: str, recipients: tuple[str, ...]) -> None:
        lines = list[bytes]()
        while (line := await reader.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b"."))  # the dot-stuffing of RFC 5321, section 4.5.2
        parsed = message_from_bytes(b"".join(lines), _class=EmailMessage, policy=policy.default)
        self.received.append(Received(sender, recipients, parsed))


def _address(path: str) -> str:
    return path.partition("<")[2].partition(">")[0]
