-- Run on SQLite and on PostgreSQL as it stands: BIGINT only.

-- Rows of deleted endpoints are removed after a while. A reader that has seen less than this version may have missed a deletion whose row
-- is gone, and has to load every endpoint again.
ALTER TABLE registry ADD COLUMN low_version BIGINT NOT NULL DEFAULT 0;

-- How many endpoints an organization has is counted before it gets another one.
CREATE INDEX endpoints_existing ON endpoints (organization_id) WHERE deleted_at_ms IS NULL;
CREATE INDEX endpoints_deleted ON endpoints (deleted_at_ms) WHERE deleted_at_ms IS NOT NULL;
-- Tells an endpoint whose row is gone from one that never existed.
CREATE INDEX changes_deleted ON changes (subject) WHERE kind = 'endpoint.deleted';
