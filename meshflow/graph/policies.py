"""How often a node is tried again, and how long its results are kept."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from meshflow.graph.errors import InvalidGraphError

_NEVER_MENDED = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, RuntimeError, SyntaxError,
    TypeError, ValueError, StopIteration, StopAsyncIteration, ReferenceError,
)  # fmt: skip


def transient(error: Exception) -> bool:
    """Return whether trying again may help: not for errors of programming, yes for connections, time-outs and the rest.

    An HTTP error counts by its status, 5xx and 429, whichever client raised it.
    """
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status >= 500 or status == 429
    return not isinstance(error, (*_NEVER_MENDED, OSError))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a node that raised is tried again, and after how long.

    ``retry_on`` is an exception class, several, or a function of the exception. Waits grow from ``initial_interval_s``
    by ``backoff_factor`` up to ``max_interval_s``; with ``jitter`` each is drawn between half and the whole of that.
    """

    max_attempts: int = 3
    initial_interval_s: float = 0.5
    backoff_factor: float = 2.0
    max_interval_s: float = 128.0
    jitter: bool = True
    retry_on: type[Exception] | Sequence[type[Exception]] | Callable[[Exception], bool] = transient

    def __post_init__(self) -> None:
        if isinstance(self.max_attempts, bool) or not isinstance(self.max_attempts, int) or self.max_attempts < 1:
            raise InvalidGraphError(f"RetryPolicy.max_attempts counts from 1, not {self.max_attempts!r}")
        for name in ("initial_interval_s", "backoff_factor", "max_interval_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise InvalidGraphError(f"RetryPolicy.{name} is a number from 0, not {value!r}")

    def covers(self, error: Exception) -> bool:
        """Return whether this error is one to try again after."""
        on = self.retry_on
        if isinstance(on, type):
            return isinstance(error, on)
        if isinstance(on, Sequence):
            return isinstance(error, tuple(on))
        return bool(on(error))

    def wait_s(self, attempt: int) -> float:
        """Return how long to wait after the attempt of this number failed."""
        wait = min(self.max_interval_s, self.initial_interval_s * self.backoff_factor ** min(attempt - 1, 64))
        return wait * random.uniform(0.5, 1.0) if self.jitter else wait


def key_of(given: Any) -> bytes:
    """Return what the default cache key is: a digest of the input in the checkpoint's own form."""
    from meshflow.checkpoint.encode import encode

    return hashlib.sha256(encode(given)).digest()


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """How long a node's result stands for the same input, in seconds; None for as long as the compiled graph lives.

    ``key`` makes the key from the node's input; inputs with equal keys share a result.
    """

    ttl_s: float | None = None
    key: Callable[[Any], Any] = key_of
