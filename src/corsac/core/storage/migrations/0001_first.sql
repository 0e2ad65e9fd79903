CREATE TABLE api_keys(
    id TEXT NOT NULL PRIMARY KEY,
    principal TEXT NOT NULL,
    name TEXT NOT NULL,
    key_sha256 BLOB NOT NULL UNIQUE,
    scopes TEXT NOT NULL CHECK (json_valid(scopes)),
    quotas TEXT NOT NULL CHECK (json_valid(quotas)),
    created_at TEXT NOT NULL,
    revoked_at TEXT
) STRICT;

-- An owner's browser session has the server's token as its key, which is in no table: so no REFERENCES.
CREATE TABLE sessions(
    token_sha256 BLOB NOT NULL PRIMARY KEY,
    key_id TEXT NOT NULL,
    principal TEXT NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL
) STRICT;

CREATE TABLE config_versions(
    service TEXT NOT NULL,
    version INTEGER NOT NULL,
    at TEXT NOT NULL,
    author TEXT NOT NULL,
    source TEXT NOT NULL,
    overrides TEXT NOT NULL CHECK (json_valid(overrides)),
    changes TEXT NOT NULL CHECK (json_valid(changes)),
    note TEXT,
    PRIMARY KEY (service, version)
) STRICT;

CREATE TABLE artifacts(
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    owner TEXT NOT NULL,
    media_type TEXT NOT NULL,
    name TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    created_at REAL NOT NULL,
    detail TEXT NOT NULL CHECK (json_valid(detail))
) STRICT;

CREATE INDEX artifacts_by_age ON artifacts(kind, created_at);

CREATE TABLE usage(
    day TEXT NOT NULL,
    principal TEXT NOT NULL,
    key_id TEXT NOT NULL,
    service TEXT NOT NULL,
    unit TEXT NOT NULL,
    amount REAL NOT NULL,
    PRIMARY KEY (day, principal, key_id, service, unit)
) STRICT;
