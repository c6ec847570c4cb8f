-- Times are whole milliseconds since 1970, UTC. Words of state are those of the lifecycle crate.

CREATE TABLE installation (
    one        INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    id         TEXT    NOT NULL,
    -- Written by every check that the store can be written.
    checks     INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE users (
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    token_hash BLOB    NOT NULL UNIQUE CHECK (length(token_hash) = 32),
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE keys (
    id             TEXT    NOT NULL PRIMARY KEY,
    installation   TEXT    NOT NULL,
    sealed_private BLOB    NOT NULL,
    public         BLOB    NOT NULL CHECK (length(public) = 32),
    created_at     INTEGER NOT NULL,
    signs_from     INTEGER NOT NULL,
    retired_at     INTEGER
) STRICT;

CREATE TABLE workshops (
    id          TEXT    NOT NULL PRIMARY KEY,
    -- No foreign key: workshops made with the admin token belong to nobody in users.
    owner_id    TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    join_code   TEXT    NOT NULL UNIQUE,
    seats       INTEGER NOT NULL CHECK (seats > 0),
    runtime     TEXT    NOT NULL,
    image       TEXT    NOT NULL,
    -- A JSON array of strings.
    env_names   TEXT    NOT NULL CHECK (json_valid(env_names)),
    env_sealed  BLOB    NOT NULL,
    memory_mb   INTEGER NOT NULL,
    vcpus       INTEGER NOT NULL,
    disk_mb     INTEGER NOT NULL,
    wanted      TEXT    NOT NULL CHECK (wanted IN ('created', 'running', 'stopped', 'deleted')),
    status      TEXT    NOT NULL,
    reason_code TEXT,
    reason_text TEXT,
    locked      INTEGER NOT NULL DEFAULT 0 CHECK (locked IN (0, 1)),
    ends_at     INTEGER,
    created_at  INTEGER NOT NULL
) STRICT;

CREATE INDEX workshops_by_owner ON workshops (owner_id);

-- The last event of each workshop. Beside the workshop and not in it: an event must not rewrite its environment.
CREATE TABLE event_counters (
    workshop_id TEXT    NOT NULL PRIMARY KEY REFERENCES workshops (id),
    seq         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    workshop_id TEXT    NOT NULL REFERENCES workshops (id),
    seq         INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    kind        TEXT    NOT NULL,
    data        TEXT    NOT NULL CHECK (json_valid(data)),
    PRIMARY KEY (workshop_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    id           TEXT    NOT NULL PRIMARY KEY,
    workshop_id  TEXT    NOT NULL REFERENCES workshops (id),
    state        TEXT    NOT NULL CHECK (state IN ('waiting', 'active', 'ended')),
    -- The seat it holds, or held when it ended.
    seat         INTEGER,
    -- Its order in line; lower is earlier. Only compared among waiting sessions of one workshop.
    line         INTEGER,
    code_hash    BLOB    NOT NULL UNIQUE CHECK (length(code_hash) = 32),
    client_id    TEXT,
    name         TEXT,
    end_reason   TEXT,
    created_at   INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    CHECK (state <> 'active' OR seat IS NOT NULL),
    CHECK ((state = 'waiting') = (line IS NOT NULL)),
    CHECK ((state = 'ended') = (end_reason IS NOT NULL))
) STRICT, WITHOUT ROWID;

-- A seat has at most one active session, and a browser at most one session in a workshop.
CREATE UNIQUE INDEX sessions_one_per_seat ON sessions (workshop_id, seat) WHERE state = 'active';
CREATE UNIQUE INDEX sessions_one_per_client ON sessions (workshop_id, client_id)
    WHERE client_id IS NOT NULL AND state <> 'ended';
CREATE UNIQUE INDEX sessions_in_line ON sessions (workshop_id, line) WHERE state = 'waiting';
CREATE INDEX sessions_by_workshop ON sessions (workshop_id, state);

CREATE TABLE seats (
    workshop_id TEXT    NOT NULL REFERENCES workshops (id),
    n           INTEGER NOT NULL CHECK (n > 0),
    generation  INTEGER NOT NULL,
    state       TEXT    NOT NULL CHECK (state IN ('pending', 'starting', 'ready', 'unreachable', 'failed')),
    reason_code TEXT,
    reason_text TEXT,
    attempts    INTEGER NOT NULL DEFAULT 0,
    retry_at    INTEGER,
    -- The active session that holds it: sessions_one_per_seat seen from the seat, so that a free one is found by index.
    -- No foreign key: it would make SQLite keep a way back for each statement, and joins a third slower.
    session_id  TEXT,
    PRIMARY KEY (workshop_id, n)
) STRICT, WITHOUT ROWID;

CREATE INDEX seats_free ON seats (workshop_id, state, n) WHERE session_id IS NULL;
