-- Run on SQLite and on PostgreSQL as it stands: TEXT and BIGINT only. Times are Unix milliseconds of the database's clock.

-- How many deliveries a worker has in hand that were recorded as pending: messages of the queue of due ones, and of the one of held ones.
ALTER TABLE roles ADD COLUMN in_hand BIGINT NOT NULL DEFAULT 0;

-- The delays of all schedules that workers ran with lately: the queue of each may hold deliveries, whatever the schedule is now.
CREATE TABLE delays (
    delay_ms BIGINT NOT NULL PRIMARY KEY,
    -- When a worker began with it last.
    used_ms BIGINT NOT NULL
);
