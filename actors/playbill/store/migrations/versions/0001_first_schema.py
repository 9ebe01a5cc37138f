"""The first schema.

Kept as plain SQL on purpose: a migration must go on meaning what it meant when it was released.

Index discipline: no column that a claim changes (status, token, worker, started_at, attempt) is in any index or index
predicate of ``jobs``, and ``due_at`` is NULL while a job is with the broker, so claims are HOT updates.
"""

import uuid

from alembic import op
from sqlalchemy import text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JOB_COLUMNS = """
    id {id} NOT NULL,
    queue TEXT NOT NULL,
    actor TEXT NOT NULL,
    status TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    attempt INTEGER NOT NULL,
    priority SMALLINT NOT NULL,
    tenant TEXT NOT NULL,
    key TEXT,
    tags {json},
    message {bytes} NOT NULL,
    created_at {time} NOT NULL,
    run_at {time} NOT NULL,
    started_at {time},
    worker TEXT,
    token BIGINT,
    done BIGINT NOT NULL,
    total BIGINT,
    cursor {json},
    error_type TEXT,
    error_message TEXT,
    error_traceback TEXT,
    history {json},
    wait_reason TEXT,
    crashes INTEGER NOT NULL,
    policy_version BIGINT NOT NULL,
"""

TABLES = (
    "CREATE TABLE {p}jobs ("
    + JOB_COLUMNS
    + """
    due_at {time},
    last_token BIGINT,
    suspect BOOLEAN NOT NULL,
    cancelling BOOLEAN NOT NULL,
    deferred_at {time},
    PRIMARY KEY (id)
)""",
    "CREATE TABLE {p}jobs_archive ("
    + JOB_COLUMNS
    + """
    finished_at {time} NOT NULL,
    result TEXT
    {archive_constraint}
) {archive_options}""",
    """CREATE TABLE {p}outbox (
    job_id {id} NOT NULL PRIMARY KEY,
    epoch BIGINT NOT NULL,
    queue TEXT NOT NULL,
    publish_at {time} NOT NULL
)""",
    """CREATE TABLE {p}job_keys (
    tenant {id} NOT NULL,
    scope {id} NOT NULL,
    key {id} NOT NULL,
    job_id {id} NOT NULL,
    expires_at {time},
    PRIMARY KEY (tenant, scope, key)
)""",
    """CREATE TABLE {p}job_groups (
    id {id} NOT NULL PRIMARY KEY,
    remaining INTEGER NOT NULL,
    expires_at {time} NOT NULL
)""",
    """CREATE TABLE {p}queues (
    queue {id} NOT NULL PRIMARY KEY,
    spec {json} NOT NULL,
    version BIGINT NOT NULL,
    owner TEXT NOT NULL,
    updated_at {time} NOT NULL
)""",
    """CREATE TABLE {p}workers (
    id {id} NOT NULL PRIMARY KEY,
    hostname TEXT NOT NULL,
    pid INTEGER NOT NULL,
    queues {json} NOT NULL,
    actors {json} NOT NULL,
    slots INTEGER NOT NULL,
    version TEXT NOT NULL,
    state TEXT NOT NULL,
    running {json} NOT NULL,
    alone TEXT,
    end_reason TEXT,
    started_at {time} NOT NULL,
    heartbeat_at {time} NOT NULL,
    lease_expires_at {time} NOT NULL
)""",
    """CREATE TABLE {p}leaders (
    name {id} NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    expires_at {time} NOT NULL
)""",
    """CREATE TABLE {p}rollups (
    minute BIGINT NOT NULL,
    queue {id} NOT NULL,
    actor {id} NOT NULL,
    worker {id} NOT NULL,
    completed BIGINT NOT NULL,
    failed BIGINT NOT NULL,
    cancelled BIGINT NOT NULL,
    retried BIGINT NOT NULL,
    run_ms {double} NOT NULL,
    run_ms_squared {double} NOT NULL,
    wait_ms {double} NOT NULL,
    PRIMARY KEY (minute, queue, actor, worker)
)""",
    """CREATE TABLE {p}parked_messages (
    id {id} NOT NULL PRIMARY KEY,
    queue TEXT NOT NULL,
    body {bytes} NOT NULL,
    reason TEXT NOT NULL,
    headers {json} NOT NULL,
    parked_at {time} NOT NULL
)""",
    """CREATE TABLE {p}store_meta (
    store_id TEXT NOT NULL PRIMARY KEY,
    schema INTEGER NOT NULL,
    min_code INTEGER NOT NULL,
    policy_version BIGINT NOT NULL,
    created_at {time} NOT NULL
)""",
    # Only rows that wait in the store are in this one.
    "CREATE INDEX {i}jobs_queue_due ON {p}jobs (queue, due_at, id) WHERE due_at IS NOT NULL",
    "CREATE INDEX {i}jobs_created ON {p}jobs (created_at, id)",
    "CREATE INDEX {i}outbox_publish ON {p}outbox (publish_at)",
    "CREATE INDEX {i}jobs_archive_created ON {p}jobs_archive (created_at, id)",
)

