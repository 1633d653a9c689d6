"""stomp_tcp.py HOST:PORT CONTROL_URL

Drives the server with PyPI's stomp.py on TCP, in each version of the protocol. Ends with status 0 when all was as it
should be.
"""

import queue
import sys
import urllib.request

import stomp

PATIENCE = 60
VERSIONS = [("1.0", stomp.Connection10), ("1.1", stomp.Connection11), ("1.2", stomp.Connection12)]


class Listener(stomp.ConnectionListener):
    """Keeps what arrives."""

    def __init__(self):
        self.messages, self.receipts, self.errors, self.ends = (queue.Queue() for _ in range(4))

    def on_message(self, frame):
        self.messages.put(frame)

    def on_receipt(self, frame):
        self.receipts.put(frame.headers["receipt-id"])

    def on_error(self, frame):
        self.errors.put(frame)

    def on_disconnected(self):
        self.ends.put(True)


def connect(connection_type, address):
    host, port = address.rsplit(":", 1)
    connection = connection_type([(host, int(port))])
    listener = Listener()
    connection.set_listener("", listener)
    connection.connect("guest", "guest", wait=True)
    return connection, listener


def publish(control, topic, body):
    with urllib.request.urlopen(f"{control}/publish/{topic}", data=body.encode()) as response:
        assert response.status == 200


def check(version, connection_type, address, control):
    connection, listener = connect(connection_type, address)
    connection.subscribe("/topic/news", id="1", headers={"receipt": "subscribed"})
    assert listener.receipts.get(timeout=PATIENCE) == "subscribed"
    publish(control, "news", "from the backend: ☃")
    frame = listener.messages.get(timeout=PATIENCE)
    assert frame.body == "from the backend: ☃", frame
    assert frame.headers["destination"] == "/topic/news", frame.headers
    headers = {"receipt": "sent", "special": "colon" if version == "1.0" else "a:b\nc\\"}
    connection.send("/topic/news", "hello", headers=headers)
    frame = listener.messages.get(timeout=PATIENCE)
    assert (frame.body, frame.headers["special"]) == ("hello", headers["special"]), frame.headers
    assert listener.receipts.get(timeout=PATIENCE) == "sent"
    transaction = connection.begin()
    connection.send("/topic/news", "committed", transaction=transaction)
    assert listener.messages.empty()
    connection.commit(transaction)
    assert listener.messages.get(timeout=PATIENCE).body == "committed"
    connection.unsubscribe("1") if version != "1.0" else connection.unsubscribe(id="1")
    connection.send("/exchange/a/b", "refused")
    error = listener.errors.get(timeout=PATIENCE)
    assert error.headers["message"] == "unusable destination", error.headers
    assert listener.ends.get(timeout=PATIENCE)


def main():
    address, control = sys.argv[1].rstrip("/"), sys.argv[2].rstrip("/")
    for version, connection_type in VERSIONS:
        check(version, connection_type, address, control)
    # A receipt of DISCONNECT is the last frame.
    connection, listener = connect(stomp.Connection12, address)
    connection.disconnect(receipt="bye")
    assert listener.receipts.get(timeout=PATIENCE) == "bye"
    assert listener.ends.get(timeout=PATIENCE)


main()
