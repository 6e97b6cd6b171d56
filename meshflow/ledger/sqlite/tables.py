"""The tables of a SQLite ledger, schema version 4."""

from __future__ import annotations

import sqlite3

SCHEMA_VERSION = 4

ENTRIES = """
CREATE TABLE entries (
  id INTEGER PRIMARY KEY,  -- place in the ledger, from 1 without gaps; the leaf of the log is id - 1
  run_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  step_index INTEGER,  -- of a step: its place among the steps of the run, those inherited by a fork counted
  kind TEXT NOT NULL,
  step_id TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  tenant_id TEXT NOT NULL,
  node_id TEXT,
  verdict TEXT,
  code TEXT,
  cost_micro_usd INTEGER NOT NULL,
  tokens INTEGER NOT NULL,
  started_us INTEGER NOT NULL,
  duration_ns INTEGER NOT NULL,
  approval_id TEXT,
  prev_hash BLOB NOT NULL,
  entry_hash BLOB NOT NULL,
  body BLOB NOT NULL
);
CREATE UNIQUE INDEX entries_place ON entries (run_id, seq);
CREATE UNIQUE INDEX entries_key ON entries (run_id, step_id, attempt, kind);
CREATE UNIQUE INDEX entries_step ON entries (run_id, step_index) WHERE step_index IS NOT NULL;
CREATE INDEX entries_approval ON entries (approval_id) WHERE approval_id IS NOT NULL;
CREATE INDEX entries_close ON entries (run_id) WHERE kind = 'close';
CREATE INDEX entries_erasure ON entries (run_id) WHERE kind = 'erasure';
"""

PAYLOADS = """
CREATE TABLE payloads (
  id INTEGER PRIMARY KEY,  -- the entry's id times 16, plus the field's number
  salt BLOB NOT NULL,
  data BLOB NOT NULL,
  key_id INTEGER  -- the key that salt and data are encrypted under; NULL in the clear
);
"""

RUNS = """
CREATE TABLE runs (  -- one row for each tenant's part in a run; every number is derived from the entries
  id INTEGER PRIMARY KEY,
  run_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  first_seq INTEGER NOT NULL,  -- the tenant's first entry in the run; 0 for whoever began it
  parent_run_id TEXT,  -- of a fork, in the row of whoever began it
  parent_steps INTEGER NOT NULL,  -- how many steps a fork inherits; 0 otherwise
  entries INTEGER NOT NULL,
  steps INTEGER NOT NULL,
  commits INTEGER NOT NULL,
  rejects INTEGER NOT NULL,
  escalates INTEGER NOT NULL,
  errors INTEGER NOT NULL,
  cost_micro_usd INTEGER NOT NULL,
  tokens INTEGER NOT NULL,
  first_us INTEGER,  -- earliest start of a step
  last_us INTEGER  -- latest end of a step
);
CREATE UNIQUE INDEX runs_key ON runs (run_id, tenant_id);
CREATE INDEX runs_tenant ON runs (tenant_id, id);
CREATE INDEX runs_parent ON runs (parent_run_id) WHERE parent_run_id IS NOT NULL;
CREATE TABLE run_nodes (
  run_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  node_id TEXT NOT NULL,
  first_seq INTEGER NOT NULL,  -- of the node's first step
  PRIMARY KEY (run_id, tenant_id, node_id)
) WITHOUT ROWID;
"""

TOOLS = """
CREATE TABLE run_tools (
  run_id TEXT NOT NULL,
  tenant_id TEXT NOT NULL,
  tool TEXT NOT NULL,
  first_seq INTEGER NOT NULL,  -- of the first step that calls the tool
  PRIMARY KEY (run_id, tenant_id, tool)
) WITHOUT ROWID;
"""

LOG = """
CREATE TABLE log (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  origin TEXT NOT NULL,  -- the first line of every checkpoint
  size INTEGER NOT NULL,
  frontier BLOB NOT NULL  -- roots of the complete subtrees, the largest first
);
CREATE TABLE tiles (
  level INTEGER NOT NULL,
  position INTEGER NOT NULL,
  root BLOB NOT NULL,
  hashes BLOB NOT NULL,
  PRIMARY KEY (level, position)
);
CREATE TABLE checkpoints (
  size INTEGER PRIMARY KEY,
  root BLOB NOT NULL,
  at_us INTEGER NOT NULL,
  note TEXT NOT NULL  -- a signed note whose text is a tlog-checkpoint
);
CREATE TABLE signers (
  id INTEGER PRIMARY KEY,
  verifier TEXT NOT NULL UNIQUE,  -- the public key as name+hash+key
  since_size INTEGER NOT NULL,
  note TEXT NOT NULL  -- the rotation, signed by the key before; of the first key, empty
);
"""

