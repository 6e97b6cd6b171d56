"""The desk's tools, which do what they say to a database, an outbox and a mail server."""

from __future__ import annotations

import csv
import io
import smtplib
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from examples.desk.carriers import read_record
from examples.desk.database import connect
from examples.desk.declarations import QUEUES, TOOLS, ToolSpec
from examples.desk.words import words

__all__ = ["TOOLS", "Desk", "DeskError", "ToolSpec"]

EVERY_CUSTOMER = "*"
SENDER = "desk@halden-supply.example.com"
EXPORT_COLUMNS = ("order_id", "customer_email", "placed_on", "status", "currency", "total_cents")
TOTAL = "(SELECT coalesce(sum(quantity * unit_cents), 0) FROM order_lines l WHERE l.order_id = o.order_id)"


class DeskError(Exception):
    """A tool was asked for what it does not do; the message says why."""


@dataclass(frozen=True, slots=True)
class Desk:
    """The tools over one database, outbox and SMTP server; each call stands alone, so any thread may call."""

    database: Path
    outbox: Path
    smtp_host: str
    smtp_port: int

    def execute(self, name: str, arguments: Mapping[str, Any]) -> Any:
        """Call a declared tool by its name."""
        if name not in TOOLS:
            raise DeskError(f"no tool {name!r}; the tools are {', '.join(TOOLS)}")
        return getattr(self, name)(**arguments)

    def lookup_order(self, order_id: str) -> dict[str, Any]:
        """Read an order, or `found: False`; the notes are text that came from outside."""
        with connect(self.database) as db:
            order = db.execute(
                f"SELECT o.*, c.tenant, {TOTAL} AS total_cents FROM orders o"
                " JOIN customers c ON c.email = o.customer_email WHERE order_id = ?",
                (order_id,),
            ).fetchone()
            lines = db.execute(
                "SELECT sku, name, quantity, unit_cents FROM order_lines JOIN catalogue USING (sku) WHERE order_id = ?",
                (order_id,),
            ).fetchall()
        if order is None:
            return {"found": False, "order_id": order_id}
        fields = {key: order[key] for key in order.keys() if key != "carrier_record"}  # noqa: SIM118 (a Row is no dict)
        return {"found": True, **fields, "lines": [dict(line) for line in lines]}

    def lookup_customer(self, email: str) -> dict[str, Any]:
        """Read a customer, or `found: False`."""
        with connect(self.database) as db:
            customer = db.execute("SELECT * FROM customers WHERE email = ?", (email.lower(),)).fetchone()
            orders = db.execute(
                "SELECT order_id FROM orders WHERE customer_email = ? ORDER BY order_id", (email.lower(),)
            ).fetchall()
        if customer is None:
            return {"found": False, "email": email}
        return {"found": True, **dict(customer), "orders": [row["order_id"] for row in orders]}

    def search_catalogue(self, query: str) -> list[dict[str, Any]]:
        """Return up to five products that share words with the query, most shared first."""
        wanted = words(query)
        with connect(self.database) as db:
            products = [dict(row) for row in db.execute("SELECT * FROM catalogue ORDER BY sku")]
        scored = [(len(wanted & words(f"{product['sku']} {product['name']}")), product) for product in products]
        scored.sort(key=lambda pair: -pair[0])
        return [product for score, product in scored[:5] if score]

    def carrier_status(self, order_id: str) -> dict[str, str]:
        """Read the carrier's record of an order; a broken record raises what reading it raises."""
        with connect(self.database) as db:
            order = _order(db, order_id)
        if not order["carrier_record"]:
            return {"carrier": order["carrier"], "state": "NOT_DISPATCHED", "hub": "", "scanned_at": ""}
        return read_record(order["carrier"], order["carrier_record"])

    def update_address(self, order_id: str, address: str) -> dict[str, str]:
        """Change where an undelivered order goes."""
        with connect(self.database) as db:
            if _order(db, order_id)["status"] == "delivered":
                raise DeskError(f"order {order_id} has been delivered; its address can no longer change")
            db.execute("UPDATE orders SET ship_to = ? WHERE order_id = ?", (address, order_id))
        return {"order_id": order_id, "ship_to": address}

    def add_note(self, order_id: str, note: str) -> dict[str, str]:
        """Append a line to an order's notes."""
        with connect(self.database) as db:
            _order(db, order_id)
            db.execute("UPDATE orders SET notes = trim(notes || char(10) || ?) WHERE order_id = ?", (note, order_id))
        return {"order_id": order_id, "note": note}

    def open_ticket(self, customer_email: str, queue: str, summary: str) -> dict[str, Any]:
        """Hand a matter to people, and return the ticket's number."""
        if queue not in QUEUES:
            raise DeskError(f"no queue {queue!r}; the queues are {', '.join(QUEUES)}")
        with connect(self.database) as db:
            cursor = db.execute(
                "INSERT INTO tickets (customer_email, queue, summary) VALUES (?, ?, ?)",
                (customer_email, queue, summary),
            )
        return {"ticket_id": cursor.lastrowid, "queue": queue}

    def issue_refund(self, order_id: str, amount_cents: int, reason: str) -> dict[str, Any]:
        """Record a refund; together an order's refunds never exceed its total."""
        if amount_cents <= 0:
            raise DeskError(f"a refund of {amount_cents} cents is not a refund")
        with connect(self.database) as db:
            db.execute("BEGIN IMMEDIATE")
            _order(db, order_id)
            left = db.execute(
                f"SELECT {TOTAL} - (SELECT coalesce(sum(amount_cents), 0) FROM refunds r WHERE r.order_id = o.order_id)"
                " FROM orders o WHERE order_id = ?",
                (order_id,),
            ).fetchone()[0]
            if amount_cents > left:
                raise DeskError(f"{amount_cents} cents asked on {order_id}, {left} left of what was paid")
            cursor = db.execute(
                "INSERT INTO refunds (order_id, amount_cents, reason) VALUES (?, ?, ?)",
                (order_id, amount_cents, reason),
            )
        return {"refund_id": cursor.lastrowid, "order_id": order_id, "amount_cents": amount_cents}

    def export_orders(self, customer_email: str, path: str) -> dict[str, Any]:
        """Write a customer's orders, or everyone's for `*`, as CSV to a path inside the outbox."""
        target = self._inside_outbox(path)
        with connect(self.database) as db:
            found = db.execute(
                f"SELECT o.*, {TOTAL} AS total_cents FROM orders o WHERE ? IN ('*', customer_email) ORDER BY order_id",
                (customer_email.lower(),),
            ).fetchall()
        buffer = io.StringIO(newline="")
        table = csv.writer(buffer, lineterminator="\n")
        table.writerow(EXPORT_COLUMNS)
        table.writerows([row[column] for column in EXPORT_COLUMNS] for row in found)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(buffer.getvalue(), encoding="utf-8")
        return {"path": path, "rows": len(found), "csv": buffer.getvalue()}

    def send_email(self, to: str, subject: str, body: str) -> dict[str, str]:
        """Send a message; a refused recipient or a line break in a header raises."""
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = SENDER, to, subject
        mail.set_content(body)
        with smtplib.SMTP(self.smtp_host, self.smtp_port, local_hostname="localhost", timeout=10.0) as server:
            server.send_message(mail)
        return {"to": to, "subject": subject}

    def _inside_outbox(self, path: str) -> Path:
        outbox = self.outbox.resolve()
        target = (outbox / path).resolve()
        if not target.is_relative_to(outbox) or target.suffix != ".csv":
            raise DeskError(f"{path!r} is not a .csv file inside the outbox")
        return target


def _order(db: sqlite3.Connection, order_id: str) -> sqlite3.Row:
    order: sqlite3.Row | None = db.execute("SELECT * FROM orders WHERE order_id = ?", (order_id,)).fetchone()
    if order is None:
        raise DeskError(f"there is no order {order_id}")
    return order