#: Churn is constant here, so rows leave room for HOT updates and are vacuumed by count, not by share.
POSTGRES = (
    # Every job is updated once at least, by its claim: with room for that on its page all claims are HOT (measured: a
    # fillfactor of 80 makes a third of them so).
    """ALTER TABLE playbill.jobs SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02,
        autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_insert_scale_factor = 0.2,
        autovacuum_analyze_threshold = 5000)""",
    """ALTER TABLE playbill.outbox SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02,
        autovacuum_vacuum_threshold = 2000)""",
    "ALTER TABLE playbill.rollups SET (fillfactor = 50)",
    "ALTER TABLE playbill.workers SET (fillfactor = 50)",
    # The message is opaque and mostly small: trying to compress it costs more than it saves.
    "ALTER TABLE playbill.jobs ALTER COLUMN message SET STORAGE EXTERNAL",
    "ALTER TABLE playbill.jobs_archive ALTER COLUMN message SET STORAGE MAIN",
    # By how it ended first: completed jobs are kept a day, dead letters a week, so each can be dropped whole.
    """CREATE TABLE playbill.jobs_archive_completed PARTITION OF playbill.jobs_archive
        FOR VALUES IN ('completed') PARTITION BY RANGE (finished_at)""",
    """CREATE TABLE playbill.jobs_archive_ended PARTITION OF playbill.jobs_archive
        FOR VALUES IN ('failed', 'cancelled') PARTITION BY RANGE (finished_at)""",
    "CREATE TABLE playbill.jobs_archive_completed_rest PARTITION OF playbill.jobs_archive_completed DEFAULT",
    "CREATE TABLE playbill.jobs_archive_ended_rest PARTITION OF playbill.jobs_archive_ended DEFAULT",
    "CREATE INDEX jobs_archive_id ON playbill.jobs_archive (id)",
)
SQLITE = ("CREATE INDEX playbill_jobs_archive_ended ON playbill_jobs_archive (status, finished_at)",)

NAMES = {
    "postgresql": {
        "p": "playbill.",
        "i": "",
        "id": 'TEXT COLLATE "C"',  # Python's order of ids is the order in which rows are locked
        "json": "JSONB",
        "bytes": "BYTEA",
        "time": "TIMESTAMPTZ",
        "double": "DOUBLE PRECISION",
        "archive_constraint": "",
        "archive_options": "PARTITION BY LIST (status)",
    },
    "sqlite": {
        "p": "playbill_",
        "i": "playbill_",
        "id": "TEXT",
        "json": "JSON",
        "bytes": "BLOB",
        "time": "BIGINT",
        "double": "DOUBLE",
        "archive_constraint": ", PRIMARY KEY (id)",
        "archive_options": "",
    },
}


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    names = NAMES[dialect]
    for statement in TABLES:
        op.execute(text(statement.format(**names).replace(":", "\\:")))
    for statement in POSTGRES if dialect == "postgresql" else SQLITE:
        op.execute(statement)
    clock = "clock_timestamp()" if dialect == "postgresql" else "CAST(strftime('%s', 'now') AS INTEGER) * 1000"
    insert = f"INSERT INTO {names['p']}store_meta VALUES (:store_id, 1, 1, 0, {clock})"  # noqa: S608 - constants
    op.get_bind().execute(text(insert), {"store_id": str(uuid.uuid4())})


def downgrade() -> None:
    message = "migrations of the store only expand: restore a backup to go back"
    raise NotImplementedError(message)
