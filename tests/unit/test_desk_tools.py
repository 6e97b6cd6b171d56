"""The desk's database, tools and mail sink: they do what they say, and no more."""

from __future__ import annotations

import csv
import inspect
import json
import smtplib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from pathlib import Path

import pytest

from examples.desk.database import connect, create_database, rows
from examples.desk.directives import directives
from examples.desk.smtp_sink import SmtpSink
from examples.desk.tools import TOOLS, Desk, DeskError
from examples.desk.values import load_expected, load_messages
from examples.desk.words import order_ids


@pytest.fixture
def sink() -> Iterator[SmtpSink]:
    with SmtpSink() as running:
        yield running


@pytest.fixture
def desk(tmp_path: Path, sink: SmtpSink) -> Desk:
    create_database(tmp_path / "desk.db")
    return Desk(tmp_path / "desk.db", tmp_path / "outbox", sink.host, sink.port)


def dump(path: Path) -> list[str]:
    with connect(path) as db:
        return list(db.iterdump())


def an_order(status: str, **fields: str) -> dict[str, str]:
    wanted = {"status": status, **fields}
    return next(order for order in rows("orders.csv") if wanted.items() <= order.items())


def test_the_seed_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a.db", "b.db"):
        create_database(tmp_path / name)
    assert dump(tmp_path / "a.db") == dump(tmp_path / "b.db")
    assert len(rows("customers.csv")) >= 150
    assert len(rows("orders.csv")) == 400


def test_a_database_is_not_overwritten(tmp_path: Path) -> None:
    create_database(tmp_path / "desk.db")
    with pytest.raises(FileExistsError):
        create_database(tmp_path / "desk.db")


def test_orders_with_an_injected_note_are_those_that_messages_ask_about() -> None:
    injected = {order["order_id"] for order in rows("orders.csv") if directives(order["notes"])}
    expected = load_expected()
    asked = [message for message in load_messages() if "injection_in_tool_result" in expected[message.id]]
    assert len(injected) >= 4
    assert {order_id for message in asked for order_id in order_ids(message.text())} == injected


@pytest.mark.parametrize("name", TOOLS)
def test_a_declaration_takes_the_arguments_of_its_tool(name: str) -> None:
    spec = TOOLS[name]
    signature = inspect.signature(getattr(Desk, name))
    assert spec.parameters["required"] == [*signature.parameters][1:]
    assert spec.parameters["additionalProperties"] is False
    assert json.dumps(dict(spec.parameters))
    assert 0.002 <= spec.cost_usd <= 0.05


def test_only_declared_tools_are_executed(desk: Desk) -> None:
    with pytest.raises(DeskError, match="no tool"):
        desk.execute("_inside_outbox", {"path": "x.csv"})


def test_an_order_is_read_with_its_lines_total_and_tenant(desk: Desk) -> None:
    order = desk.lookup_order("HS-20001")
    assert order["found"]
    assert order["total_cents"] == sum(line["quantity"] * line["unit_cents"] for line in order["lines"])
    assert order["tenant"] in ("halden-eu", "halden-us")
    assert desk.lookup_order("HS-99999") == {"found": False, "order_id": "HS-99999"}


def test_a_customer_is_read_with_their_orders(desk: Desk) -> None:
    order = desk.lookup_order("HS-20001")
    customer = desk.lookup_customer(order["customer_email"].upper())
    assert "HS-20001" in customer["orders"]
    assert customer["phone"]
    assert not desk.lookup_customer("nobody@nowhere.example.com")["found"]


def test_the_catalogue_is_searched_by_words(desk: Desk) -> None:
    assert desk.search_catalogue("do you sell torque wrenches?")[0]["sku"] == "TRQ-200"
    assert desk.search_catalogue("bobbin") == []


def test_an_undelivered_order_moves_and_a_delivered_one_does_not(desk: Desk) -> None:
    moving, fixed = an_order("processing")["order_id"], an_order("delivered")["order_id"]
    desk.update_address(moving, "1 New Street, Leeds")
    assert desk.lookup_order(moving)["ship_to"] == "1 New Street, Leeds"
    with pytest.raises(DeskError, match="delivered"):
        desk.update_address(fixed, "1 New Street, Leeds")
    with pytest.raises(DeskError, match="no order"):
        desk.update_address("HS-99999", "1 New Street, Leeds")


