"""Tell a webhook that a step waits for a person; nothing is sent unless ``approvals.webhook`` names where."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from http.client import HTTPException
from typing import Any

from meshflow.clock import Clock
from meshflow.config.models import WebhookConfig
from meshflow.record import StepRecord

log = logging.getLogger(__name__)
SIGNATURE = "Meshflow-Signature"
_FIRST_WAIT_S = 0.5
_POSTS_AT_ONCE = 4


class Notifier:
    """Posts in the background, with retries, and never holds a step up.

    It posts on threads of its own: the loop on which a step paused may end before the post is through.

    The header ``Meshflow-Signature`` is ``t=SECONDS,v1=HEX``, HMAC-SHA256 under the secret over ``SECONDS.BODY``: the
    receiver checks both that the body is ours and that it is not an old one sent again.
    """

    def __init__(self, settings: WebhookConfig, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._threads = ThreadPoolExecutor(_POSTS_AT_ONCE, thread_name_prefix="meshflow-webhook")
        self._posting: set[Future[None]] = set()

    def announce(self, record: StepRecord) -> None:
        """Have the request of a paused step posted."""
        post = self._threads.submit(self._post, document(record, self._settings.include_input))
        self._posting.add(post)
        post.add_done_callback(self._posting.discard)

    async def drained(self) -> None:
        """Wait for what is being posted, whichever loop announced it; each post ends by itself."""
        await asyncio.gather(*map(asyncio.wrap_future, tuple(self._posting)), return_exceptions=True)

    def _post(self, told: dict[str, Any]) -> None:
        body = json.dumps(told, ensure_ascii=False, sort_keys=True).encode()
        for attempt in range(1, self._settings.attempts + 1):
            try:
                self._send(body)
                return
            except (OSError, HTTPException, ValueError) as error:
                log.warning(
                    "approval %s was not posted, try %d of %d: %s",
                    told["approval_id"], attempt, self._settings.attempts, _words(error),
                )  # fmt: skip
                if attempt < self._settings.attempts:
                    time.sleep(_FIRST_WAIT_S * 2 ** (attempt - 1))

    def _send(self, body: bytes) -> None:
        seconds = self._clock.now_us() // 1_000_000
        headers = {
            "Content-Type": "application/json",
            SIGNATURE: f"t={seconds},v1={signature(self._settings.secret.get_secret_value(), seconds, body)}",
        }
        request = urllib.request.Request(self._settings.url, body, headers, method="POST")  # noqa: S310 - http or https
        opener = urllib.request.build_opener(_NoRedirect)
        with opener.open(request, timeout=self._settings.timeout_ms / 1_000) as answer:
            answer.read(1)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """What is told goes where the setting says, and nowhere that an answer says."""

    def redirect_request(self, *_: Any) -> None:
        return None


def signature(secret: str, seconds: int, body: bytes) -> str:
    """Return the hexadecimal HMAC-SHA256 of a body at a time."""
    return hmac.new(secret.encode(), f"{seconds}.".encode() + body, sha256).hexdigest()


def document(record: StepRecord, include_input: bool) -> dict[str, Any]:
    """Return what is told of a step, redacted as the ledger has it."""
    request = record.approval_request
    assert request is not None  # noqa: S101 - told of paused steps alone
    told = {
        "v": 1, "event": "approval_requested", "approval_id": request.approval_id, "run_id": record.run_id,
        "step_id": record.step_id, "attempt": record.attempt, "node_id": record.node_id, "kind": record.node_kind,
        "tool": record.tool, "action": record.action, "tenant_id": record.tenant_id, "risk": record.risk,
        "codes": list(request.codes), "reason": record.reason, "holds_output": request.holds_output,
        "required": request.required, "expires_at_us": request.expires_at_us,
    }  # fmt: skip
    return {**told, "input": record.input} if include_input else told


def _words(error: Exception) -> str:
    return f"HTTP {error.code}" if isinstance(error, urllib.error.HTTPError) else f"{type(error).__name__}: {error}"
