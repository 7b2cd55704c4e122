-- Run on SQLite and on PostgreSQL as it stands: TEXT and BIGINT only. Times are Unix milliseconds, in roles of the database's clock.

-- The number of the first batch that was dropped since dropping_since_ms; NULL while none is, and for roles of older versions.
ALTER TABLE roles ADD COLUMN dropping_batch BIGINT;
-- When the role announced itself first; NULL for roles of older versions.
ALTER TABLE roles ADD COLUMN started_ms BIGINT;
-- When batches_made was last announced with another number; NULL while it is 0.
ALTER TABLE roles ADD COLUMN made_ms BIGINT;

-- Which batches of a worker's run are accounted for: recorded, or named by a gap. Mostly one row for each run.
CREATE TABLE batches (
    -- The worker's name, as in roles.
    worker TEXT COLLATE "BINARY" NOT NULL,
    -- Every number from the first to the last is accounted for.
    first_number BIGINT NOT NULL,
    last_number BIGINT NOT NULL,
    -- When the first and the last of them were made, by the worker's clock.
    from_ms BIGINT NOT NULL,
    until_ms BIGINT NOT NULL,
    -- Every number up to this one had been confirmed or dropped when the last of these batches was made.
    settled BIGINT NOT NULL,
    -- When the row was written first, by the database's clock.
    recorded_ms BIGINT NOT NULL,
    PRIMARY KEY (worker, first_number)
);

CREATE INDEX batches_by_time ON batches (until_ms, worker);
