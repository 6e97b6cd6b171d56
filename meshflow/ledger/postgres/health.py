"""Whether a ledger's schema and its server are as they should be; part of ``ReplayLedger.health``."""

from __future__ import annotations

from meshflow.ledger.format.findings import Health
from meshflow.ledger.postgres.tables import MIGRATIONS, SECURED, TRIGGERS
from meshflow.ledger.sql.database import Connection

_SETTINGS = "SELECT current_setting('fsync'), current_setting('full_page_writes'), current_setting('server_version')"


def server_health(connection: Connection, schema: str) -> list[Health]:
    """Look at a schema and its server without changing them."""
    return [
        Health("ok", "schema", f"version {len(MIGRATIONS)} in {schema}"),
        _triggers(connection, schema),
        _row_security(connection, schema),
        _durability(connection),
    ]


def _triggers(connection: Connection, schema: str) -> Health:
    """Compare what makes the tables append-only with what the schema has; a disabled trigger counts as missing."""
    rows = connection.execute(
        "SELECT t.tgname, t.tgenabled = 'O' FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid "
        "WHERE NOT t.tgisinternal AND c.relnamespace = to_regnamespace(quote_ident(?))",
        (schema,),
    )
    have = {name for name, enabled in rows if enabled}
    if wrong := sorted(have ^ TRIGGERS):
        return Health(
            "error", "append_only",
            f"triggers are missing, disabled or added: {', '.join(wrong)}; somebody altered the schema, so verify",
        )  # fmt: skip
    return Health("ok", "append_only", f"{len(TRIGGERS)} triggers refuse changes")


def _row_security(connection: Connection, schema: str) -> Health:
    rows = connection.execute(
        "SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity "
        "AND relnamespace = to_regnamespace(quote_ident(?))",
        (schema,),
    )
    if missing := sorted(SECURED - {row[0] for row in rows}):
        return Health("error", "row_security", f"tenants are not kept apart in {', '.join(missing)}")
    user = connection.execute("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user").fetchone()
    if user is not None and user[0]:
        return Health("warning", "row_security", "this user is above it; tenants are kept apart by the queries alone")
    return Health("ok", "row_security", f"forced on {len(SECURED)} tables")


def _durability(connection: Connection) -> Health:
    fsync, pages, version = connection.execute(_SETTINGS).fetchone()
    if "off" in (fsync, pages):
        return Health(
            "error", "durability",
            f"the server runs with fsync={fsync} and full_page_writes={pages}, so a crash of its machine loses "
            "acknowledged records",
        )  # fmt: skip
    return Health("ok", "durability", f"PostgreSQL {version} writes through")
