-- How far the fleet has the reports: everything up to `through` was taken by the broker, or given up. `boots` counts starts.
CREATE TABLE outbox (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    through INTEGER NOT NULL,
    boots INTEGER NOT NULL
) STRICT;

-- Reports that no broker will take, with the reason it gave; the report itself stays where it is.
CREATE TABLE parked (
    position INTEGER PRIMARY KEY,
    code INTEGER NOT NULL,
    at INTEGER NOT NULL
) STRICT;

-- Commands that were signed for this device. `wish` is the signed payload, kept until the command has ended; `version` grows
-- with each change of any row, so that the fleet is told what is new.
CREATE TABLE command (
    id BLOB PRIMARY KEY CHECK (length(id) = 16),
    status TEXT NOT NULL,
    wish TEXT NOT NULL,
    run INTEGER,
    ended INTEGER NOT NULL,
    deadline_at INTEGER NOT NULL,
    version INTEGER NOT NULL
) STRICT;
CREATE INDEX command_version ON command (version);

-- The largest counter taken from each key: an order that is not above it was seen before.
CREATE TABLE replay (
    key_id TEXT PRIMARY KEY,
    high_water INTEGER NOT NULL
) STRICT;
