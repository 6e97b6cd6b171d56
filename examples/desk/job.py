"""The desk's job for ``meshflow run``: a batch of messages, or the calls of an earlier one that were decided since."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.desk.driver import Driver
from examples.desk.journal import Journal
from examples.desk.smtp_sink import SmtpSink
from examples.desk.tokens import TokenDesk
from examples.desk.tools import Desk
from examples.desk.values import load_messages
from meshflow import Status

if TYPE_CHECKING:
    from meshflow.cli.job import JobContext

WORK = Path(__file__).parent / "work"
AT_ONCE = 8
"""Messages that are worked through at the same time; their records share commits."""


async def job(context: JobContext) -> Mapping[str, Any]:
    """Work through the batch, or resume what waited; return what happened, for the summary."""
    journal = Journal(WORK / "waiting.json")
    with SmtpSink() as sink:
        desk = Desk(WORK / "desk.db", WORK / "outbox", sink.host, sink.port)
        driver = Driver(context.runtime, desk, TokenDesk(WORK), context.run_id)
        summary = await (_resume if context.resume else _batch)(context, driver, journal)
        return {**summary, "e-mails delivered": len(sink.received)}


async def _batch(context: JobContext, driver: Driver, journal: Journal) -> dict[str, Any]:
    messages = load_messages()
    if context.arguments:
        wanted = set(context.arguments)
        messages = [message for message in messages if message.id in wanted]
    outcomes: Counter[str] = Counter()
    places = asyncio.Semaphore(AT_ONCE)

    async def handle(message: Any) -> None:
        async with places:
            reply = await driver.handle(message)
        outcomes[reply.outcome] += 1
        context.progress(outcomes.total(), len(messages), f"{message.id} {reply.outcome}")

    async with asyncio.TaskGroup() as group:
        for message in messages:
            group.create_task(handle(message))
    journal.write([*journal.read(), *driver.waiting])
    return {
        "messages": len(messages),
        "answered": outcomes["done"],
        "handed to a person": outcomes["handed_over"],
        "stopped": outcomes["stopped"],
        "calls waiting for approval": len(driver.waiting),
    }


async def _resume(context: JobContext, driver: Driver, journal: Journal) -> dict[str, Any]:
    still, ended = [], Counter[str]()
    for waiting in journal.read():
        outcome = await driver.resume(waiting)
        if outcome.status is Status.PAUSED:
            still.append(waiting)
            continue
        ended[outcome.status.value] += 1
        context.say(f"{waiting.message_id}: {waiting.tool} {outcome.status.value} {outcome.code}".rstrip())
    journal.write(still)
    return {
        "approved calls carried out": ended["completed"],
        "refused": ended["denied"],
        "failed": ended["failed"],
        "still waiting": len(still),
    }
