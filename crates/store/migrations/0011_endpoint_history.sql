-- Run on SQLite and on PostgreSQL as it stands: TEXT and BIGINT only. Times are Unix milliseconds.

-- What each endpoint subscribed to, and since when: a row for each time it was created or changed. A worker that cannot reach the database
-- fans events out to the endpoints that it knows; this table shows which events another endpoint missed. A row is deleted when the journal
-- has no more events that were received before the next row, and with its endpoint.
CREATE TABLE endpoint_history (
    endpoint_id TEXT COLLATE "BINARY" NOT NULL,
    version BIGINT NOT NULL,
    at_ms BIGINT NOT NULL,
    -- NULL: events of every project.
    project_id TEXT COLLATE "BINARY",
    -- Patterns, comma-separated: lead.completed,research.*
    subscription TEXT NOT NULL,
    PRIMARY KEY (endpoint_id, version)
);

-- Of endpoints that exist already only the last change is known.
INSERT INTO endpoint_history (endpoint_id, version, at_ms, project_id, subscription)
    SELECT id, version, updated_at_ms, project_id, subscription FROM endpoints WHERE deleted_at_ms IS NULL;
