-- Run on SQLite and on PostgreSQL as it stands.

-- Which of the first 62 attempts are in attempts: of attempt N bit N - 1. Written in the transaction that adds their rows. NULL in rows that an
-- older version wrote.
ALTER TABLE deliveries ADD COLUMN recorded BIGINT;

-- Deliveries of which an attempt may be missing, and until they are too old those that an older version wrote: next to none then, so that an
-- audit need not compare all others with their attempts.
CREATE INDEX deliveries_unrecorded ON deliveries (created_ms)
    WHERE CASE WHEN recorded IS NULL OR attempts > 62 THEN 1
        ELSE (~recorded) & ((CAST(1 AS BIGINT) << CAST(attempts AS INTEGER)) - 1) END <> 0;
