-- How many rows were added in each minute, as recorders write it.
INSERT INTO totals (minute_ms, shard, events, matched, deliveries, attempts)
SELECT minute * 60000, 0, SUM(events), SUM(matched), SUM(deliveries), SUM(attempts) FROM (
    SELECT received_ms / 60000 AS minute, 1 AS events, matched, 0 AS deliveries, 0 AS attempts FROM events
    UNION ALL SELECT created_ms / 60000, 0, 0, 1, 0 FROM deliveries
    UNION ALL SELECT began_ms / 60000, 0, 0, 0, 1 FROM attempts
) rows_of_all GROUP BY minute
