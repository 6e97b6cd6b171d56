"""The statements of the checkpoint store in PostgreSQL; ``meshflow.`` stands for the schema."""

from __future__ import annotations

TABLES = """
CREATE TABLE IF NOT EXISTS meshflow.checkpoints (
    tenant text NOT NULL, thread text NOT NULL, namespace text NOT NULL, id text COLLATE "C" NOT NULL, parent text,
    run text NOT NULL, body bytea NOT NULL, metadata bytea NOT NULL, held jsonb NOT NULL, follows text,
    PRIMARY KEY (tenant, thread, namespace, id), UNIQUE (tenant, thread, namespace, follows));
CREATE INDEX IF NOT EXISTS checkpoints_of_run ON meshflow.checkpoints (run, tenant);
CREATE TABLE IF NOT EXISTS meshflow.checkpoint_blobs (
    tenant text NOT NULL, thread text NOT NULL, namespace text NOT NULL, key text NOT NULL, version text NOT NULL,
    payload bytea NOT NULL, PRIMARY KEY (tenant, thread, namespace, key, version));
CREATE TABLE IF NOT EXISTS meshflow.checkpoint_writes (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant text NOT NULL, thread text NOT NULL,
    namespace text NOT NULL, checkpoint text NOT NULL, task text NOT NULL, channel text NOT NULL, place bigint NOT NULL,
    path text NOT NULL, payload bytea NOT NULL,
    UNIQUE (tenant, thread, namespace, checkpoint, task, channel, place));
CREATE INDEX IF NOT EXISTS writes_of_run ON meshflow.checkpoint_writes (channel) WHERE channel LIKE 'run:%';
"""

HERE = "tenant = $1 AND thread = $2 AND namespace = $3"
COLUMNS = "tenant, thread, namespace, id, parent, run, body, metadata, held"
NEWEST = f"SELECT max(id) FROM meshflow.checkpoints WHERE {HERE}"  # noqa: S608 - constants
# One statement: one round trip, all or nothing. Of two writers behind the same checkpoint one meets the
# unique index on ``follows``; one behind a checkpoint that is not the newest meets the condition.
PUT = f"""
WITH put AS (
    INSERT INTO meshflow.checkpoints
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10
    WHERE $10::text IS NULL OR $10 = coalesce(({NEWEST}), '')
    ON CONFLICT DO NOTHING RETURNING 1),
blobs AS (
    INSERT INTO meshflow.checkpoint_blobs
    SELECT $1, $2, $3, one.key, one.version, one.payload
    FROM unnest($11::text[], $12::text[], $13::bytea[]) AS one (key, version, payload), put
    ON CONFLICT DO NOTHING)
SELECT count(*) FROM put
"""  # noqa: S608 - constants
PUT_WRITES = """
INSERT INTO meshflow.checkpoint_writes (tenant, thread, namespace, checkpoint, task, channel, place, path, payload)
SELECT $1, $2, $3, $4, one.task, one.channel, one.place, one.path, one.payload
FROM unnest($5::text[], $6::text[], $7::bigint[], $8::text[], $9::bytea[])
    WITH ORDINALITY AS one (task, channel, place, path, payload, nth) ORDER BY nth
ON CONFLICT DO NOTHING
"""
GET = f"SELECT {COLUMNS} FROM meshflow.checkpoints WHERE {HERE} AND id = $4"  # noqa: S608 - constants
GET_NEWEST = f"SELECT {COLUMNS} FROM meshflow.checkpoints WHERE {HERE} ORDER BY id DESC LIMIT 1"  # noqa: S608 - constants
GET_BLOBS = f"""
SELECT key, payload FROM meshflow.checkpoint_blobs JOIN unnest($4::text[], $5::text[]) AS one (key, version)
USING (key, version) WHERE {HERE}
"""  # noqa: S608 - constants
GET_WRITES = f"""
SELECT task, channel, place, payload, path FROM meshflow.checkpoint_writes
WHERE {HERE} AND checkpoint = $4 ORDER BY number
"""  # noqa: S608 - constants
PAGE = f"""
SELECT {COLUMNS} FROM meshflow.checkpoints WHERE tenant = $1
AND ($2::text IS NULL OR thread = $2) AND ($3::text IS NULL OR namespace = $3)
AND ($4::text IS NULL OR id < $4 COLLATE "C" OR (id = $4 AND (thread COLLATE "C", namespace COLLATE "C") < ($5, $6)))
ORDER BY id DESC, thread COLLATE "C" DESC, namespace COLLATE "C" DESC LIMIT $7
"""  # noqa: S608 - constants
THREADS = 'SELECT DISTINCT thread COLLATE "C" FROM meshflow.checkpoints WHERE tenant = $1 ORDER BY 1'
THREADS_OF_RUNS = """
SELECT tenant COLLATE "C", thread COLLATE "C" FROM meshflow.checkpoints
WHERE ($1::text IS NULL OR tenant = $1) AND run = ANY($2::text[])
UNION SELECT tenant COLLATE "C", thread COLLATE "C" FROM meshflow.checkpoint_writes
WHERE ($1::text IS NULL OR tenant = $1) AND channel LIKE 'run:%'
AND channel = ANY(ARRAY(SELECT 'run:' || run FROM unnest($2::text[]) AS run)) ORDER BY 1, 2
"""
OF_RUNS = "SELECT thread, namespace, id FROM meshflow.checkpoints WHERE tenant = $1 AND run = ANY($2)"
OUTDATED = """
SELECT thread, namespace, id FROM meshflow.checkpoints AS one WHERE tenant = $1 AND thread = $2 AND id < (
    SELECT max(id) FROM meshflow.checkpoints WHERE tenant = $1 AND thread = $2 AND namespace = one.namespace)
"""
FORGET = f"DELETE FROM meshflow.checkpoints WHERE {HERE} AND id = $4"  # noqa: S608 - constants
FORGET_WRITES = f"DELETE FROM meshflow.checkpoint_writes WHERE {HERE} AND checkpoint = $4"  # noqa: S608 - constants
FORGET_BLOBS = f"""
DELETE FROM meshflow.checkpoint_blobs AS blob WHERE {HERE} AND NOT EXISTS (
    SELECT 1 FROM meshflow.checkpoints WHERE {HERE} AND held ->> blob.key = blob.version)
"""  # noqa: S608 - constants
_COPIED = {
    "checkpoints": "namespace, id, parent, run, body, metadata, held, follows",
    "checkpoint_blobs": "namespace, key, version, payload",
    "checkpoint_writes": "namespace, checkpoint, task, channel, place, path, payload",
}
DELETE_THREAD = tuple(f"DELETE FROM meshflow.{name} WHERE tenant = $1 AND thread = $2" for name in _COPIED)  # noqa: S608
TAKEN = "SELECT 1 FROM meshflow.checkpoints WHERE tenant = $1 AND thread = $2 LIMIT 1"
COPY_THREAD = tuple(
    f"INSERT INTO meshflow.{name} (tenant, thread, {columns}) SELECT tenant, $3, {columns} FROM meshflow.{name} "  # noqa: S608
    f"WHERE tenant = $1 AND thread = $2{' ORDER BY number' if name == 'checkpoint_writes' else ''}"
    for name, columns in _COPIED.items()
)
