"""The desk's SQLite database: its schema, and a seed that is the same every time."""

from __future__ import annotations

import csv
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SEED = Path(__file__).parent / "seed"

TENANT_CURRENCIES = {"halden-eu": "EUR", "halden-us": "USD"}

SCHEMA = """
CREATE TABLE catalogue (
    sku TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    price_cents INTEGER NOT NULL CHECK (price_cents > 0)
);
CREATE TABLE customers (
    email TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    company TEXT NOT NULL,
    tenant TEXT NOT NULL,
    phone TEXT NOT NULL,
    address TEXT NOT NULL
);
CREATE TABLE orders (
    order_id TEXT PRIMARY KEY,
    customer_email TEXT NOT NULL REFERENCES customers (email),
    placed_on TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('processing', 'shipped', 'delivered')),
    currency TEXT NOT NULL,
    ship_to TEXT NOT NULL,
    carrier TEXT NOT NULL,
    carrier_record TEXT NOT NULL,
    notes TEXT NOT NULL
);
CREATE TABLE order_lines (
    order_id TEXT NOT NULL REFERENCES orders (order_id),
    sku TEXT NOT NULL REFERENCES catalogue (sku),
    quantity INTEGER NOT NULL CHECK (quantity > 0),
    unit_cents INTEGER NOT NULL
);
CREATE INDEX order_lines_by_order ON order_lines (order_id);
CREATE TABLE refunds (
    refund_id INTEGER PRIMARY KEY,
    order_id TEXT NOT NULL REFERENCES orders (order_id),
    amount_cents INTEGER NOT NULL CHECK (amount_cents > 0),
    reason TEXT NOT NULL
);
CREATE TABLE tickets (
    ticket_id INTEGER PRIMARY KEY,
    customer_email TEXT NOT NULL,
    queue TEXT NOT NULL,
    summary TEXT NOT NULL
);
"""


def create_database(path: Path) -> None:
    """Make and fill a new database; one that is there already is an error."""
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another path or remove it")
    with connect(path) as connection:
        connection.executescript(SCHEMA)
        connection.execute("PRAGMA journal_mode = WAL")
        seed(connection)


@contextmanager
def connect(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a connection for one call: committed on success, rolled back on an error, closed always."""
    connection = sqlite3.connect(path, timeout=10.0)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        with connection:
            yield connection
    finally:
        connection.close()


def seed(connection: sqlite3.Connection) -> None:
    """Insert the catalogue, the customers and their orders."""
    connection.executemany("INSERT INTO catalogue VALUES (:sku, :name, :price_cents)", rows("catalogue.csv"))
    customers = rows("customers.csv")
    connection.executemany(
        "INSERT INTO customers VALUES (:email, :name, :company, :tenant, :phone, :address)", customers
    )
    by_email = {customer["email"]: customer for customer in customers}
    for order in rows("orders.csv"):
        _insert_order(connection, order, by_email[order["customer_email"]])


def rows(name: str) -> list[dict[str, str]]:
    """Read one seed file."""
    with (SEED / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _insert_order(connection: sqlite3.Connection, order: dict[str, str], customer: dict[str, str]) -> None:
    values = order | {"currency": TENANT_CURRENCIES[customer["tenant"]], "ship_to": customer["address"]}
    connection.execute(
        "INSERT INTO orders VALUES (:order_id, :customer_email, :placed_on, :status, :currency, :ship_to, :carrier,"
        " :carrier_record, :notes)",
        values,
    )
    for line in order["lines"].split():
        sku, _, quantity = line.partition("*")
        connection.execute(
            "INSERT INTO order_lines SELECT ?, sku, ?, price_cents FROM catalogue WHERE sku = ?",
            (order["order_id"], int(quantity), sku),
        )
