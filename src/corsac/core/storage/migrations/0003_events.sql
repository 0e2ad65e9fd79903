-- AUTOINCREMENT: the number of an event that was deleted is never given out again, so whoever resumes misses nothing.
CREATE TABLE events(
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    type TEXT NOT NULL,
    service TEXT NOT NULL,
    content TEXT NOT NULL CHECK (json_valid(content))
) STRICT;

CREATE INDEX events_by_time ON events(at);

-- The first event is number 2, so that a stream of them can begin with a number below all of theirs, above 0.
INSERT INTO sqlite_sequence(name, seq) VALUES ('events', 1);
