-- One row: the lowest label ordinal that no partition has used, true in the newest partition.
CREATE TABLE next (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    ordinal INTEGER NOT NULL
) STRICT;
INSERT INTO next (one, ordinal) VALUES (1, 1);

-- Model digests, so that a record carries a small number instead of 64 characters.
CREATE TABLE served (
    number INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE
) STRICT;

-- One row per inference. The wide blobs stand last, so that reading the rest does not walk overflow pages.
CREATE TABLE record (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    event_at INTEGER NOT NULL,
    arrived_at INTEGER NOT NULL,
    source TEXT NOT NULL,
    model INTEGER NOT NULL,
    adaptation INTEGER NOT NULL,
    missing INTEGER NOT NULL,
    output BLOB NOT NULL,
    features BLOB NOT NULL
) STRICT;

-- What was true, as told by one source. Several sources may speak about one record.
CREATE TABLE label (
    ordinal INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    source TEXT NOT NULL,
    at INTEGER NOT NULL,
    truth BLOB NOT NULL,
    UNIQUE (seq, source)
) STRICT;
