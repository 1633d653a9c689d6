"""Who takes part while something goes wrong: the real server as a child process, a publisher, subscribers that notice
whatever was lost, repeated or reordered without a word. The client here shares no code with the server.
"""

import base64
import contextlib
import http.client
import json
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

PATIENCE_SECONDS = 60


class Server:
    """`ringfeed serve` as a child, on free ports or on those of an earlier one."""

    def __init__(
        self,
        binary: str,
        flags: list[str] = (),
        like: "Server | None" = None,
        host: str = "127.0.0.1",
        stderr: str = os.devnull,
        environment: dict[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        data, control = (like.data, like.control) if like else ((host, 0), ("127.0.0.1", 0))
        command = [binary, "serve", "--listen", address(data), "--control", address(control), "--shards", "2"]
        with open(stderr, "w") as errors:
            self.process = subprocess.Popen(
                [*command, *flags],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=os.environ | (environment or {}),
                preexec_fn=prepare,
            )
        for line in self.process.stdout:
            if line.startswith("listening on ws://"):
                self.data = parse_address(line.removeprefix("listening on ws://"))
            elif line.startswith("control on http://"):
                self.control = parse_address(line.removeprefix("control on http://"))
            elif line.strip() == "ready":
                return
        raise AssertionError(f"the server ended before it was ready: {self.process.wait()}")

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def request(self, method: str, path: str, body: bytes | None = None) -> str:
        connection = http.client.HTTPConnection(*self.control, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            answer = connection.getresponse()
            text = answer.read().decode()
        assert answer.status == 200, f"{method} {path}: {answer.status} {text}"
        return text

    def metric(self, name: str, label: str = "") -> int:
        rows = [row for row in self.request("GET", "/metrics").splitlines() if row.startswith(name) and label in row]
        assert rows, f"no metric {name} with {label!r}"
        return sum(int(float(row.rsplit(" ", 1)[1])) for row in rows)

    def closed(self, reason: str) -> int:
        return self.metric("ringfeed_connections_closed_total{", f'reason="{reason}"')

    def expect_running(self) -> None:
        assert self.process.poll() is None, f"the server has ended: {self.process.returncode}"


def address(pair: tuple[str, int]) -> str:
    return f"{pair[0]}:{pair[1]}"


def parse_address(text: str) -> tuple[str, int]:
    host, port = text.strip().rsplit(":", 1)
    return host, int(port)


class Publisher(threading.Thread):
    """Publishes 0, 1, 2 … to a topic, one after the other, and notes where each was put."""

    def __init__(self, server: Server, pause_seconds: float) -> None:
        super().__init__(daemon=True)
        self.server, self.pause_seconds = server, pause_seconds
        self.places: dict[tuple[str, int], int] = {}
        self.is_over = threading.Event()
        self.next_number = 0
        self.unanswered = 0
        self.failure: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.publish()
        except Exception as failure:  # noqa: BLE001: told by whoever checks
            self.failure = failure

    def publish(self) -> None:
        connection = None
        while not self.is_over.is_set():
            number, self.next_number = self.next_number, self.next_number + 1
            try:
                connection = connection or http.client.HTTPConnection(*self.server.control, timeout=PATIENCE_SECONDS)
                connection.request("POST", "/publish/load", str(number).encode())
                answer = connection.getresponse()
                place = json.loads(answer.read())
                assert answer.status == 200, answer.status
                self.places[place["epoch"], place["offset"]] = number
            except (OSError, http.client.HTTPException):
                self.unanswered += 1
                connection = None
                time.sleep(0.05)
            time.sleep(self.pause_seconds)

    def stop(self) -> None:
        self.is_over.set()
        self.join()
        if self.failure:
            raise self.failure

    def last_offset(self, epoch: str) -> int:
        return max((offset for known, offset in self.places if known == epoch), default=0)


class Lost(Exception):
    """The connection ended: with this close code, or without one."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"closed with {code}")
        self.code = code


class Connection:
    """A WebSocket, enough of it to listen."""

    def __init__(self, server: tuple[str, int], path: str, protocol: str | None = None) -> None:
        self.socket = socket.create_connection(server, timeout=PATIENCE_SECONDS)
        self.buffer = b""
        try:
            self.open(server, path, protocol)
        except BaseException:
            self.socket.close()
            raise

    def open(self, server: tuple[str, int], path: str, protocol: str | None) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        offer = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {address(server)}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n".encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            self.read_more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        if int(head[9:12]) != 101:
            raise Lost(None)

    def read_more(self) -> None:
        chunk = self.socket.recv(1 << 16)
        if not chunk:
            raise Lost(None)
        self.buffer += chunk

    def message(self) -> bytes:
        """The next message; pings are answered on the way. A timeout loses nothing: what has come is kept."""
        while True:
            first, payload = self.frame()
            match first:
                case 0x81 | 0x82:
                    return payload
                case 0x89:
                    self.socket.sendall(bytes([0x8A, 0x80 | len(payload), 0, 0, 0, 0]) + payload)
                case 0x88:
                    raise Lost(struct.unpack(">H", payload[:2])[0] if payload else None)
                case _:
                    raise AssertionError(f"a frame that begins with {first:#x}")

    def frame(self) -> tuple[int, bytes]:
        self.await_bytes(2)
        first, length = self.buffer[:2]
        assert first & 0x70 == 0 and length & 0x80 == 0, "not a server's frame"
        start = 2
        if length >= 126:
            start, layout = (4, ">H") if length == 126 else (10, ">Q")
            self.await_bytes(start)
            (length,) = struct.unpack(layout, self.buffer[2:start])
        self.await_bytes(start + length)
        payload, self.buffer = self.buffer[start : start + length], self.buffer[start + length :]
        return first, payload

    def await_bytes(self, count: int) -> None:
        while len(self.buffer) < count:
            self.read_more()


class Subscriber(threading.Thread):
    """Listens with envelopes, comes back where it was, and notes what came and what it was told. It leaves after
    `stay_seconds`, if given, to come back. `enter` is called on its thread before all else."""

    def __init__(
        self,
        server: tuple[str, int],
        until: threading.Event,
        stay_seconds: float | None,
        enter: Callable[[], None] | None,
    ) -> None:
        super().__init__(daemon=True)
        self.server, self.until = server, until
        self.stay_seconds, self.enter = stay_seconds, enter
        # If set, it also leaves when it has heard nothing for so long.
        self.silence_seconds: float | None = None
        # The last place it has heard of.
        self.place: tuple[str, int] | None = None
        # Where each message that came had been put.
        self.heard: list[tuple[tuple[str, int], int]] = []
        # Messages that arrived in place of others, without a report of the loss.
        self.faults: list[str] = []
        self.connections = self.recoveries = self.losses_told = 0
        self.failure: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            if self.enter:
                self.enter()
            while not self.until.is_set():
                try:
                    self.listen()
                except Lost as lost:
                    if lost.code == 3010:
                        # The missed messages have expired: the client begins anew.
                        self.losses_told += 1
                        self.place = None
                except (OSError, TimeoutError):
                    pass
                time.sleep(0.05)
        except Exception as failure:  # noqa: BLE001: told by whoever checks
            self.failure = failure

    def listen(self) -> None:
        since = f"?since={self.place[0]}:{self.place[1]}" if self.place else ""
        connection = Connection(self.server, f"/feed/load{since}", "ringfeed.envelope")
        self.connections += 1
        with contextlib.closing(connection.socket):
            self.begin(json.loads(connection.message().split(b"\n", 1)[0]))
            connection.socket.settimeout(0.2)
            start = last = time.monotonic()
            while not self.stay_seconds or time.monotonic() - start < self.stay_seconds:
                try:
                    envelope, payload = connection.message().split(b"\n", 1)
                except TimeoutError:
                    if self.until.is_set() or self.silence_seconds and time.monotonic() - last > self.silence_seconds:
                        return
                    continue
                last = time.monotonic()
                envelope = json.loads(envelope)
                self.hear((envelope["epoch"], envelope["offset"]), int(payload))

    def begin(self, first: dict) -> None:
        """The first message says where the topic is, and whether all that was missed follows."""
        assert first["subscribed"], first
        if self.place is not None and first["recovered"]:
            self.recoveries += 1
            if first["epoch"] != self.place[0]:
                self.faults.append(f"recovered from {self.place} in another epoch: {first}")
        else:
            self.losses_told += self.place is not None
            self.place = first["epoch"], first["offset"]

    def hear(self, place: tuple[str, int], number: int) -> None:
        epoch, offset = self.place
        if place != (epoch, offset + 1):
            self.faults.append(f"{place} came after {self.place}")
        self.place = place
        self.heard.append((place, number))

    def check(self, publisher: Publisher) -> None:
        """Nothing was lost, repeated or reordered untold, and all is what was put there."""
        if self.failure:
            raise self.failure
        assert not self.faults, f"{len(self.faults)} times, the first: {self.faults[0]}"
        for place, number in self.heard:
            assert publisher.places.get(place, number) == number, f"another message than was put at {place}"


@contextlib.contextmanager
def audience(
    server: Server, enter: Callable[[], None] | None = None, pause_seconds: float = 0.002
) -> Iterator[tuple[Publisher, list[Subscriber], threading.Event]]:
    """Five subscribers that stay and five that come and go, and a publisher once they listen."""
    over = threading.Event()
    stays = [None] * 5 + [0.7] * 5
    subscribers = [Subscriber(server.data, over, stay_seconds, enter) for stay_seconds in stays]
    await_that("all listen", lambda: all(subscriber.place or subscriber.failure for subscriber in subscribers))
    publisher = Publisher(server, pause_seconds)
    try:
        yield publisher, subscribers, over
    finally:
        over.set()
        publisher.is_over.set()


def await_that(what: str, has_happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not has_happened():
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s: {what}"
        time.sleep(0.02)


def finish(server: Server, publisher: Publisher, subscribers: list[Subscriber], over: threading.Event) -> str:
    """Stops publishing: whoever listens must get all there is. What all have seen."""
    publisher.stop()
    last = json.loads(server.request("POST", "/publish/load", b"-1"))
    last = last["epoch"], last["offset"]
    await_that(
        "everybody has everything",
        lambda: all(each.failure or each.faults or each.place == last for each in subscribers),
    )
    over.set()
    for subscriber in subscribers:
        subscriber.join()
        subscriber.check(publisher)
    total = lambda of: sum(map(of, subscribers))  # noqa: E731
    return (
        f"{len(publisher.places)} published, {publisher.unanswered} without an answer; "
        f"{total(lambda each: len(each.heard))} delivered to {len(subscribers)} subscribers over "
        f"{total(lambda each: each.connections)} connections, {total(lambda each: each.recoveries)} times recovered; "
        f"0 lost untold, 0 repeated, {total(lambda each: each.losses_told)} losses told"
    )
