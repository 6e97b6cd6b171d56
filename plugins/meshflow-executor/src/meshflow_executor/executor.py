"""Stage 12: run the step's handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshflow.plugin import Decision, Execution, Host, Plugin, StepContext, StepExecutor, hookimpl
from meshflow_executor.call import Caller
from meshflow_executor.circuit import Circuits, Pass
from meshflow_executor.ending import Ending, Tasks
from meshflow_executor.limits import Limits, LimitsByTool
from meshflow_executor.meter import Meter, unwrapped
from meshflow_executor.settings import ExecutorSettings
from meshflow_executor.stream import Stream
from meshflow_executor.turn import Caps, Turn
from meshflow_executor.workers import Workers

log = logging.getLogger(__name__)
_MAX_REASON = 500


class ExecutorPlugin(Plugin[ExecutorSettings]):
    """Runs ``context.step.handler`` on ``context.input``: awaited if async, in a worker thread if not.

    The time covers all tries and the waits between them. A thread cannot be interrupted, and a coroutine may refuse to
    be: then the step fails in its time, and the call is left behind and counted.
    """

    settings_type = ExecutorSettings

    def __init__(self, settings: ExecutorSettings, host: Host | None = None) -> None:
        super().__init__(settings, host)
        self._limits = LimitsByTool(settings)
        self._circuits = Circuits()
        self._caps = Caps()
        self._tasks = Tasks(settings.grace_ms / 1_000)
        self._pool: Workers | None = None
        self._caller = Caller(self._tasks, self._workers)

    def adopt(self, previous: Plugin[Any]) -> None:
        """Go on with the circuits: what was left alone before a reload is left alone after it."""
        if isinstance(previous, ExecutorPlugin):
            self._circuits = previous._circuits

    @hookimpl
    async def startup(self) -> None:
        """Forget what belonged to another event loop; threads are started when first needed."""
        self._caps = Caps()

    @hookimpl
    async def shutdown(self) -> None:
        """Cancel what was left behind and wait for running threads, but not for ever."""
        for task in tuple(self._tasks.left_behind):
            task.cancel()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
            if not await pool.drain(self.settings.shutdown_ms / 1_000):
                log.warning("handlers still run in worker threads after shutdown")

    @hookimpl
    async def execute_step(self, context: StepContext) -> Execution | Decision | None:
        """Run the handler, or deny before it has begun."""
        step = context.step
        if step.handler is None:
            return Decision.deny("execution.no_handler", "the step has nothing to run; pass handler= to NodeInput")
        if context.look_only:
            return Decision.deny("execution.look_only", "a step that is only looked at is not executed")
        limits = self._limits.of(step)
        timeout_ms = limits.timeout_of(step)
        if timeout_ms is None:
            return Decision.deny(
                "execution.invalid_timeout", "timeout_ms must be a positive whole number of milliseconds"
            )
        now_ns = context.clock.monotonic_ns()
        key = (context.tenant_id or "", step.tool or f"node {step.node_id}")
        passed = self._circuits.enter(key, now_ns)
        if passed is Pass.REFUSED:
            return Decision.deny(
                "execution.circuit_open",
                f"{key[1]} failed {limits.circuit.failures} times in a row and rests for {limits.circuit.open_ms} ms",
            )
        turn = Turn(self._circuits, key, passed, limits.circuit, context.clock)
        try:
            most = limits.max_concurrent
            if most is not None and not await self._caps.take(turn, key[1], most, timeout_ms / 1_000):
                return _concurrency_limit(key[1], most)
            return await self._run(context, step.handler, limits, timeout_ms, now_ns, turn)
        finally:
            turn.close()

    async def _run(
        self,
        context: StepContext,
        handler: Callable[[Any], Any],
        limits: Limits,
        timeout_ms: int,
        begun_ns: int,
        turn: Turn,
    ) -> Execution | Decision:
        clock = context.clock
        meter, tries, deadline_ns = Meter(), 0, begun_ns + timeout_ms * 1_000_000
        while True:
            tries += 1
            seconds = (deadline_ns - clock.monotonic_ns()) / 1e9
            ending = await self._caller.call(handler, context, seconds)
            left_s = (deadline_ns - clock.monotonic_ns()) / 1e9
            if not ending.begun and tries == 1:
                return Decision.deny(
                    "execution.no_worker", f"all {self.settings.workers} workers were busy for {timeout_ms} ms"
                )
            # Checked twice: code that blocks the loop, or swallows its cancellation, is only seen by the clock.
            if ending.late or left_s < 0:
                turn.ended(False)
                return _failure("execution.timeout", f"the handler did not end in {timeout_ms} ms", meter, tries)
            if ending.error is None:
                return self._success(ending, context, turn, meter, tries, left_s)
            if not isinstance(ending.error, (Exception, asyncio.CancelledError)):
                turn.ended(False)
                raise ending.error
            meter.add_error(ending.error)
            wait_s = limits.wait_s(tries)
            if not limits.may_retry(context, ending.error, tries) or wait_s >= left_s:
                turn.ended(False)
                log.debug("a handler failed", exc_info=ending.error)
                return _failed(ending.error, meter, tries)
            await asyncio.sleep(wait_s)

    def _success(
        self, ending: Ending, context: StepContext, turn: Turn, meter: Meter, tries: int, left_s: float
    ) -> Execution:
        output, metered = unwrapped(ending.value)
        if metered is not None:
            try:
                meter.add_value(metered)
            except ValueError as error:
                turn.ended(None)
                return _failure("execution.invalid_cost", str(error), meter, tries)
        labels = metered.labels if metered is not None else None
        try:
            pump = self._caller.pump(output, context)
        except Exception as error:  # from the handler's own __aiter__
            turn.ended(False)
            return _failed(error, meter, tries)
        if pump is None:
            if metered is None:
                meter.add_unknown()
            turn.ended(True)
            return Execution(output, cost_micro_usd=meter.micro_usd, tokens=meter.tokens, labels=labels, tries=tries)
        stream = Stream(pump, left_s, turn.hand_over(), meter, metered is not None)
        known = meter.micro_usd if metered is not None else None
        return Execution(
            stream=stream, cost_micro_usd=known, tokens=meter.tokens, labels=labels, tries=tries, spent=stream.spent
        )  # fmt: skip

    def _workers(self) -> Workers:
        if self._pool is None:
            self._pool = Workers(self.settings.workers, self.settings.max_stuck_workers)
        return self._pool


def _failed(error: BaseException, meter: Meter, tries: int) -> Execution:
    return Execution(
        cost_micro_usd=meter.micro_usd,
        tokens=meter.tokens,
        failure_code="execution.handler_error",
        failure_reason=_words(error),
        tries=tries,
    )


def _failure(code: str, reason: str, meter: Meter, tries: int) -> Execution:
    """Return a failure of unknown cost, for which the whole reservation is spent."""
    return Execution(tokens=meter.tokens, failure_code=code, failure_reason=reason[:_MAX_REASON], tries=tries)


def _words(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as second:  # an exception's own text may fail as well
        text = f"its text cannot be had: {type(second).__name__}"
    return f"{type(error).__name__}: {text}"[:_MAX_REASON]


def _concurrency_limit(name: str, most: int) -> Decision:
    return Decision.deny(
        "execution.concurrency_limit", f"{most} calls of {name} were running for the step's whole time"
    )


if TYPE_CHECKING:
    _: StepExecutor = ExecutorPlugin(ExecutorSettings())
