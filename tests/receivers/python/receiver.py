"""Receives Magnetite's webhooks:

pip install flask standardwebhooks
WEBHOOK_SECRET=whsec_... PORT=3000 python receiver.py
"""

import hashlib
import hmac
import json
import os
import queue
import threading

from flask import Flask, request
from standardwebhooks import Webhook

BODY_BYTES_MAX = 256 * 1024  # no event is larger
REMEMBERED_MAX = 10_000
# May hold the old and the new one, separated by a comma. With one alone nothing is lost either while it is being changed.
SECRETS = os.environ["WEBHOOK_SECRET"].replace(",", " ").split()
IS_SIMPLE = os.environ.get("WEBHOOK_SCHEME") == "x-magnetite-signature"

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
waiting = queue.Queue(maxsize=1_000)
remembered = {}  # in order of arrival
lock = threading.Lock()


def standard_webhooks(headers, body):
    """Id, time and body are signed, and what is older than five minutes is refused."""
    for secret in SECRETS:
        try:
            Webhook(secret).verify(body, headers, json_parse=False)
            return True
        except Exception:  # malformed headers raise errors of any type
            continue
    return False


def magnetite_signature(headers, body):
    """The simple alternative: the body alone is signed."""
    received = headers.get("X-Magnetite-Signature", "").encode()
    hmacs = (hmac.new(secret.encode(), body, hashlib.sha256).hexdigest() for secret in SECRETS)
    return any(hmac.compare_digest(received, f"sha256={digest}".encode()) for digest in hmacs)


@app.post("/webhook")
def receive():
    body = request.get_data()  # the bytes as they came
    verify = magnetite_signature if IS_SIMPLE else standard_webhooks
    if not verify(request.headers, body):
        return "bad signature", 401
    try:
        event = json.loads(body)
        simple_id = f"{event['lead_id']}/{event['timestamp']}"
    except (ValueError, LookupError, TypeError):
        return "not an event", 400
    # Only what is signed can tell duplicates apart.
    return take(simple_id if IS_SIMPLE else request.headers["webhook-id"], event)


def take(event_id, event):
    """Remember, then answer. In production insert id and body into a table with a unique key on the id, commit, answer, and
    let a job work on the table: this memory ends with the process."""
    with lock:
        if event_id in remembered:
            return "known"
        try:
            waiting.put_nowait((event_id, event))
        except queue.Full:
            return "busy", 503  # it comes again
        remembered[event_id] = True
        if len(remembered) > REMEMBERED_MAX:
            del remembered[next(iter(remembered))]
    return "OK"


def work():
    while True:
        event_id, event = waiting.get()
        print("processed", event_id, event["event"], flush=True)  # what takes time goes here


threading.Thread(target=work, daemon=True).start()
if __name__ == "__main__":
    app.run("127.0.0.1", int(os.environ["PORT"]))
