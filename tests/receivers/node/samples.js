// Verifies each request twice: as the contract's Node sample does, and with the official library of Standard Webhooks.
// Prints its URL, then one line for each request. The secret is in a file that is written after the endpoint is registered.
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const { Webhook } = require('standardwebhooks');

function verifyWebhookSignature(payload, signature, secret) {
  const expected = crypto.createHmac('sha256', secret).update(payload, 'utf8').digest('hex');
  const received = signature.replace('sha256=', '');
  return crypto.timingSafeEqual(Buffer.from(expected, 'hex'), Buffer.from(received, 'hex'));
}

function check(body, headers) {
  const secret = fs.readFileSync(process.env.WEBHOOK_SECRET_FILE, 'utf8');
  if (!verifyWebhookSignature(body, headers['x-magnetite-signature'], secret)) {
    throw new Error('x-magnetite-signature does not match');
  }
  new Webhook(secret).verify(body, headers);
  const event = JSON.parse(body);
  if (event.event !== headers['x-magnetite-event']) {
    throw new Error('x-magnetite-event is not the event');
  }
  if (String(event.timestamp) !== headers['x-magnetite-timestamp']) {
    throw new Error('x-magnetite-timestamp is not the timestamp');
  }
}

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    try {
      check(Buffer.concat(chunks), request.headers);
      console.log(`ok ${request.headers['webhook-id']}`);
      response.writeHead(200).end('OK');
    } catch (error) {
      console.log(`refused: ${error.message}`);
      response.writeHead(401).end('Unauthorized');
    }
  });
});
server.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}/webhook`));
