-- Run on SQLite and on PostgreSQL as it stands: TEXT and BIGINT only. Secrets that were in clear are sealed by the same transaction.

-- The id of the key that seals secrets; NULL until the first one is sealed.
ALTER TABLE registry ADD COLUMN sealing_key TEXT;

-- What `secret` was before the last rotation, sealed likewise, and until when it is valid: both NULL, or neither.
ALTER TABLE endpoints ADD COLUMN previous_secret TEXT;
ALTER TABLE endpoints ADD COLUMN previous_until_ms BIGINT;
