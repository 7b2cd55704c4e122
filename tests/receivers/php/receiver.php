<?php
// Receives Magnetite's webhooks. PHP 8 with SQLite (Debian: php-cli php-sqlite3) and nothing else:
//   WEBHOOK_SECRET=whsec_... php -S 127.0.0.1:3000 receiver.php     takes them, as it would behind a real web server
//   php receiver.php                                               works on them
declare(strict_types=1);

const BODY_BYTES_MAX = 256 * 1024; // no event is larger
const TOLERANCE_S = 300;
const REMEMBERED_S = 7 * 24 * 3600;

function header_of(string $name): string
{
    return $_SERVER['HTTP_' . strtr(strtoupper($name), '-', '_')] ?? '';
}

/** Standard Webhooks: id, time and body are signed, and what is older than five minutes is refused. */
function standard_webhooks(string $secret, string $body): bool
{
    [$id, $time] = [header_of('webhook-id'), header_of('webhook-timestamp')];
    if (!ctype_digit($time) || abs(time() - (int) $time) > TOLERANCE_S) {
        return false;
    }
    $key = base64_decode(substr($secret, strlen('whsec_')), true) ?: throw new Exception('WEBHOOK_SECRET is malformed');
    $expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$time.$body", $key, true));
    foreach (explode(' ', header_of('webhook-signature')) as $signature) { // two while the secret is being changed
        if (hash_equals($expected, $signature)) {
            return true;
        }
    }
    return false;
}

/** The simple alternative: the body alone is signed. */
function magnetite_signature(string $secret, string $body): bool
{
    return hash_equals('sha256=' . hash_hmac('sha256', $body, $secret), header_of('x-magnetite-signature'));
}

/** The status to answer with. */
function receive(PDO $db): int
{
    if ($_SERVER['REQUEST_METHOD'] !== 'POST') {
        return 405;
    }
    $body = file_get_contents('php://input', length: BODY_BYTES_MAX + 1); // the bytes as they came
    if (strlen($body) > BODY_BYTES_MAX) {
        return 413;
    }
    // May hold the old and the new one, separated by a comma. With one alone nothing is lost either while it is being changed.
    $secrets = preg_split('/[\s,]+/', (string) getenv('WEBHOOK_SECRET'), flags: PREG_SPLIT_NO_EMPTY);
    $is_simple = getenv('WEBHOOK_SCHEME') === 'x-magnetite-signature';
    $verify = $is_simple ? magnetite_signature(...) : standard_webhooks(...);
    if (!array_filter($secrets, fn (string $secret): bool => $verify($secret, $body))) {
        return 401;
    }
    $event = json_decode($body, true);
    if (!is_array($event) || !isset($event['event'], $event['lead_id'], $event['timestamp'])) {
        return 400;
    }
    // Only what is signed can tell duplicates apart. Remember, then answer: the primary key refuses what is known already.
    $id = $is_simple ? "{$event['lead_id']}/{$event['timestamp']}" : header_of('webhook-id');
    $db->prepare('INSERT INTO events (id, body, received_s) VALUES (?, ?, ?) ON CONFLICT DO NOTHING')
        ->execute([$id, $body, time()]);
    return 200;
}

function work(PDO $db): void
{
    while (true) {
        $next = $db->query("SELECT id, body FROM events WHERE body <> '' ORDER BY rowid LIMIT 1")->fetch();
        if ($next) {
            $event = json_decode($next['body'], true);
            echo "processed {$next['id']} {$event['event']}\n"; // what takes time goes here; killed now, it is done again
            $db->prepare("UPDATE events SET body = '' WHERE id = ?")->execute([$next['id']]);
        } else {
            $db->exec("DELETE FROM events WHERE body = '' AND received_s < " . (time() - REMEMBERED_S));
            usleep(100_000);
        }
    }
}

http_response_code(500); // unless everything below succeeds: PHP on its own may answer 200 to an error
$db = new PDO('sqlite:' . (getenv('EVENTS_DB') ?: __DIR__ . '/events.db'));
$db->exec('CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, body TEXT NOT NULL, received_s INTEGER NOT NULL)');
PHP_SAPI === 'cli' ? work($db) : http_response_code(receive($db));
