"""
client.py SCENARIO PORT CONTROL_PORT CERTIFICATE

Clients of the TLS port that no library is: they read slowly, cut their records small, or look at how a connection
ends. Written with Python's `ssl` alone. Each scenario is a function below, ends the process with status 0 when all was
as it should be, and with a traceback otherwise.
"""
import json
import os
import shutil
import socket
import ssl
import struct
import sys
import threading
import traceback
import urllib.error
import urllib.request

PATIENCE = 60
MESSAGES = 800

UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def context(certificate):
    return ssl.create_default_context(cafile=certificate)


def connect(port, certificate, receive_bytes=None):
    """A TLS connection that says when it ends without `close_notify`."""
    raw = socket.socket()
    raw.settimeout(PATIENCE)
    if receive_bytes:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    raw.connect(("127.0.0.1", port))
    return context(certificate).wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)


def upgrade(tls, path):
    """Opens a WebSocket; returns what came behind the response."""
    tls.sendall(UPGRADE % path)
    head = b""
    while b"\r\n\r\n" not in head:
        head += tls.recv(4096)
    head, rest = head.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 101 "), head
    return rest


class Frames:
    """The server's frames, one after the other."""

    def __init__(self, tls, buffered):
        self.tls, self.buffered = tls, buffered

    def take(self, count):
        while len(self.buffered) < count:
            more = self.tls.recv(65536)
            assert more, "the stream ends within a frame"
            self.buffered += more
        taken, self.buffered = self.buffered[:count], self.buffered[count:]
        return taken

    def next(self):
        first, length = self.take(2)
        if length == 126:
            (length,) = struct.unpack(">H", self.take(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self.take(8))
        return first & 15, self.take(length)


def publish(control, topic, payload):
    request = urllib.request.Request("http://127.0.0.1:%d/publish/%s" % (control, topic), payload, method="POST")
    urllib.request.urlopen(request, timeout=PATIENCE).read()


def slow_reader(port, control, certificate):
    """Whoever reads late receives whole messages, in order, up to the newest; the policy drops between them."""
    with connect(port, certificate, receive_bytes=8192) as tls:
        frames = Frames(tls, upgrade(tls, b"/feed/conflate:a,drop:a"))
        for number in range(MESSAGES):
            publish(control, "conflate:a", b"c%06d " % number + b"x" * (number % 1500))
            publish(control, "drop:a", b"d%06d " % number + b"y" * (number % 20000 if number % 100 == 0 else 100))
        publish(control, "conflate:a", b"clast")
        publish(control, "drop:a", b"dlast")
        newest, seen = {b"c": -1, b"d": -1}, 0
        last = set()
        while len(last) < 2:
            opcode, payload = frames.next()
            if opcode == 9:
                continue
            assert opcode == 1, opcode
            kind = payload[:1]
            if payload[1:] == b"last":
                last.add(kind)
                continue
            number = int(payload[1:7])
            assert number > newest[kind], "%d after %d" % (number, newest[kind])
            assert set(payload[8:]) <= set(b"x" if kind == b"c" else b"y"), payload[:40]
            newest[kind] = number
            seen += 1
        assert seen < 2 * MESSAGES, "nothing was dropped: the reader was not slow"


def large(port, control, certificate):
    """Publications of many records each, to a reader that reads at once."""
    with connect(port, certificate) as tls:
        frames = Frames(tls, upgrade(tls, b"/feed/large:a"))
        for size in (16383, 16384, 16385, 100_000, 900_000):
            payload = (b"0123456789abcdef" * (size // 16 + 1))[:size]
            publish(control, "large:a", payload)
            opcode, got = frames.next()
            assert (opcode, got) == (1, payload), size


def opened(port, _control, certificate):
    """Clients whose request arrives with the end of their handshake, on a server that pings often."""
    trusted = context(certificate)

    def open_one():
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusted.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as raw:
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    raw.sendall(outgoing.read())
                    incoming.write(raw.recv(65536))
            tls.write(UPGRADE % b"/feed/a")
            raw.sendall(outgoing.read())
            while True:
                try:
                    head = tls.read(65536)
                    break
                except ssl.SSLWantReadError:
                    incoming.write(raw.recv(65536))
            assert head.startswith(b"HTTP/1.1 101 "), head

    failures = []

    def open_some():
        try:
            for _ in range(100):
                open_one()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=open_some) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def clean_end(port, _control, certificate):
    """The server says that it ends: with the answer to a request, and with that to a Close frame."""
    with connect(port, certificate) as tls:
        tls.sendall(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while chunk := tls.recv(4096):
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 404 "), answer
    with connect(port, certificate) as tls:
        frames = Frames(tls, upgrade(tls, b"/echo"))
        tls.sendall(b"\x88\x82\x00\x00\x00\x00\x03\xe8")
        assert frames.next() == (8, b"\x03\xe8")
        assert tls.recv(1) == b""


def small_records(port, _control, certificate):
    """The first message in records of one byte, everything in pieces of one byte."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context(certificate).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as raw:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        is_first = True

        def exchange(operation):
            nonlocal is_first
            while True:
                try:
                    result = operation()
                except ssl.SSLWantReadError:
                    result = None
                sent = outgoing.read()
                if sent and is_first:
                    is_first = False
                    sent = b"".join(b"\x16\x03\x01\x00\x01" + bytes([byte]) for byte in sent[5:])
                for index in range(len(sent)):
                    raw.sendall(sent[index : index + 1])
                if result is not None:
                    return result
                received = raw.recv(65536)
                assert received, "the server has closed"
                incoming.write(received)

        exchange(lambda: tls.do_handshake() or True)
        exchange(lambda: tls.write(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        assert exchange(lambda: tls.read(13)) == b"HTTP/1.1 404 "


def replaced(port, control, certificate):
    """A hundred reloads, each with another certificate, while clients come and go and one stays."""
    directory = os.path.dirname(certificate)
    is_over = threading.Event()
    faults, served = [], [0]

    def guarded(work):
        def run():
            try:
                work()
            except BaseException:
                faults.append(traceback.format_exc())
                is_over.set()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def come_and_go():
        while not is_over.is_set():
            with connect(port, certificate) as tls:
                frames = Frames(tls, upgrade(tls, b"/feed/b"))
                tls.sendall(b"\x88\x82\x00\x00\x00\x00\x03\xe8")
                assert frames.next() == (8, b"\x03\xe8")
            served[0] += 1

    def stay(tls, frames):
        expected = 0
        while True:
            opcode, payload = frames.next()
            if opcode == 9:
                continue
            if payload == b"last":
                return
            assert int(payload) == expected, "%r, not %d" % (payload, expected)
            expected += 1

    def reload():
        request = urllib.request.Request("http://127.0.0.1:%d/reload" % control, b"", method="POST")
        try:
            return urllib.request.urlopen(request, timeout=PATIENCE).status
        except urllib.error.HTTPError as error:
            return error.code

    with connect(port, certificate) as tls:
        frames = Frames(tls, upgrade(tls, b"/feed/a"))
        threads = [guarded(come_and_go) for _ in range(4)]
        reader = guarded(lambda: stay(tls, frames))
        for number in range(100):
            name = ("one", "two", "three")[number % 3]
            for kind in ("crt", "key"):
                shutil.copyfile("%s/%s.%s" % (directory, name, kind), "%s/server.%s" % (directory, kind))
            assert reload() == 200
            if number % 10 == 0:
                with open(directory + "/server.crt", "w") as file:
                    file.write("-----BEGIN NONSENSE-----")
                assert reload() == 422, "a broken file changes nothing"
            publish(control, "a", b"%d" % number)
        is_over.set()
        publish(control, "a", b"last")
        [thread.join(PATIENCE) for thread in threads + [reader]]
    assert not faults, "\n".join(faults)
    assert served[0] > 20, served


def client_certificate(port, control, certificate):
    """A client with a certificate: a WebSocket, whose subject operators see, and a request that is rejected."""
    own = context(certificate)
    directory = os.path.dirname(certificate)
    own.load_cert_chain(directory + "/ann.crt", directory + "/ann.key")

    def connect_as_ann():
        raw = socket.create_connection(("127.0.0.1", port), PATIENCE)
        return own.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)

    with connect_as_ann() as tls, connect(port, certificate) as other:
        frames = Frames(tls, upgrade(tls, b"/feed/a"))
        upgrade(other, b"/feed/a")
        publish(control, "a", b"hello")
        assert frames.next() == (1, b"hello")
        listed = urllib.request.urlopen("http://127.0.0.1:%d/admin/connections" % control, timeout=PATIENCE).read()
        subjects = [row.get("subject") for row in json.loads(listed)["connections"]]
        assert sorted(subjects, key=str) == ["CN=ann,O=Example", None], listed
    with connect_as_ann() as tls:
        tls.sendall(b"GET /feed/a HTTP/1.1\r\nHost: localhost\r\nUpgrade: nothing\r\n\r\n")
        assert tls.recv(4096).startswith(b"HTTP/1.1 4")


if __name__ == "__main__":
    # Only the certificate of the test counts.
    os.environ.pop("SSL_CERT_FILE", None)
    scenario, port, control, certificate = sys.argv[1:]
    globals()[scenario](int(port), int(control), certificate)
