-- Run on SQLite and on PostgreSQL as it stands: TEXT and BIGINT only. Times are Unix milliseconds.

-- The position of the registry that the worker fanned the event out with: its version, the number of its last change and that change's stamp,
-- with dots between. With it, considered names only the endpoints that matched, and endpoint_history says why another one did not.
-- '' in rows of older versions, whose considered names every endpoint.
ALTER TABLE events ADD COLUMN seen TEXT COLLATE "BINARY" NOT NULL DEFAULT '';

-- When and why the endpoint was disabled, at that version; NULL if it is enabled. From now on disabling and enabling an endpoint add a row,
-- too, and the rows of a deleted endpoint stay until its row in endpoints is deleted.
ALTER TABLE endpoint_history ADD COLUMN disabled_at_ms BIGINT;
ALTER TABLE endpoint_history ADD COLUMN disabled_reason TEXT;

UPDATE endpoint_history SET
    disabled_at_ms = (SELECT e.disabled_at_ms FROM endpoints e WHERE e.id = endpoint_history.endpoint_id),
    disabled_reason = (SELECT e.disabled_reason FROM endpoints e WHERE e.id = endpoint_history.endpoint_id)
    WHERE EXISTS (SELECT 1 FROM endpoints e WHERE e.id = endpoint_history.endpoint_id AND e.version = endpoint_history.version);
INSERT INTO endpoint_history (endpoint_id, version, at_ms, project_id, subscription, disabled_at_ms, disabled_reason)
    SELECT e.id, e.version, e.updated_at_ms, e.project_id, e.subscription, e.disabled_at_ms, e.disabled_reason FROM endpoints e
    WHERE e.deleted_at_ms IS NULL AND NOT EXISTS (SELECT 1 FROM endpoint_history h
        WHERE h.endpoint_id = e.id AND h.version = e.version);

-- How many rows were ever added to the journal, by minute. Written in the transaction that adds the rows, and deleted by retention with them, so
-- that rows deleted otherwise are noticed, also if all rows that refer to them were deleted as well.
CREATE TABLE totals (
    minute_ms BIGINT NOT NULL,
    -- Any number: processes that write at once use different ones, so that they seldom wait for each other.
    shard BIGINT NOT NULL,
    -- Events received in that minute, and the endpoints that they matched.
    events BIGINT NOT NULL,
    matched BIGINT NOT NULL,
    -- Deliveries created and attempts begun in that minute.
    deliveries BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    PRIMARY KEY (minute_ms, shard)
);

-- Minute 0 means that there are totals of all minutes: the journal was empty when this table was created.
INSERT INTO totals (minute_ms, shard, events, matched, deliveries, attempts)
    SELECT 0, 0, 0, 0, 0, 0 WHERE NOT EXISTS (SELECT 1 FROM events) AND NOT EXISTS (SELECT 1 FROM deliveries);

-- The value of created_ms before the row was last written; NULL if it was written once.
ALTER TABLE deliveries ADD COLUMN replaced_ms BIGINT;