ANCHORS = """
CREATE TABLE receipts (  -- what anchors gave back; no evidence in itself, so nothing forbids changes
  anchor TEXT NOT NULL,
  size INTEGER NOT NULL,
  at_us INTEGER NOT NULL,
  place TEXT NOT NULL,
  note TEXT NOT NULL,  -- the checkpoint with the cosignatures of witnesses; without any, empty
  token TEXT NOT NULL,
  PRIMARY KEY (anchor, size)
) WITHOUT ROWID;
CREATE TABLE anchor_failures (  -- of anchors that took no checkpoint the last time
  anchor TEXT PRIMARY KEY,
  since_us INTEGER NOT NULL,
  at_us INTEGER NOT NULL,
  failures INTEGER NOT NULL,
  problem TEXT NOT NULL
) WITHOUT ROWID;
"""

ERASURE = """
CREATE TABLE keys (
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used again
  scope TEXT NOT NULL,  -- run or subject
  name TEXT NOT NULL,
  wrapped BLOB NOT NULL,
  made_us INTEGER NOT NULL
);
CREATE UNIQUE INDEX keys_name ON keys (scope, name);
CREATE INDEX payloads_key ON payloads (key_id) WHERE key_id IS NOT NULL;
CREATE TABLE holds (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant_id TEXT,
  run_id TEXT,
  subject TEXT,
  reason TEXT NOT NULL,
  authority TEXT NOT NULL,
  at_us INTEGER NOT NULL,
  released_at_us INTEGER,
  CHECK (run_id IS NOT NULL OR subject IS NOT NULL)
);
CREATE INDEX holds_run ON holds (run_id) WHERE released_at_us IS NULL;
CREATE INDEX holds_subject ON holds (subject) WHERE released_at_us IS NULL;
"""

# Version 2 began without these.
SUBJECTS = """
CREATE TABLE IF NOT EXISTS subject_index (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  key BLOB NOT NULL,  -- of the digests
  upto INTEGER NOT NULL  -- the last entry that is indexed
);
CREATE TABLE IF NOT EXISTS subjects (
  digest BLOB NOT NULL,
  entry_id INTEGER NOT NULL,
  PRIMARY KEY (digest, entry_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS subjects_entry ON subjects (entry_id);
"""


def _never(table: str, event: str, why: str = "the ledger is append-only", columns: str = "", when: str = "") -> str:
    of = f" OF {columns}" if columns else ""
    return (
        f"CREATE TRIGGER {table}_{event.lower()} BEFORE {event}{of} ON {table} {when}\n"
        f"BEGIN SELECT RAISE(ABORT, '{why}'); END;\n"
    )


TOOL_TRIGGERS = _never("run_tools", "UPDATE") + _never("run_tools", "DELETE")
TRIGGERS = (
    "".join(_never(table, "UPDATE") for table in ("entries", "run_nodes", "tiles", "checkpoints", "signers"))
    + "".join(
        _never(table, "DELETE")
        for table in ("entries", "runs", "run_nodes", "log", "tiles", "checkpoints", "signers", "holds")
    )
    + _never("runs", "UPDATE", columns="id, run_id, tenant_id, first_seq, parent_run_id, parent_steps")
    + _never("log", "UPDATE", "a log only grows", when="WHEN NEW.size < OLD.size OR NEW.origin <> OLD.origin")
    + _never("holds", "UPDATE", "a hold is released, nothing else",
             columns="id, tenant_id, run_id, subject, reason, authority, at_us")
    + _never("payloads", "UPDATE", "payloads never change")
    + _never(
        "payloads", "DELETE", "a payload goes only with an erasure entry",
        when="WHEN NOT EXISTS (SELECT 1 FROM entries mine JOIN entries other ON other.run_id = mine.run_id "
        "WHERE mine.id = OLD.id / 16 AND other.kind = 'erasure')",
    )
    + TOOL_TRIGGERS
)  # fmt: skip

TABLES = ENTRIES + PAYLOADS + RUNS + TOOLS + LOG + ANCHORS + ERASURE + SUBJECTS + TRIGGERS


def run_script(connection: sqlite3.Connection, script: str) -> None:
    """Run statement by statement, since ``executescript`` would commit the transaction first."""
    lines: list[str] = []
    for line in script.strip().splitlines():
        lines.append(line)
        if sqlite3.complete_statement(statement := "\n".join(lines)):
            connection.execute(statement)
            lines = []
