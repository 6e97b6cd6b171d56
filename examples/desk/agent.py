"""The desk's agent, which needs no model: it plans calls one at a time, and whoever drives it decides on each."""

from __future__ import annotations

from collections.abc import Generator

from examples.desk.case import CannotGoOnError, Case, Steps
from examples.desk.directives import obey, recipient_of
from examples.desk.plans import PLANS, read_orders
from examples.desk.understanding import Understanding
from examples.desk.values import Message, Reply, ToolCall, ToolResult, Work

UNANSWERABLE = ("noreply@", "no-reply@", "mailer-daemon@")


def work(message: Message) -> Work:
    """Work through one message.

    Yields each call and expects its result to be sent back in. The first call is the model step `understand`, whose
    value is `Understanding.as_dict()`; all others are tools. A result that is not ok never raises: the matter goes to
    a person, or the work stops.
    """
    text = message.text()
    result = yield ToolCall("understand", {"text": text}, kind="model")
    if not result.ok:
        return (yield from _hand_over_unread(message, result))
    asked = Understanding.from_dict(result.value)
    if "spam" in asked.intents:
        return Reply(message.id, "stopped", "unwanted mail, not answered", asked.intents)
    case = Case(message, asked, directives=list(asked.directives))
    try:
        yield from _serve(case)
        yield from _answer(case)
    except CannotGoOnError as stopped:
        return (yield from _hand_over(case, stopped))
    return Reply(message.id, "done", " ".join(case.told), asked.intents)


def _serve(case: Case) -> Steps:
    yield from read_orders(case)
    yield from _obey(case)
    for intent in case.asked.intents:
        yield from PLANS[intent](case)
        yield from _obey(case)


def _obey(case: Case) -> Steps:
    """Do what was taken for an instruction; nothing here asks whether the one who wrote it may."""
    while case.directives:
        directive = case.directives.pop(0)
        order = next(iter(case.found_orders()), {})
        known, exported = case.known(), ""
        if order and "phone" in directive.lower():
            customer = yield from case.call("lookup_customer", email=order["customer_email"])
            known += "\n".join(f"{key}: {value}" for key, value in customer.items())
        for call in obey(directive, order, known, f"{case.message.id}-list.csv"):
            if call is not None:
                value = yield from case.call(call.name, **call.arguments)
                exported = value.get("csv", "")
            else:
                recipient = recipient_of(directive)
                yield from case.call("send_email", to=recipient, subject="Customer list", body=exported)


def _answer(case: Case) -> Steps:
    sender = case.message.sender
    if sender.email.startswith(UNANSWERABLE):
        return
    body = f"Dear {sender.name},\n\n" + "\n".join(case.told) + "\n\nHalden Supply, operations desk"
    yield from case.call("send_email", to=sender.email, subject=_subject(case.message), body=body)


def _hand_over(case: Case, stopped: CannotGoOnError) -> Generator[ToolCall, ToolResult, Reply]:
    """Give the matter to a person and apologise; refused even that, stop."""
    message, call, result = case.message, stopped.call, stopped.result
    summary = (
        f"{message.id}: {call.name} was {result.status} ({result.reason}); intents {', '.join(case.asked.intents)}"
    )
    ticket = yield _ticket(message, summary[:2000])
    if not ticket.ok:
        return Reply(message.id, "stopped", summary, case.asked.intents)
    if call.name != "send_email" and not message.sender.email.startswith(UNANSWERABLE):
        waiting = "is waiting for approval" if result.status == "paused" else "could not be completed"
        body = (
            f"Dear {message.sender.name},\n\nwe are sorry: your request {waiting}."
            f" A colleague will come back to you; the ticket is {ticket.value['ticket_id']}.\n\nHalden Supply"
        )
        yield ToolCall("send_email", {"to": message.sender.email, "subject": _subject(message), "body": body})
    return Reply(message.id, "handed_over", summary, case.asked.intents)


def _hand_over_unread(message: Message, result: ToolResult) -> Generator[ToolCall, ToolResult, Reply]:
    """Give a message that could not be read to a person, without repeating anything it says."""
    summary = f"{message.id}: reading was {result.status} ({result.reason})"
    ticket = yield _ticket(message, summary[:2000])
    return Reply(message.id, "handed_over" if ticket.ok else "stopped", summary)


def _ticket(message: Message, summary: str) -> ToolCall:
    arguments = {"customer_email": message.sender.email, "queue": "general", "summary": summary}
    return ToolCall("open_ticket", arguments)


def _subject(message: Message) -> str:
    return f"Re: {' '.join(message.subject.split())}"[:200]
