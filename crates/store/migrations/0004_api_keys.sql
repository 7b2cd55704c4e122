-- Run on SQLite and on PostgreSQL as it stands: TEXT, BIGINT and BYTEA only. Times are Unix milliseconds.

CREATE TABLE api_keys (
    id TEXT COLLATE "BINARY" NOT NULL PRIMARY KEY,
    organization_id TEXT COLLATE "BINARY" NOT NULL,
    -- For people.
    name TEXT NOT NULL,
    -- Comma-separated: events:write,endpoints:read
    scopes TEXT NOT NULL,
    -- How the key begins, for people.
    prefix TEXT NOT NULL,
    -- SHA-256 of the whole key, which is kept nowhere.
    hash BYTEA NOT NULL,
    created_at_ms BIGINT NOT NULL,
    -- NULL: it does not expire.
    expires_at_ms BIGINT,
    -- NULL until it was used, and up to a minute late.
    last_used_at_ms BIGINT,
    -- NULL until it was revoked.
    revoked_at_ms BIGINT
);

CREATE UNIQUE INDEX api_keys_by_hash ON api_keys (hash);
CREATE INDEX api_keys_by_organization ON api_keys (organization_id, id);

-- How many rows `changes` has. Every writer of that table holds this row's lock.
ALTER TABLE registry ADD COLUMN change_count BIGINT NOT NULL DEFAULT 0;

-- Who changed what. Rows are only ever added, each by the transaction of the change that it tells of.
CREATE TABLE changes (
    -- 1, 2, 3 and so on, in the order of the commits: a gap shows that somebody removed a row.
    number BIGINT NOT NULL PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    organization_id TEXT COLLATE "BINARY" NOT NULL,
    -- cli, worker, recorder, or the id of an API key.
    actor TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- The id of the endpoint or API key that was changed.
    subject TEXT NOT NULL,
    -- A JSON object: what is different now. No secrets, and of URLs the host alone.
    detail TEXT NOT NULL
);

CREATE INDEX changes_by_organization ON changes (organization_id, number);
