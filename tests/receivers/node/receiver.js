// Receives Magnetite's webhooks:
//   npm install express standardwebhooks
//   WEBHOOK_SECRET=whsec_... PORT=3000 node receiver.js
const crypto = require('node:crypto');
const express = require('express');
const { Webhook } = require('standardwebhooks');

const BODY_BYTES_MAX = 256 * 1024; // no event is larger
const REMEMBERED_MAX = 10_000;
// May hold the old and the new one, separated by a comma. With one alone nothing is lost either while it is being changed.
const SECRETS = process.env.WEBHOOK_SECRET.split(/[\s,]+/).filter(Boolean);
const IS_SIMPLE = process.env.WEBHOOK_SCHEME === 'x-magnetite-signature';

// Standard Webhooks: id, time and body are signed, and what is older than five minutes is refused.
function standardWebhooks(headers, body) {
  return SECRETS.some((secret) => {
    try {
      new Webhook(secret).verify(body, headers);
      return true;
    } catch (error) {
      return error instanceof SyntaxError; // signed well, but no JSON
    }
  });
}

// The simple alternative: the body alone is signed.
function magnetiteSignature(headers, body) {
  const received = Buffer.from(headers['x-magnetite-signature'] ?? '');
  return SECRETS.some((secret) => {
    const hmac = crypto.createHmac('sha256', secret).update(body).digest('hex');
    const expected = Buffer.from(`sha256=${hmac}`);
    return received.length === expected.length && crypto.timingSafeEqual(received, expected);
  });
}

function parse(body) {
  try {
    return JSON.parse(body);
  } catch {
    return null;
  }
}

const remembered = new Set(); // in order of arrival

function receive(req, res) {
  const body = req.body ?? Buffer.alloc(0); // the bytes as they came
  const verify = IS_SIMPLE ? magnetiteSignature : standardWebhooks;
  if (!verify(req.headers, body)) return res.status(401).send('bad signature');
  const event = parse(body);
  if (typeof event?.event !== 'string') return res.status(400).send('not an event');
  // Only what is signed can tell duplicates apart.
  const id = IS_SIMPLE ? `${event.lead_id}/${event.timestamp}` : req.headers['webhook-id'];
  if (remembered.has(id)) return res.send('known');
  // Remember, then answer. In production insert id and body into a table with a unique key on the id, commit, answer, and let
  // a job work on the table: this memory ends with the process.
  remembered.add(id);
  if (remembered.size > REMEMBERED_MAX) remembered.delete(remembered.values().next().value);
  setImmediate(work, id, event);
  res.send('OK');
}

function work(id, event) {
  console.log(`processed ${id} ${event.event}`); // what takes time goes here
}

const app = express();
app.post('/webhook', express.raw({ type: () => true, limit: BODY_BYTES_MAX }), receive);
app.use((error, req, res, next) => res.sendStatus(error.status ?? 500));
app.listen(process.env.PORT, '127.0.0.1');
