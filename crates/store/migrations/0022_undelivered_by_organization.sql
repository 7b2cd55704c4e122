-- Run on SQLite and on PostgreSQL as it stands.

-- The few deliveries of an organization that are not delivered, so that its status costs the same whatever is pending or dead in others. A delivery
-- that succeeds at once is never in it.
CREATE INDEX deliveries_undelivered_by_organization ON deliveries (organization_id, state, created_ms, id) WHERE state <> 3;
