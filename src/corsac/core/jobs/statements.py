"""The journal's SQL. What runs once an item names its index: the planner once preferred to scan."""

from __future__ import annotations

INSERT_JOB = """INSERT INTO jobs(id, kind, owner, key_id, rank, state, detail, n_items, n_failed, created_at)
    VALUES (:id, :kind, :owner, :key_id, :rank, 'arriving', :detail, :n_items, :n_failed, :created_at)"""
INSERT_ITEM = "INSERT INTO job_items(job, n, state, error, finished_at) VALUES (?, ?, ?, ?, ?)"
INSERT_INPUT = "INSERT INTO job_inputs(job, n, input) VALUES (?, ?, ?)"
OPEN_JOB = """UPDATE jobs SET state = 'queued', n_queued = n_items - n_failed WHERE number = ?"""

# Owners take turns: the next one behind the one that was served last, else the first.
NEXT_JOB = """SELECT number, owner FROM jobs INDEXED BY jobs_waiting
    WHERE kind = :kind AND rank = :rank AND owner > :after AND n_queued > 0 AND paused = 0
    ORDER BY owner, number LIMIT 1"""
FIRST_JOB = """SELECT number, owner FROM jobs INDEXED BY jobs_waiting
    WHERE kind = :kind AND rank = :rank AND n_queued > 0 AND paused = 0
    ORDER BY owner, number LIMIT 1"""
NEXT_ITEM = """SELECT n FROM job_items INDEXED BY job_items_by_state
    WHERE job = ? AND state = 'queued' ORDER BY n LIMIT 1"""
CLAIM_ITEM = """UPDATE job_items SET state = 'running', attempt = attempt + 1 WHERE job = ? AND n = ?
    RETURNING attempt, failures"""
CLAIM_JOB = """UPDATE jobs SET state = 'running', started_at = ifnull(started_at, :now),
    n_queued = n_queued - 1, n_running = n_running + 1 WHERE number = :job RETURNING id, key_id, detail"""
INPUT = "SELECT input FROM job_inputs WHERE job = ? AND n = ?"

SETTLE_ITEM = """UPDATE job_items
    SET state = :state, output = :output, error = :error, finished_at = :finished_at, failures = failures + :failures,
        interruptions = interruptions + :interruptions
    WHERE job = :job AND n = :n AND attempt = :attempt AND state = 'running'"""
SETTLE_JOB = """UPDATE jobs SET n_running = n_running - 1, n_queued = n_queued + :queued, n_done = n_done + :done,
    n_failed = n_failed + :failed WHERE number = :job
    RETURNING n_items, n_done, n_failed, n_queued + n_running"""
FINISH_JOB = """UPDATE jobs SET state = iif(n_done > 0, 'done', 'failed'), finished_at = ? WHERE number = ?"""
IS_RUNNING = "SELECT 1 FROM job_items WHERE job = ? AND n = ? AND attempt = ? AND state = 'running'"

NUMBER_EVENT = "UPDATE jobs SET last_event = last_event + 1 WHERE number = ? RETURNING last_event"
INSERT_EVENT = "INSERT INTO job_events(job, number, type, item, content) VALUES (?, ?, ?, ?, ?)"
EVENTS = """SELECT e.number, e.type, e.content, i.output FROM job_events e
    LEFT JOIN job_items i ON e.type = 'item' AND i.job = e.job AND i.n = e.item
    WHERE e.job = ? AND e.number > ? ORDER BY e.number LIMIT ?"""

JOB_BY_ID = """SELECT * FROM jobs WHERE id = ? AND owner = ifnull(?, owner) AND state <> 'arriving'"""
JOB_BY_NUMBER = "SELECT * FROM jobs WHERE number = ?"
ALL_JOBS = """SELECT * FROM jobs WHERE number < :before AND state <> 'arriving'
    AND state = ifnull(:state, state) AND kind = ifnull(:kind, kind) ORDER BY number DESC LIMIT :limit"""
JOBS_OF = """SELECT * FROM jobs WHERE owner = :owner AND number < :before AND state <> 'arriving'
    AND state = ifnull(:state, state) AND kind = ifnull(:kind, kind) ORDER BY number DESC LIMIT :limit"""
ITEMS = """SELECT n, state, attempt, output, error, finished_at FROM job_items
    WHERE job = :job AND n > :after ORDER BY n LIMIT :limit"""
ITEMS_IN_STATE = """SELECT n, state, attempt, output, error, finished_at FROM job_items
    WHERE job = :job AND state = :state AND n > :after ORDER BY n LIMIT :limit"""

RUNNING_ITEMS = """SELECT i.job, i.n, i.attempt, i.interruptions
    FROM jobs j INDEXED BY jobs_open CROSS JOIN job_items i ON i.job = j.number AND i.state = 'running'
    WHERE j.finished_at IS NULL"""
ARRIVING_JOBS = "SELECT number FROM jobs INDEXED BY jobs_open WHERE finished_at IS NULL AND state = 'arriving'"
PUT_BACK = "UPDATE job_items SET state = 'queued' WHERE job = ? AND state = 'running'"
CANCEL_JOB = """UPDATE jobs SET state = 'cancelled', paused = 0, n_cancelled = n_queued + n_running, n_queued = 0,
    n_running = 0, finished_at = ? WHERE number = ?"""
PAUSE_JOB = "UPDATE jobs SET paused = 1, n_queued = n_queued + n_running, n_running = 0 WHERE number = ?"
RESUME_JOB = "UPDATE jobs SET paused = 0 WHERE number = ?"
FAILED_ITEMS = """SELECT n FROM job_items WHERE job = ? AND state = 'failed' AND n > ? AND attempt > 0
    ORDER BY n LIMIT ?"""
RETRY_ITEM = """UPDATE job_items SET state = 'queued', failures = 0, interruptions = 0, error = NULL,
    finished_at = NULL WHERE job = ? AND n = ?"""
RETRY_JOB = """UPDATE jobs SET state = iif(finished_at IS NULL, state, 'queued'),
    finished_at = NULL, n_queued = n_queued + n_cancelled + :failed, n_failed = n_failed - :failed, n_cancelled = 0
    WHERE number = :job"""

OVERDUE_JOB = "SELECT number FROM jobs INDEXED BY jobs_finished WHERE finished_at < ? ORDER BY finished_at LIMIT 1"
DELETE_SLICES = (
    "DELETE FROM job_events WHERE job = :job AND number IN"
    " (SELECT number FROM job_events WHERE job = :job ORDER BY number LIMIT :limit)",
    "DELETE FROM job_inputs WHERE job = :job AND n IN"
    " (SELECT n FROM job_inputs WHERE job = :job ORDER BY n LIMIT :limit)",
    "DELETE FROM job_items WHERE job = :job AND n IN"
    " (SELECT n FROM job_items WHERE job = :job ORDER BY n LIMIT :limit)",
)
DELETE_JOB = "DELETE FROM jobs WHERE number = ?"
