-- Run on SQLite and on PostgreSQL as it stands: TEXT, BIGINT and BYTEA only; SQLite takes the last name, and keeps bytes as bytes.
-- Texts are compared byte by byte: "BINARY" is SQLite's own name for that, and PostgreSQL is given a collation of this name.
-- No foreign keys: what is recorded comes in any order. Times are Unix milliseconds. Where NULL is not said, 0 and '' mean "none".

CREATE TABLE events (
    id TEXT COLLATE "BINARY" NOT NULL,
    organization_id TEXT COLLATE "BINARY" NOT NULL,
    project_id TEXT COLLATE "BINARY" NOT NULL,
    lead_id TEXT COLLATE "BINARY" NOT NULL,
    event_type TEXT COLLATE "BINARY" NOT NULL,
    timestamp_ms BIGINT NOT NULL,
    -- When a worker first took it.
    received_ms BIGINT NOT NULL,
    -- NULL when it was published without.
    traceparent TEXT,
    body BYTEA NOT NULL,
    -- One word for each endpoint: ep_1:matched ep_2:project ep_3:event_type ep_4:disabled.gone.1703123456789
    considered TEXT COLLATE "BINARY" NOT NULL,
    -- How many of them matched.
    matched BIGINT NOT NULL,
    -- The sum of their deliveries' marks.
    mark BIGINT NOT NULL,
    -- In this order: an event is asked for by its id alone.
    PRIMARY KEY (id, organization_id)
);

-- The last two for sums over a time: to read them from the rows would read the bodies' pages.
CREATE INDEX events_by_time ON events (received_ms, id, matched, mark);
CREATE INDEX events_by_organization ON events (organization_id, received_ms, id);
CREATE INDEX events_by_project ON events (project_id, received_ms, id);
CREATE INDEX events_by_lead ON events (lead_id, received_ms, id);

CREATE TABLE deliveries (
    id TEXT COLLATE "BINARY" NOT NULL PRIMARY KEY,
    organization_id TEXT COLLATE "BINARY" NOT NULL,
    event_id TEXT COLLATE "BINARY" NOT NULL,
    endpoint_id TEXT COLLATE "BINARY" NOT NULL,
    run BIGINT NOT NULL,
    trigger TEXT COLLATE "BINARY" NOT NULL,
    -- 0 pending, 1 cancelled, 2 dead, 3 delivered.
    state BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    updated_ms BIGINT NOT NULL,
    next_ms BIGINT NOT NULL,
    reason TEXT COLLATE "BINARY" NOT NULL,
    last_status BIGINT NOT NULL,
    last_error TEXT COLLATE "BINARY" NOT NULL,
    created_ms BIGINT NOT NULL,
    -- The first 32 bits of the id's hash: sums of them tell whether two sets of deliveries differ without comparing each.
    mark BIGINT NOT NULL,
    -- NULL unless somebody asked for this run.
    requested_ms BIGINT,
    -- Until when somebody is publishing it; NULL when nobody was.
    claimed_until_ms BIGINT,
    -- NULL until it was published.
    sent_ms BIGINT
);

CREATE INDEX deliveries_by_event ON deliveries (event_id, organization_id, endpoint_id, run);
-- All that an audit asks of a time.
CREATE INDEX deliveries_by_time ON deliveries (created_ms, id, run, state, attempts, mark);
CREATE INDEX deliveries_by_organization ON deliveries (organization_id, created_ms, id);
CREATE INDEX deliveries_by_endpoint ON deliveries (endpoint_id, created_ms, id);
-- Few, and asked for most: those that are not delivered.
CREATE INDEX deliveries_undelivered ON deliveries (state, created_ms, id) WHERE state <> 3;
CREATE INDEX deliveries_unsent ON deliveries (endpoint_id)
    WHERE requested_ms IS NOT NULL AND sent_ms IS NULL AND state = 0;
-- Whoever asks twice gets one run.
CREATE UNIQUE INDEX deliveries_open_requests ON deliveries (event_id, organization_id, endpoint_id)
    WHERE requested_ms IS NOT NULL AND state = 0;

CREATE TABLE attempts (
    -- Begins with began_ms: a range of time is a range of ids.
    id TEXT COLLATE "BINARY" NOT NULL PRIMARY KEY,
    delivery_id TEXT COLLATE "BINARY" NOT NULL,
    endpoint_id TEXT COLLATE "BINARY" NOT NULL,
    -- 1 when it was answered with a 2xx.
    ok BIGINT NOT NULL,
    number BIGINT NOT NULL,
    began_ms BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    status BIGINT NOT NULL,
    phase TEXT NOT NULL,
    failure TEXT NOT NULL,
    error TEXT NOT NULL,
    response BYTEA NOT NULL,
    -- What followed: delivered, retry, deferred, dead or cancelled.
    outcome TEXT NOT NULL,
    next_ms BIGINT NOT NULL,
    reason TEXT NOT NULL
);

CREATE INDEX attempts_by_delivery ON attempts (delivery_id, number);
CREATE INDEX attempts_by_endpoint ON attempts (endpoint_id, ok, began_ms, duration_ms);

CREATE TABLE rejected (
    id TEXT COLLATE "BINARY" NOT NULL PRIMARY KEY,
    rejected_ms BIGINT NOT NULL,
    source TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    -- NULL when the message had none; so is its type.
    message_id TEXT,
    event_type TEXT,
    -- JSON.
    headers TEXT NOT NULL,
    body BYTEA NOT NULL,
    -- NULL until it was sent back to where it came from.
    redriven_ms BIGINT
);

CREATE INDEX rejected_by_time ON rejected (rejected_ms, id);

CREATE TABLE gaps (
    worker TEXT COLLATE "BINARY" NOT NULL,
    from_ms BIGINT NOT NULL,
    until_ms BIGINT NOT NULL,
    record_count BIGINT NOT NULL,
    PRIMARY KEY (worker, from_ms)
);

-- What the platform is to be told of: written with what it tells, deleted once it was published.
CREATE TABLE operations (
    id TEXT COLLATE "BINARY" NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    organization_id TEXT NOT NULL,
    endpoint_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    at_ms BIGINT NOT NULL
);

CREATE INDEX operations_by_time ON operations (at_ms, id);
