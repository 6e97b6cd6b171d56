"""The codes that the executor answers with."""

from __future__ import annotations

CODES: dict[str, str] = {
    "execution.no_handler": "The step has no handler, so there is nothing to run.",
    "execution.look_only": "The step is only looked at, and execution would have effects.",
    "execution.invalid_timeout": "The step asks for a timeout that is not a positive whole number of milliseconds.",
    "execution.circuit_open": "The tool or node has failed too often in a row and rests for a while.",
    "execution.concurrency_limit": "As many calls of the tool as its cap allows were running until the time was up.",
    "execution.no_worker": "Every worker thread was busy until the time was up; the handler has not begun.",
    "execution.timeout": "The handler did not end in its time.",
    "execution.handler_error": "The handler raised an exception.",
    "execution.invalid_cost": "The handler reports a cost or tokens that are not a finite number from 0 on.",
}
