-- Run on SQLite and on PostgreSQL as it stands: TEXT only.

-- What a role says in its /readyz: why it cannot do its main job, and what it works without; NULL while there is nothing to report.
ALTER TABLE roles ADD COLUMN waits_for TEXT;
ALTER TABLE roles ADD COLUMN degraded TEXT;
