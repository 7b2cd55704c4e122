-- Every attempt of all deliveries.
INSERT INTO attempts (id, delivery_id, endpoint_id, ok, number, began_ms, duration_ms, status, phase, failure, error, response,
    outcome, next_ms, reason)
SELECT 'att_' || lpad(to_hex(began_ms), 12, '0') || substr(md5(delivery_id || number), 1, 20), delivery_id, endpoint_id,
    CASE status WHEN 200 THEN 1 ELSE 0 END, number, began_ms, 20, status, '', '', CASE status WHEN 200 THEN '' ELSE 'HTTP ' || status END,
    CASE status WHEN 200 THEN 'ok'::bytea ELSE 'try again later'::bytea END,
    CASE status WHEN 200 THEN 'delivered' WHEN 410 THEN 'dead' ELSE 'retry' END,
    CASE status WHEN 503 THEN began_ms + (1000 << number::int - 1) ELSE 0 END, CASE status WHEN 410 THEN 'gone' ELSE '' END
FROM (
    SELECT id AS delivery_id, endpoint_id, number, created_ms + 1000 * ((1 << number::int - 1) - 1) AS began_ms,
        CASE WHEN number < attempts THEN 503 ELSE last_status END AS status
    FROM deliveries, generate_series(1, attempts) number
) made
