"""Verifies each request twice: as the contract's Python sample does, and with the official library of Standard Webhooks.

Prints its URL, then one line for each request. The secret is in a file that is written after the endpoint is registered.
"""

import hashlib
import hmac
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook


def verify_webhook_signature(payload, signature, secret):
    expected = hmac.new(secret.encode("utf-8"), payload, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, signature.replace("sha256=", ""))


def check(body, headers):
    with open(os.environ["WEBHOOK_SECRET_FILE"], encoding="utf-8") as file:
        secret = file.read()
    if not verify_webhook_signature(body, headers["x-magnetite-signature"], secret):
        raise ValueError("x-magnetite-signature does not match")
    Webhook(secret).verify(body, headers)
    event = json.loads(body)
    if event["event"] != headers["x-magnetite-event"]:
        raise ValueError("x-magnetite-event is not the event")
    if str(event["timestamp"]) != headers["x-magnetite-timestamp"]:
        raise ValueError("x-magnetite-timestamp is not the timestamp")


# Each connection has a thread; a line is written whole.
printing = threading.Lock()


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            check(body, headers)
            status, line = 200, "ok " + headers["webhook-id"]
        except Exception as error:
            status, line = 401, f"refused: {error!r}"
        with printing:
            print(line, flush=True)
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(f"http://127.0.0.1:{server.server_address[1]}/webhook", flush=True)
server.serve_forever()
