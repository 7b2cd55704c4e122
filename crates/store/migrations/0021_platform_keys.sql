-- Run on SQLite and on PostgreSQL as it stands.

-- From this version on, '' as a key's organization_id marks a platform key, which belongs to no organization. The id of an organization has at least
-- one byte. In `changes`, organization_id is '' as well if the key that was changed is a platform key. To processes of older versions, a platform key
-- belongs to an organization without objects.

-- Counts the keys of an organization that are not revoked, before it gets another one.
CREATE INDEX api_keys_not_revoked ON api_keys (organization_id) WHERE revoked_at_ms IS NULL;
-- Keys that ended long ago are deleted.
CREATE INDEX api_keys_revoked ON api_keys (revoked_at_ms) WHERE revoked_at_ms IS NOT NULL;
CREATE INDEX api_keys_expiring ON api_keys (expires_at_ms) WHERE expires_at_ms IS NOT NULL;
