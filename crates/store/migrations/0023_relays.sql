-- Run on SQLite and on PostgreSQL as it stands: TEXT and BIGINT only. Times are Unix milliseconds of the database's clock.

-- The leases of relays: endpoints without a URL, whose requests are passed to a program that is connected to the API. Each row is written with its
-- endpoint, and removed with it. A recorder deletes the endpoint when its lease has expired.
CREATE TABLE relays (
    endpoint_id TEXT NOT NULL PRIMARY KEY,
    organization_id TEXT NOT NULL,
    -- The key that opened the relay, and the only one that may use it.
    api_key_id TEXT COLLATE "BINARY" NOT NULL,
    until_ms BIGINT NOT NULL
);

CREATE INDEX relays_by_key ON relays (api_key_id, organization_id);
