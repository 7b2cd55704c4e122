-- Run on SQLite and on PostgreSQL as it stands: TEXT and BIGINT only. Times are Unix milliseconds of the database's clock.

-- Random: tells two changes of one number apart, of which one was undone by restoring a backup. NULL in rows of older versions.
ALTER TABLE changes ADD COLUMN nonce BIGINT;

-- Every role that runs announces itself here once a second. What is not closed and was not seen for a while has ended without a word,
-- stands still, or cannot reach the database.
CREATE TABLE roles (
    -- Random, made when the process starts; a worker's name.
    process TEXT COLLATE "BINARY" NOT NULL,
    -- worker, recorder or api.
    role TEXT COLLATE "BINARY" NOT NULL,
    host TEXT NOT NULL,
    -- The version of the registry that every attempt begins with from now on, or a later one; 0 for roles that make none.
    version BIGINT NOT NULL,
    -- The change that led to that version, as in the table changes: its number and its nonce.
    change_number BIGINT NOT NULL,
    change_stamp BIGINT NOT NULL,
    seen_ms BIGINT NOT NULL,
    -- Since when records are dropped instead of recorded; NULL while they are not.
    dropping_since_ms BIGINT,
    -- Batches of the journal made and dropped since the process started, and the records in them.
    batches_made BIGINT NOT NULL DEFAULT 0,
    batches_dropped BIGINT NOT NULL DEFAULT 0,
    records_made BIGINT NOT NULL DEFAULT 0,
    records_dropped BIGINT NOT NULL DEFAULT 0,
    -- When the role ended; NULL while it runs, and for good if it ended without a word.
    closed_ms BIGINT,
    PRIMARY KEY (process, role)
);

CREATE INDEX roles_open ON roles (role, seen_ms) WHERE closed_ms IS NULL;
