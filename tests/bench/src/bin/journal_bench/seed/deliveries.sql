-- $1 deliveries of as many events, to $2 endpoints of $3 organizations: one in fifty from $5 to before $6, the others, evenly,
-- from $4 to before $5. Every 21st had five attempts, of which the last one was answered with a 2xx, or, one in twenty times, with
-- a 410. Ids are derived as workers derive them.
WITH numbered AS (
    SELECT n, $1 - $1 / 50 AS older, organization_id AS organization, 'evt_' || md5('event ' || n) AS event, id AS endpoint
    FROM generate_series(0, $1 - 1) n
    -- They were created one after the other, for one organization after the other.
    JOIN endpoints ON version = 1 + n % $3 + n / $3 % ($2 / $3) * $3
), identified AS (
    SELECT *, CASE WHEN n < older THEN $4 + n * ($5 - $4) / older ELSE $5 + (n - older) * ($6 - $5) / ($1 - older) END AS at_ms,
        CASE WHEN n % 420 = 0 THEN 2 ELSE 3 END AS state, CASE WHEN n % 21 = 0 THEN 5 ELSE 1 END AS attempts,
        encode(sha256(
            int8send(octet_length(organization)) || organization::bytea || int8send(octet_length(event)) || event::bytea
            || int8send(octet_length(endpoint)) || endpoint::bytea || int4send(0)
        ), 'hex') AS hash
    FROM numbered
)
INSERT INTO deliveries (id, organization_id, event_id, endpoint_id, run, trigger, state, attempts, updated_ms, next_ms, reason,
    last_status, last_error, created_ms, mark, recorded)
SELECT 'dlv_' || substr(hash, 1, 32), organization, event, endpoint, 0, 'event', state, attempts,
    at_ms + CASE attempts WHEN 1 THEN 0 ELSE 15000 END + 20, 0, CASE state WHEN 2 THEN 'gone' ELSE '' END,
    CASE state WHEN 2 THEN 410 ELSE 200 END, CASE state WHEN 2 THEN 'HTTP 410' ELSE '' END, at_ms,
    ('x' || substr(hash, 1, 8))::bit(32)::bigint, (1::bigint << attempts) - 1
FROM identified
