#!/usr/bin/env python3
"""Real faults under load: the real server is killed, starved, stopped and cut off while publishers publish and
subscribers listen. Nothing may be lost, repeated or reordered without the subscriber being told.

    tests/faults/run.py [--binary PATH] [NAME …]

Builds the release binary unless one is named. Needs root for `memory` (a control group) and `network` (namespaces and
netem); what can't be had is skipped and said so. Ends with an error if a promise was broken. Only the standard
library: the client here shares no code with the server.
"""

import argparse
import base64
import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 60


class Skipped(Exception):
    """The host does not allow this fault."""


class Server:
    """`ringfeed serve` as a child, on free ports or on those of an earlier one."""

    def __init__(
        self,
        binary: str,
        flags: list[str] = (),
        like: "Server | None" = None,
        prefix: list[str] = (),
        host: str = "127.0.0.1",
        stderr: str = os.devnull,
        environment: dict[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        data, control = (like.data, like.control) if like else ((host, 0), (host, 0))
        command = [*prefix, binary, "serve", "--listen", address(data), "--control", address(control), "--shards", "2"]
        self.process = subprocess.Popen(
            [*command, *flags],
            stdout=subprocess.PIPE,
            stderr=open(stderr, "w"),
            text=True,
            env=os.environ | (environment or {}),
            preexec_fn=prepare,
        )
        self.prefix = list(prefix)
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
        connection.request(method, path, body)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == 200, f"{method} {path}: {answer.status} {text}"
        return text

    def metric(self, name: str, label: str = "") -> int:
        rows = [row for row in self.request("GET", "/metrics").splitlines() if row.startswith(name) and label in row]
        assert rows, f"no metric {name} with {label!r}"
        return sum(int(float(row.rsplit(" ", 1)[1])) for row in rows)

    def closed(self, reason: str) -> int:
        return self.metric("ringfeed_connections_closed_total{", f'reason="{reason}"')


def address(pair: tuple[str, int]) -> str:
    return f"{pair[0]}:{pair[1]}"


def parse_address(text: str) -> tuple[str, int]:
    host, port = text.strip().rsplit(":", 1)
    return host, int(port)


class Publisher(threading.Thread):
    """Publishes 0, 1, 2 … to a topic, one after the other, and notes where each was put."""

    def __init__(self, server: Server, pause_seconds: float = 0.002) -> None:
        super().__init__(daemon=True)
        self.server, self.pause_seconds = server, pause_seconds
        self.places: dict[tuple[str, int], int] = {}
        self.is_over = threading.Event()
        self.next_number = 0
        self.refused = 0
        self.start()

    def run(self) -> None:
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
                self.refused += 1
                connection = None
                time.sleep(0.05)
            time.sleep(self.pause_seconds)

    def stop(self) -> None:
        self.is_over.set()
        self.join()

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
        key = base64.b64encode(os.urandom(16)).decode()
        offer = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {address(server)}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n".encode()
        )
        while b"\r\n\r\n" not in self.buffer:
            self.read_more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        self.status = int(head[9:12])
        if self.status != 101:
            self.socket.close()
            raise Lost(None)

    def read_more(self) -> None:
        chunk = self.socket.recv(1 << 16)
        if not chunk:
            raise Lost(None)
        self.buffer += chunk

    def take(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self.read_more()
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def message(self) -> bytes:
        """The next message; pings are answered on the way."""
        while True:
            first, length = self.take(2)
            assert first & 0x70 == 0 and length & 0x80 == 0, "not a server's frame"
            if length == 126:
                (length,) = struct.unpack(">H", self.take(2))
            elif length == 127:
                (length,) = struct.unpack(">Q", self.take(8))
            payload = self.take(length)
            match first:
                case 0x81 | 0x82:
                    return payload
                case 0x89:
                    self.socket.sendall(bytes([0x8A, 0x80 | length, 0, 0, 0, 0]) + payload)
                case 0x88:
                    raise Lost(struct.unpack(">H", payload[:2])[0] if payload else None)
                case _:
                    raise AssertionError(f"a frame that begins with {first:#x}")


class Subscriber(threading.Thread):
    """Listens with envelopes, comes back where it was, and notes what came and what it was told."""

    def __init__(self, server: tuple[str, int], until: threading.Event) -> None:
        super().__init__(daemon=True)
        self.server, self.until = server, until
        # By epoch, what came: offset and number, in the order of coming.
        self.heard: dict[str, list[tuple[int, int]]] = {}
        self.place: tuple[str, int] | None = None
        self.losses_told = 0
        self.connections = 0
        self.failure: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            while not self.until.is_set():
                try:
                    self.listen()
                except Lost as lost:
                    if lost.code == 3010:
                        # What was missed can't be had: it begins anew.
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
            self.begin(json.loads(connection.message().split(b"\n", 1)[0]), bool(since))
            connection.socket.settimeout(1)
            while True:
                try:
                    envelope, payload = connection.message().split(b"\n", 1)
                except TimeoutError:
                    if self.until.is_set():
                        return
                    continue
                envelope = json.loads(envelope)
                self.place = envelope["epoch"], envelope["offset"]
                self.heard.setdefault(envelope["epoch"], []).append((envelope["offset"], int(payload)))

    def begin(self, first: dict, has_asked: bool) -> None:
        assert first["subscribed"], first
        if self.place and (first["epoch"] != self.place[0] or has_asked and not first["recovered"]):
            self.losses_told += 1
        self.place = first["epoch"], self.place[1] if has_asked and first.get("recovered") else first["offset"]

    def check(self, publisher: Publisher, may_lose: bool) -> int:
        """Checks what came; how many messages that was."""
        if self.failure:
            raise self.failure
        for epoch, heard in self.heard.items():
            offsets = [offset for offset, _ in heard]
            assert all(a < b for a, b in zip(offsets, offsets[1:])), "repeated or out of order"
            gaps = sum(b - a - 1 for a, b in zip(offsets, offsets[1:]))
            assert gaps == 0 or may_lose and self.losses_told, f"{gaps} lost and not told"
            for offset, number in heard:
                assert publisher.places.get((epoch, offset), number) == number, "another message than was put there"
        return sum(map(len, self.heard.values()))


@contextlib.contextmanager
def audience(server: Server, count: int = 10) -> Iterator[tuple[Publisher, list[Subscriber], threading.Event]]:
    """Subscribers, and a publisher once they listen."""
    over = threading.Event()
    subscribers = [Subscriber(server.data, over) for _ in range(count)]
    await_that("all listen", lambda: server.metric("ringfeed_subscriptions{") >= count)
    publisher = Publisher(server)
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


def finish(server: Server, publisher: Publisher, subscribers: list[Subscriber], over: threading.Event) -> None:
    """Stops publishing; whoever listens must get all there is."""
    publisher.stop()
    epoch = json.loads(server.request("POST", "/publish/load", b"-1"))["epoch"]
    last = publisher.last_offset(epoch)

    def have_all() -> bool:
        return all(each.failure or each.heard.get(epoch) and each.heard[epoch][-1][0] > last for each in subscribers)

    await_that("everybody has everything", have_all)
    over.set()
    for subscriber in subscribers:
        subscriber.join()


def summary(publisher: Publisher, subscribers: list[Subscriber], may_lose: bool) -> str:
    counts = [subscriber.check(publisher, may_lose) for subscriber in subscribers]
    told = sum(subscriber.losses_told for subscriber in subscribers)
    published, connections = len(publisher.places), sum(subscriber.connections for subscriber in subscribers)
    return (
        f"{published} published, {publisher.refused} refused, "
        f"{sum(counts)} delivered to {len(subscribers)} subscribers "
        f"over {connections} connections; 0 lost untold, 0 repeated, {told} losses told"
    )


def kill(binary: str) -> str:
    """Killed with SIGKILL and started again, three times: a new epoch each time, which everybody is told."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Server(binary))
        publisher, subscribers, over = stack.enter_context(audience(server))
        for _ in range(3):
            time.sleep(1)
            server.process.kill()
            server.process.wait()
            server = stack.enter_context(Server(binary, like=server))
            await_that("all are back", lambda: server.metric("ringfeed_subscriptions{") >= len(subscribers))
        time.sleep(1)
        finish(server, publisher, subscribers, over)
        assert all(subscriber.losses_told >= 3 for subscriber in subscribers), "somebody was not told of a new epoch"
        return summary(publisher, subscribers, may_lose=True)


def memory(binary: str) -> str:
    """A control group with little memory, and subscribers that never read: they end, the others get everything."""
    group = Path("/sys/fs/cgroup/memory/ringfeed-faults")
    bound = 96 << 20
    try:
        group.mkdir(exist_ok=True)
        (group / "memory.limit_in_bytes").write_text(str(bound))
    except OSError as error:
        raise Skipped(f"no control group for memory: {error}") from error

    def enter() -> None:
        (group / "cgroup.procs").write_text(str(os.getpid()))

    try:
        with Server(binary, prepare=enter) as server, audience(server) as (publisher, subscribers, over):
            dead = [Connection(server.data, "/feed/load,ballast") for _ in range(100)]
            while server.closed("slow_consumer") < len(dead):
                server.request("POST", "/publish/ballast", b"x" * 100_000)
            finish(server, publisher, subscribers, over)
            peak = int((group / "memory.max_usage_in_bytes").read_text())
            assert server.process.poll() is None, "the server has ended"
            return f"{summary(publisher, subscribers, False)}; 100 ended as slow, peak {peak >> 20} of {bound >> 20} MB"
    finally:
        await_that("the group is empty", lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def descriptors(binary: str) -> str:
    """No more descriptors than 200, and 600 connections: the others wait or are told so, and nobody inside notices."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

    with Server(binary, prepare=limit) as server, audience(server) as (publisher, subscribers, over):
        crowd = [socket.create_connection(server.data, timeout=PATIENCE_SECONDS) for _ in range(600)]
        time.sleep(2)
        assert server.process.poll() is None, "the server has ended"
        inside = server.metric("ringfeed_connections{")
        for each in crowd:
            each.close()
        await_that("the crowd has gone", lambda: server.metric("ringfeed_connections{") == len(subscribers))
        Connection(server.data, "/feed/load").socket.close()
        finish(server, publisher, subscribers, over)
        return f"{summary(publisher, subscribers, False)}; at most {inside} of 610 were let in"


def disk(binary: str) -> str:
    """Logs at their fullest, to a disk that is full: the server goes on without."""
    environment = {"RUST_LOG": "trace"}
    with (
        Server(binary, stderr="/dev/full", environment=environment) as server,
        audience(server) as (publisher, subscribers, over),
    ):
        time.sleep(3)
        finish(server, publisher, subscribers, over)
        return summary(publisher, subscribers, False)


def clock(binary: str) -> str:
    """Stopped for longer than pings may go unanswered, so that all clocks have jumped when it goes on: whoever answered
    is not given up for it."""
    flags = ["--ping-interval-ms", "500", "--pong-timeout-ms", "1000"]
    with Server(binary, flags) as server, audience(server) as (publisher, subscribers, over):
        idle = [Connection(server.data, "/feed/quiet") for _ in range(5)]
        listening = [threading.Thread(target=silently, args=(each,), daemon=True) for each in idle]
        for thread in listening:
            thread.start()
        for _ in range(3):
            time.sleep(1)
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(4)
            server.process.send_signal(signal.SIGCONT)
        time.sleep(2)
        given_up = server.closed("ping_timeout")
        assert given_up == 0, f"{given_up} were given up while the server slept"
        finish(server, publisher, subscribers, over)
        return summary(publisher, subscribers, False)


def silently(connection: Connection) -> None:
    """Answers pings for as long as there are any."""
    with contextlib.suppress(Lost, OSError):
        connection.message()


def network(binary: str) -> str:
    """A network that loses one packet in twenty and takes 20 ms, and is cut for three seconds in mid-stream, twice."""
    name, ours, theirs = "ringfeed-faults", "rf-faults0", "rf-faults1"
    run = lambda *command: subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: E731
    if os.geteuid() != 0:
        raise Skipped("namespaces need root")
    try:
        run("ip", "netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Skipped(f"no network namespace: {error}") from error
    inside = ["ip", "netns", "exec", name]
    try:
        try:
            run("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs, "netns", name)
            run("ip", "addr", "add", "10.213.77.1/24", "dev", ours)
            run("ip", "link", "set", ours, "up")
            run(*inside, "ip", "addr", "add", "10.213.77.2/24", "dev", theirs)
            run(*inside, "ip", "link", "set", theirs, "up")
            run(*inside, "ip", "link", "set", "lo", "up")
            for prefix, device in ([], ours), (inside, theirs):
                run(*prefix, "tc", "qdisc", "add", "dev", device, "root", "netem", "delay", "20ms", "5ms", "loss", "5%")
        except subprocess.CalledProcessError as error:
            raise Skipped(f"no bad network to be had: {error.stderr.strip()}") from error
        with Server(binary, prefix=inside, host="10.213.77.2") as server, audience(server) as parties:
            publisher, subscribers, over = parties
            for _ in range(2):
                time.sleep(3)
                run("tc", "qdisc", "change", "dev", ours, "root", "netem", "loss", "100%")
                time.sleep(3)
                run("tc", "qdisc", "change", "dev", ours, "root", "netem", "delay", "20ms", "5ms", "loss", "5%")
            time.sleep(3)
            finish(server, publisher, subscribers, over)
            return summary(publisher, subscribers, False)
    finally:
        run("ip", "netns", "del", name)


SCENARIOS = {scenario.__name__: scenario for scenario in (kill, memory, descriptors, disk, clock, network)}


def build() -> str:
    subprocess.run(["cargo", "build", "--release", "--bin", "ringfeed"], cwd=ROOT, check=True)
    return str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "ringfeed")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", help="the server; built if it is left out")
    parser.add_argument("names", nargs="*", choices=[[], *SCENARIOS], metavar="NAME", help=", ".join(SCENARIOS))
    arguments = parser.parse_args()
    binary = arguments.binary or build()
    failed = 0
    for name, scenario in SCENARIOS.items():
        if arguments.names and name not in arguments.names:
            continue
        try:
            outcome = scenario(binary)
        except Skipped as reason:
            outcome = f"skipped: {reason}"
        except AssertionError as broken:
            outcome = f"BROKEN: {broken}"
            failed += 1
        print(f"| {name} | {outcome} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