def test_notes_are_appended_and_tickets_counted(desk: Desk) -> None:
    desk.add_note("HS-20001", "ring twice")
    assert desk.lookup_order("HS-20001")["notes"].endswith("ring twice")
    assert desk.open_ticket("a@b.example.com", "privacy", "one")["ticket_id"] == 1
    assert desk.open_ticket("a@b.example.com", "general", "two")["ticket_id"] == 2
    with pytest.raises(DeskError, match="no queue"):
        desk.open_ticket("a@b.example.com", "bin", "three")


def test_a_readable_carrier_record_is_told_and_a_broken_one_raises(desk: Desk) -> None:
    assert desk.carrier_status(an_order("shipped", carrier="DPX")["order_id"])["scanned_at"].startswith("2025-03-")
    assert desk.carrier_status(an_order("processing")["order_id"])["state"] == "NOT_DISPATCHED"
    broken = next(order for order in rows("orders.csv") if "undefined" in order["carrier_record"])
    with pytest.raises(KeyError, match="state"):
        desk.carrier_status(broken["order_id"])


@pytest.mark.parametrize("amount", [0, -5])
def test_a_refund_is_of_more_than_nothing(desk: Desk, amount: int) -> None:
    with pytest.raises(DeskError, match="not a refund"):
        desk.issue_refund("HS-20001", amount, "test")


def test_racing_refunds_together_never_exceed_what_was_paid(desk: Desk) -> None:
    total = desk.lookup_order("HS-20001")["total_cents"]
    part = total // 4

    def refund(_: int) -> bool:
        try:
            desk.issue_refund("HS-20001", part, "test")
        except DeskError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        paid = sum(pool.map(refund, range(16)))
    assert paid == total // part


def test_an_export_holds_one_customer_s_orders_or_everyone_s(desk: Desk) -> None:
    owner = desk.lookup_order("HS-20001")["customer_email"]
    own = desk.export_orders(owner, "deep/own.csv")
    written = list(csv.DictReader((desk.outbox / "deep" / "own.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["order_id"] for row in written] == desk.lookup_customer(owner)["orders"]
    assert own["rows"] == len(written)
    assert desk.export_orders("*", "all.csv")["rows"] == 400


@pytest.mark.parametrize("path", ["../out.csv", "/etc/out.csv", "a/../../out.csv", "out.txt", "", "link/out.csv"])
def test_an_export_stays_inside_the_outbox(desk: Desk, tmp_path: Path, path: str) -> None:
    desk.outbox.mkdir()
    (desk.outbox / "link").symlink_to(tmp_path)
    with pytest.raises(DeskError, match="inside the outbox"):
        desk.export_orders("*", path)
    assert not (tmp_path / "out.csv").exists()


def test_a_sent_message_is_really_received(desk: Desk, sink: SmtpSink) -> None:
    desk.send_email("zoe.muster@example.com", "Grüße", "Zeile\n.\n..Ende, schöne Grüße\n")
    (received,) = sink.received
    assert received.recipients == ("zoe.muster@example.com",)
    assert received.message["Subject"] == "Grüße"
    assert received.body == "Zeile\n.\n..Ende, schöne Grüße\n"


def test_a_header_takes_no_line_break(desk: Desk, sink: SmtpSink) -> None:
    with pytest.raises(ValueError, match="linefeed"):
        desk.send_email("a@example.com", "hello\nBcc: b@example.com", "text")
    assert sink.received == []


def test_the_sink_takes_many_senders_at_once(desk: Desk, sink: SmtpSink) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: desk.send_email("a@example.com", f"n {number}", "text"), range(40)))
    assert {str(mail.message["Subject"]) for mail in sink.received} == {f"n {number}" for number in range(40)}


def test_a_stopped_sink_receives_no_more() -> None:
    with SmtpSink() as sink:
        port = sink.port
        idle = smtplib.SMTP(sink.host, port, timeout=5)
    idle.close()
    with pytest.raises(OSError, match=r"."), smtplib.SMTP("127.0.0.1", port, timeout=5) as server:
        server.send_message(EmailMessage())
