"""A witness (C2SP tlog-witness) as an anchor: it cosigns only what extends all that it has seen of the log."""

from __future__ import annotations

import asyncio
import base64
import http.client
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import Field

from meshflow.errors import ConfigError
from meshflow.ledger.anchors.contract import Anchor, AnchorError, ContradictionError, NewerKeptError, Prove, Receipt
from meshflow.ledger.format.checkpoints import read_checkpoint
from meshflow.ledger.format.cosignatures import Cosigner, cosignatures, with_lines
from meshflow.ledger.format.notes import NoteError
from meshflow.plugin.base import Settings

_TRIES = 4
_MAX_ANSWER = 262_144
_SIZE = "text/x.tlog.size"
_SERVES_NONE = (404, 405, 410, 501)


class WitnessAnchorSettings(Settings):
    """Where the witness is, and by which keys its cosignatures are known."""

    url: str = Field(min_length=1, description="submission prefix of the witness, http or https")
    keys: tuple[str, ...] = Field(min_length=1, description="public keys of the witness, of which one must cosign")
    monitoring_url: str | None = Field(
        None, min_length=1, description="monitoring prefix of the witness; unset, the url"
    )
    timeout_s: int = Field(10, ge=1, le=600, description="seconds until a request is given up")


class _Reply(NamedTuple):
    status: int
    kind: str
    body: bytes

    def said(self) -> str:
        """Return what it says, for an error message."""
        return self.body[:200].decode(errors="replace").strip() or http.client.responses.get(self.status, "")


class WitnessAnchor(Anchor):
    """Submits checkpoints; what it gives back are the cosignatures, which vouch for a checkpoint wherever it is."""

    settings_type: ClassVar[type[Settings]] = WitnessAnchorSettings

    def __init__(self, settings: WitnessAnchorSettings) -> None:
        self.settings = settings
        try:
            self.keys = [Cosigner.parse(key) for key in settings.keys]
        except NoteError as error:
            raise ConfigError(str(error), path="keys") from None
        if urlsplit(settings.url).scheme not in ("http", "https"):
            raise ConfigError("the address of a witness begins with http:// or https://", path="url")
        self.name = f"witness {self.keys[0].name}"
        self._seen = 0

    @classmethod
    def from_settings(cls, settings: WitnessAnchorSettings, base: Path) -> Self:
        """Return the witness that settings name."""
        return cls(settings)

    async def publish(self, checkpoint: str, prove: Prove | None = None) -> Receipt:
        """Have the checkpoint cosigned."""
        new = read_checkpoint(checkpoint)
        old = self._seen if self._seen <= new.size else 0
        reply = await self._submit(checkpoint, old, await self._proof(old, new.size, prove))
        for _ in range(_TRIES):
            if reply.status != 409 or not reply.kind.startswith(_SIZE) or (has := self._size(reply)) == old:
                break
            if has > new.size:
                raise NewerKeptError(
                    f"{self.name} has cosigned a checkpoint of {has} entries, which this one of {new.size} "
                    "contradicts: entries were cut off or rewritten; verify the ledger",
                    has,
                )
            old = has
            reply = await self._submit(checkpoint, old, await self._proof(old, new.size, prove))
        if reply.status != 200:
            raise self._refused(reply, old, new.size)
        self._seen = new.size
        return self._receipt(checkpoint, reply)

    def _refused(self, reply: _Reply, old: int, size: int) -> AnchorError:
        if reply.status in (409, 422) and old:
            return ContradictionError(
                f"{self.name} does not find that the {size} entries of this ledger begin with the {old} that it has "
                "cosigned: history was rewritten; keep the ledger as it is, and verify it"
            )
        meaning = {
            403: "the witness does not have the key of this ledger",
            404: "the witness does not know this ledger",
        }
        what = meaning.get(reply.status, "the witness refused")
        return AnchorError(f"{self.name}: {what} ({reply.status}: {reply.said()})")

    async def _proof(self, old: int, size: int, prove: Prove | None) -> Sequence[bytes]:
        if not 0 < old < size:
            return ()
        if prove is None:
            raise AnchorError(f"{self.name} wants a proof from {old} entries on; publish with ReplayLedger.anchor")
        return await prove(old)

    async def _submit(self, checkpoint: str, old: int, proof: Sequence[bytes]) -> _Reply:
        lines = [f"old {old}", *(base64.b64encode(step).decode() for step in proof), ""]
        body = ("\n".join(lines) + "\n" + checkpoint).encode()
        return await asyncio.to_thread(self._ask, "POST", self.settings.url, "/add-checkpoint", body)

    def _receipt(self, checkpoint: str, reply: _Reply) -> Receipt:
        try:
            cosigned = with_lines(checkpoint, reply.body.decode(), self.keys)
            found = cosignatures(cosigned, self.keys)
        except (NoteError, UnicodeDecodeError) as error:
            raise AnchorError(f"{self.name} answered with what is no cosignature: {error}") from None
        if not found:
            raise AnchorError(f"{self.name} answered with cosignatures of other keys; are its keys in the settings?")
        at = ", ".join(str(one.at_s) for one in found)
        return Receipt(f"{self.name}, cosigned at {at}", cosigned=cosigned.removeprefix(checkpoint))

    def _size(self, reply: _Reply) -> int:
        text = reply.body.decode(errors="replace")
        if not (text.endswith("\n") and text[:-1].isascii() and text[:-1].isdigit() and len(text) < 20):
            raise AnchorError(f"{self.name} answered 409 without a size: {reply.said()}")
        return int(text)

    async def latest(self, origin: str | None = None) -> str | None:
        """Return the newest checkpoint that the witness cosigned, if it serves them; it must bear a cosignature."""
        if origin is None:
            return None
        place = f"/{sha256(origin.encode()).hexdigest()}/checkpoint"
        reply = await asyncio.to_thread(
            self._ask, "GET", self.settings.monitoring_url or self.settings.url, place, None
        )
        if reply.status in _SERVES_NONE:
            return None
        if reply.status != 200:
            raise AnchorError(f"{self.name}: the witness refused ({reply.status}: {reply.said()})")
        try:
            note = reply.body.decode()
            if read_checkpoint(note).origin != origin or not cosignatures(note, self.keys):
                raise AnchorError(f"{self.name} serves a checkpoint of another log, or without its cosignature")
        except (NoteError, UnicodeDecodeError) as error:
            raise AnchorError(f"{self.name} serves what is no checkpoint: {error}") from None
        return note

    async def check(self) -> None:
        """Have it answer, whatever it says: what else it serves than ``add-checkpoint`` is its own affair."""
        await asyncio.to_thread(self._ask, "GET", self.settings.url, "/", None)

    def _ask(self, method: str, prefix: str, place: str, body: bytes | None) -> _Reply:
        address = urlsplit(prefix)
        made: Any = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = made(address.hostname or "", address.port, timeout=self.settings.timeout_s)
        headers = {"Content-Type": "text/plain; charset=utf-8"} if body is not None else {}
        try:
            connection.request(method, address.path.rstrip("/") + place, body, headers)
            answer = connection.getresponse()
            return _Reply(answer.status, answer.headers.get("Content-Type", ""), answer.read(_MAX_ANSWER))
        except (OSError, http.client.HTTPException) as error:
            raise AnchorError(f"{self.name} cannot be reached: {type(error).__name__}: {error}") from None
        finally:
            connection.close()
