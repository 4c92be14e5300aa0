-- One row: the bytes of the decide state, checked by their sha-256.
CREATE TABLE cycle (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    generation INTEGER NOT NULL,
    state BLOB NOT NULL,
    sha256 TEXT NOT NULL
) STRICT;

-- Facts for the fleet. `position` keeps the order of the commits, which ids made under a jumping clock do not.
CREATE TABLE report (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    kind TEXT NOT NULL,
    json TEXT NOT NULL,
    at INTEGER NOT NULL
) STRICT;

-- The ledger: one row per retrain, rewritten as it goes on.
CREATE TABLE run (
    number INTEGER PRIMARY KEY,
    state TEXT NOT NULL,
    parent TEXT NOT NULL,
    candidate TEXT,
    snapshot TEXT,
    strategy TEXT NOT NULL,
    rows INTEGER NOT NULL,
    cpu_s REAL NOT NULL,
    joules_modelled REAL,
    verdict TEXT,
    started_at INTEGER NOT NULL,
    finished_at INTEGER
) STRICT;

-- What each model file is, and where it came from. Rows outlive their files: lineage and denylist are kept.
CREATE TABLE model (
    digest TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    parent TEXT,
    run INTEGER,
    installed_at INTEGER NOT NULL,
    status TEXT NOT NULL
) STRICT;
