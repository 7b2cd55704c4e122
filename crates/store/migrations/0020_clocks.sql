-- Run on SQLite and on PostgreSQL as it stands.

-- How many milliseconds the clock of the role's host was ahead of the database's when the role last announced itself; negative if it was behind.
ALTER TABLE roles ADD COLUMN ahead_ms BIGINT NOT NULL DEFAULT 0;
