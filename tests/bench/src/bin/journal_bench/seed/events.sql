-- The events of all deliveries, each about one of $1 leads; what research about it came to is cut from $2, 740 bytes. Every
-- endpoint of the organization was considered, and one matched.
WITH organizations AS (
    SELECT organization_id, string_agg(id || ':event_type', ' ' ORDER BY id COLLATE "C") AS considered
    FROM endpoints GROUP BY organization_id
)
INSERT INTO events (id, organization_id, project_id, lead_id, event_type, timestamp_ms, received_ms, body, considered, matched, mark)
SELECT event_id, organization_id, 'proj_' || mark % 300, 'lead_' || mark % $1, 'lead.completed', created_ms, created_ms,
    convert_to(format(
        '{"event":"lead.completed","lead_id":"lead_%s","timestamp":%s,"organization_id":"%s","project_id":"proj_%s","data":{"lead_id":'
        '"lead_%s","status":"completed","generated_content":{"contentLength":4521},"research_results":{"company_info":"',
        mark % $1, created_ms, organization_id, mark % 300, mark % $1
    ), 'UTF8') || substring($2 FROM (mark % (octet_length($2) - 740))::int + 1 FOR 740) || '"}}}'::bytea,
    replace(considered, endpoint_id || ':event_type', endpoint_id || ':matched'), 1, mark
FROM deliveries JOIN organizations USING (organization_id)
