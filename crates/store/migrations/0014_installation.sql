-- Run on SQLite and on PostgreSQL as it stands: TEXT and BIGINT only. Times are Unix milliseconds of the database's clock.

-- Which installation this database belongs to. Its mark on the broker names the same id; another database's says that two installations
-- share their queues.
CREATE TABLE installation (
    -- 1: there is one row.
    number BIGINT NOT NULL PRIMARY KEY,
    -- Random, made by the migration.
    id TEXT COLLATE "BINARY" NOT NULL,
    since_ms BIGINT NOT NULL
);

-- What a role's process has noticed lately that a person should know of: a JSON array of objects with kind, subject and detail. NULL if nothing.
ALTER TABLE roles ADD COLUMN troubles TEXT;
