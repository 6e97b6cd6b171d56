"""Tell a webhook that a step waits for a person; nothing is sent unless ``approvals.webhook`` names where."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from meshflow.clock import Clock
from meshflow.config.models import WebhookConfig
from meshflow.kernel.post import FAILURES, post, words
from meshflow.ledger.format.payload import payload_bytes
from meshflow.record import StepRecord

log = logging.getLogger(__name__)
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 8.0
_POSTS_AT_ONCE = 4
_MOST_WAITING = 10_000


class Notifier:
    """Posts in the background, with retries, and never holds a step up or fails it.

    It posts on threads of its own: the loop on which a step paused may end before the post is through.

    The header ``Meshflow-Signature`` is ``t=SECONDS,v1=HEX``, HMAC-SHA256 under the secret over ``SECONDS.BODY``: the
    receiver checks both that the body is ours and that it is not an old one sent again. A retry has the same body.
    """

    def __init__(self, settings: WebhookConfig, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._threads = ThreadPoolExecutor(_POSTS_AT_ONCE, thread_name_prefix="meshflow-webhook")
        self._posting: set[Future[None]] = set()
        self._closing = threading.Event()
        self._given_up = threading.Event()

    def announce(self, record: StepRecord) -> None:
        """Have the request of a paused step posted."""
        approval_id = record.approval_request.approval_id if record.approval_request is not None else ""
        if len(self._posting) >= _MOST_WAITING:
            log.error("approval %s is not posted: %d others wait for the webhook", approval_id, _MOST_WAITING)
            return
        try:
            posting = self._threads.submit(self._post, approval_id, record)
        except RuntimeError as error:  # the interpreter, or the runtime, is shutting down
            log.error("approval %s is not posted: %s", approval_id, error)
            return
        self._posting.add(posting)
        posting.add_done_callback(self._posted)

    async def drained(self) -> None:
        """Wait for what is being posted, whichever loop announced it, and end; to be called once.

        Each post ends by itself. Once one has failed for good, what still waits is not tried any more.
        """
        self._closing.set()
        # Shielded: a caller that waits no longer would have what is queued thrown away.
        waiting = map(asyncio.wrap_future, tuple(self._posting))
        await asyncio.shield(asyncio.gather(*waiting, return_exceptions=True))
        self._threads.shutdown(wait=False)

    def _posted(self, posting: Future[None]) -> None:
        self._posting.discard(posting)
        if (error := posting.exception()) is not None:
            log.error("an approval was not posted", exc_info=error)

    def _post(self, approval_id: str, record: StepRecord) -> None:
        body = payload_bytes(document(record, self._settings.include_input))
        attempts = self._settings.attempts
        for attempt in range(1, attempts + 1):
            if self._given_up.is_set():
                break
            try:
                post(self._settings, body, self._clock.now_us() // 1_000_000)
                return
            except FAILURES as error:
                log.warning(
                    "approval %s was not posted, try %d of %d: %s", approval_id, attempt, attempts, words(error)
                )
            if attempt < attempts:
                self._given_up.wait(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (attempt - 1)))
        if self._closing.is_set():
            self._given_up.set()
        log.error("nobody was told that approval %s waits", approval_id)


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
