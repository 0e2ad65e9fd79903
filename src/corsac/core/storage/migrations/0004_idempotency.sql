-- `status` is NULL while the request is being answered; `boot` and `claim` name the request that does.
CREATE TABLE idempotency(
    principal TEXT NOT NULL,
    route TEXT NOT NULL,
    key TEXT NOT NULL,
    request_sha256 BLOB NOT NULL,
    boot TEXT NOT NULL,
    claim INTEGER NOT NULL,
    status INTEGER,
    headers TEXT CHECK (json_valid(headers)),
    body BLOB,
    created_at REAL NOT NULL,
    PRIMARY KEY (principal, route, key)
) STRICT;

CREATE INDEX idempotency_by_age ON idempotency(created_at);
