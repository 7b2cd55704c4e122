-- $1 endpoints of $2 organizations, created at $3.
INSERT INTO endpoints (id, organization_id, url, subscription, secret, version, created_at_ms, updated_at_ms)
SELECT 'ep_' || md5('endpoint ' || n), 'org_' || n % $2, 'https://hooks.example.com/' || n, 'lead.*',
    'whsec_' || encode(sha256(int8send(n)), 'base64'), registry.version + n + 1, $3, $3
FROM registry, generate_series(0, $1 - 1) n
