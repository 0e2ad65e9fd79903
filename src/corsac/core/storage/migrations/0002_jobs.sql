CREATE TABLE jobs(
    number INTEGER NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    owner TEXT NOT NULL,
    key_id TEXT NOT NULL,
    rank INTEGER NOT NULL,                      -- 0 interactive, 1 batch
    state TEXT NOT NULL CHECK (state IN ('arriving', 'queued', 'running', 'done', 'failed', 'cancelled')),
    paused INTEGER NOT NULL DEFAULT 0,
    detail TEXT NOT NULL CHECK (json_valid(detail)),
    n_items INTEGER NOT NULL,
    n_queued INTEGER NOT NULL DEFAULT 0,
    n_running INTEGER NOT NULL DEFAULT 0,
    n_done INTEGER NOT NULL DEFAULT 0,
    n_failed INTEGER NOT NULL DEFAULT 0,
    n_cancelled INTEGER NOT NULL DEFAULT 0,
    last_event INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL
) STRICT;

CREATE INDEX jobs_by_owner ON jobs(owner, number);
CREATE INDEX jobs_waiting ON jobs(kind, rank, owner, number) WHERE n_queued > 0 AND paused = 0;
CREATE INDEX jobs_open ON jobs(number) WHERE finished_at IS NULL;
CREATE INDEX jobs_finished ON jobs(finished_at) WHERE finished_at IS NOT NULL;

-- No item is stored as cancelled: one is that is queued in a cancelled job. So cancelling touches few rows.
CREATE TABLE job_items(
    job INTEGER NOT NULL REFERENCES jobs(number),
    n INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed')),
    attempt INTEGER NOT NULL DEFAULT 0,         -- times it was handed out; a result counts only for the last one
    failures INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,   -- times the process died while it ran
    output TEXT,
    error TEXT,
    finished_at REAL,
    PRIMARY KEY (job, n)
) STRICT, WITHOUT ROWID;

CREATE INDEX job_items_by_state ON job_items(job, state, n);

-- Apart from the items, whose rows are written anew at every change of state.
CREATE TABLE job_inputs(
    job INTEGER NOT NULL REFERENCES jobs(number),
    n INTEGER NOT NULL,
    input TEXT NOT NULL CHECK (json_valid(input)),
    PRIMARY KEY (job, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE job_events(
    job INTEGER NOT NULL REFERENCES jobs(number),
    number INTEGER NOT NULL,                    -- 1, 2, 3 … in each job
    type TEXT NOT NULL,
    item INTEGER,
    content TEXT NOT NULL CHECK (json_valid(content)),
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;
