#!/usr/bin/env python3
"""Receives Ringfeed's events, checks their signatures, and prints each event once.

    python3 examples/webhook.py 3000 SECRET

with this in the server's configuration:

    [events]
    endpoint = "http://127.0.0.1:3000/"
    secret = "SECRET"
"""

import hashlib
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, SECRET = int(sys.argv[1]), sys.argv[2].encode()
MAX_AGE_S = 300

# The last event of each run of the server. Requests are repeated until they are taken, so an event may come again.
latest = {}


def is_signed(header, body):
    fields = dict(field.split("=", 1) for field in (header or "").split(",") if "=" in field)
    digest = hmac.new(SECRET, fields.get("t", "").encode() + b"." + body, hashlib.sha256).hexdigest()
    is_recent = fields.get("t", "").isdigit() and abs(time.time() - int(fields["t"])) < MAX_AGE_S
    return is_recent and hmac.compare_digest(digest, fields.get("v1", ""))


class Webhook(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        signed = is_signed(self.headers["X-Ringfeed-Signature"], body)
        if signed:
            batch = json.loads(body)
            for event in batch["events"]:
                if event["sequence"] > latest.get(batch["server"], 0):
                    latest[batch["server"]] = event["sequence"]
                    print(json.dumps(event), flush=True)
        self.send_response(200 if signed else 403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", PORT), Webhook).serve_forever()
