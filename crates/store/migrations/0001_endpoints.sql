-- Run on SQLite and on PostgreSQL as it stands: TEXT and BIGINT only.

-- One row. Every write of an endpoint updates it first, so that its lock puts the writers in a row.
CREATE TABLE registry (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    -- Grows by one with every write of an endpoint.
    version BIGINT NOT NULL,
    -- Endpoints that are not deleted: counting them anew for every new one would read them all.
    endpoint_count BIGINT NOT NULL
);

INSERT INTO registry (id, version, endpoint_count) VALUES (1, 0, 0);

CREATE TABLE endpoints (
    id TEXT NOT NULL PRIMARY KEY,
    organization_id TEXT NOT NULL,
    -- NULL: events of every project.
    project_id TEXT,
    -- NULL once deleted, as is the secret.
    url TEXT,
    -- Patterns, comma-separated: lead.completed,research.*
    subscription TEXT NOT NULL,
    secret TEXT,
    -- Both NULL while enabled.
    disabled_reason TEXT,
    disabled_at_ms BIGINT,
    -- NULL until deleted. The row stays, to tell a deleted endpoint from one that never was.
    deleted_at_ms BIGINT,
    -- registry.version as of the last write of this row.
    version BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL
);

CREATE UNIQUE INDEX endpoints_by_version ON endpoints (version);
CREATE INDEX endpoints_by_organization ON endpoints (organization_id, id);
