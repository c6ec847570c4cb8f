-- Workers, what they may hold, and who of several servers decides.

CREATE TABLE workers (
    id           TEXT    NOT NULL PRIMARY KEY,
    address      TEXT    NOT NULL,
    token_sealed BLOB    NOT NULL,
    public_url   TEXT,
    -- A JSON object of strings.
    labels       TEXT    NOT NULL CHECK (json_valid(labels)),
    capacity     INTEGER,
    tls          TEXT,
    source       TEXT    NOT NULL CHECK (source IN ('setting', 'api', 'gcp')),
    wish         TEXT    NOT NULL CHECK (wish IN ('active', 'draining', 'forgotten')),
    kind         TEXT,
    created_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX workers_one_per_address ON workers (address) WHERE wish <> 'forgotten';

-- What a worker may hold of a seat, up to a generation.
CREATE TABLE placements (
    workshop_id TEXT    NOT NULL REFERENCES workshops (id),
    seat        INTEGER NOT NULL CHECK (seat > 0),
    worker      TEXT    NOT NULL REFERENCES workers (id),
    generation  INTEGER NOT NULL,
    PRIMARY KEY (workshop_id, seat, worker)
) STRICT, WITHOUT ROWID;

CREATE INDEX placements_by_worker ON placements (worker);

-- Rows stay when they are released: the token grows for ever.
CREATE TABLE leases (
    name       TEXT    NOT NULL PRIMARY KEY,
    holder     TEXT,
    token      INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE replicas (
    holder     TEXT    NOT NULL PRIMARY KEY,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
