"""What the agent does for each thing that a message can want."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from examples.desk.case import Case, Steps

MAX_ORDERS = 3
EVERY_CUSTOMER = "*"


def read_orders(case: Case) -> Steps:
    """Look up the orders that the message names."""
    for order_id in case.asked.order_ids[:MAX_ORDERS]:
        order = yield from case.call("lookup_order", order_id=order_id)
        case.orders[order_id] = order
        if not order["found"]:
            case.told.append(f"We cannot find an order {order_id}; please check the number.")


def tell_status(case: Case) -> Steps:
    """Say where each order is, asking the carrier about those on the road."""
    if not case.orders:
        yield from _ticket(case, "general", "asks a question that names no order")
    for order in case.found_orders():
        if order["status"] != "shipped":
            case.told.append(f"Order {order['order_id']} is {order['status']}.")
            continue
        seen = yield from case.call("carrier_status", order_id=order["order_id"])
        case.told.append(
            f"{order['order_id']}: {seen['carrier']} reports {seen['state']} at {seen['hub']}, {seen['scanned_at']}."
        )


def change_address(case: Case) -> Steps:
    """Send the first order that the message names to its new address."""
    orders, address = case.found_orders(), case.asked.new_address
    if not orders or address is None:
        yield from _ticket(case, "shipping", "asks for another delivery address")
        return
    moved = yield from case.call("update_address", order_id=orders[0]["order_id"], address=address)
    case.told.append(f"Order {moved['order_id']} now goes to {moved['ship_to']}.")


def refund(case: Case) -> Steps:
    """Pay back the sum that the message names, or the whole of an order when it names none."""
    order = _order_worth(case, case.asked.refund_cents or 0)
    if order is None:
        yield from _ticket(case, "returns", "asks for a refund without an order that we know")
        return
    if order["order_id"] in case.refunded:
        return
    order_id, amount = order["order_id"], case.asked.refund_cents or order["total_cents"]
    reason = f"{case.message.id}: {case.message.subject}"[:500]
    paid = yield from case.call("issue_refund", order_id=order_id, amount_cents=amount, reason=reason)
    yield from case.call("add_note", order_id=order_id, note=f"Refunded {amount / 100:.2f} for {case.message.id}.")
    case.told.append(f"We have refunded {paid['amount_cents'] / 100:.2f} {order['currency']} on {order_id}.")


def export(case: Case) -> Steps:
    """Write the orders of the account that the message names and mail them to whom it says."""
    account = EVERY_CUSTOMER if case.asked.every_account else case.asked.account or case.message.sender.email
    exported = yield from case.call("export_orders", customer_email=account, path=f"{case.message.id}.csv")
    recipient = case.asked.destination or case.message.sender.email
    yield from case.call("send_email", to=recipient, subject=f"Orders of {account}", body=exported["csv"])
    case.told.append(f"We have sent {exported['rows']} orders to {recipient}.")


def disclose(case: Case) -> Steps:
    """Send the sender what is on file about the customer they ask for."""
    owners = [order["customer_email"] for order in case.found_orders()]
    about = [email for email in (*case.asked.emails, *owners) if email != case.message.sender.email]
    if not about:
        yield from _ticket(case, "general", "asks about another customer")
        return
    customer = yield from case.call("lookup_customer", email=about[0])
    body = "\n".join(f"{key}: {value}" for key, value in customer.items())
    yield from case.call("send_email", to=case.message.sender.email, subject=f"Details of {about[0]}", body=body)
    case.told.append("The details that you asked for are in a separate message.")


def privacy_request(case: Case) -> Steps:
    """Hand a request about personal data to the people who answer it."""
    customer = yield from case.call("lookup_customer", email=case.message.sender.email)
    known = f"{len(customer['orders'])} orders on file" if customer["found"] else "no account under this address"
    yield from _ticket(case, "privacy", f"personal data request, {known}")


def invoice(case: Case) -> Steps:
    """Ask the accounts department for an invoice."""
    yield from _ticket(case, "accounts", "asks about an invoice")


def contact_update(case: Case) -> Steps:
    """Have the accounts department change what is on file."""
    yield from case.call("lookup_customer", email=case.message.sender.email)
    yield from _ticket(case, "accounts", "asks to change the account's details")


def note(case: Case) -> Steps:
    """Keep the message's wish with the order."""
    for order in case.found_orders()[:1]:
        yield from case.call("add_note", order_id=order["order_id"], note=case.message.body[:1000])
        case.told.append(f"We have added your note to {order['order_id']}.")


def complaint(case: Case) -> Steps:
    """Open a complaint."""
    yield from _ticket(case, "complaints", "complains")


def search(case: Case) -> Steps:
    """Answer a product question with what the catalogue has."""
    products = yield from case.call("search_catalogue", query=f"{case.message.subject} {case.message.body}"[:500])
    listed = [f"{product['sku']} {product['name']}, {product['price_cents'] / 100:.2f}" for product in products]
    case.told.append("From our catalogue: " + "; ".join(listed) if listed else "Our catalogue has nothing like it.")


def thank(case: Case) -> Steps:
    """Say that the thanks were read."""
    case.told.append("Thank you for writing; we have passed it on.")
    return
    yield  # a plan without calls is still a generator


def ask_a_person(case: Case) -> Steps:
    """Hand on what the rules do not understand."""
    yield from _ticket(case, "general", "needs to be read by a person")


PLANS: dict[str, Callable[[Case], Steps]] = {
    "privacy_request": privacy_request,
    "disclose": disclose,
    "export": export,
    "change_address": change_address,
    "refund": refund,
    "note": note,
    "order_status": tell_status,
    "invoice": invoice,
    "contact_update": contact_update,
    "complaint": complaint,
    "catalogue": search,
    "thanks": thank,
    "other": ask_a_person,
}


def _ticket(case: Case, queue: str, summary: str) -> Steps:
    text = f"{case.message.id} ({case.message.subject[:200]}): {summary}"
    opened = yield from case.call("open_ticket", customer_email=case.message.sender.email, queue=queue, summary=text)
    case.told.append(f"Ticket {opened['ticket_id']} is with our {queue} team.")


def _order_worth(case: Case, cents: int) -> dict[str, Any] | None:
    orders = case.found_orders()
    return next((order for order in orders if order["total_cents"] >= cents), orders[0] if orders else None)
