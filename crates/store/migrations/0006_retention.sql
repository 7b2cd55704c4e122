-- Run on SQLite and on PostgreSQL as it stands: TEXT and BIGINT only. Times are Unix milliseconds.

-- One row: by which clock recorders have deleted what is too old.
CREATE TABLE retention (
    id BIGINT PRIMARY KEY,
    -- The clock of the recorder that looked last and had no reason to doubt it; NULL before the first look.
    looked_ms BIGINT,
    -- The newest record when an operator last confirmed the time: records up to it raise no doubt. 0 before that.
    confirmed_newest_ms BIGINT NOT NULL
);

INSERT INTO retention (id, confirmed_newest_ms) VALUES (1, 0);

-- Hosts whose recorders delete nothing, because their clock is in doubt.
CREATE TABLE retention_stops (
    host TEXT COLLATE "BINARY" NOT NULL PRIMARY KEY,
    reason TEXT NOT NULL,
    -- When the first look had this doubt, by the host's own clock.
    since_ms BIGINT NOT NULL
);
