#!/usr/bin/env python3
"""Real faults under load: the real server is killed, starved, stopped and cut off while a publisher publishes and
subscribers listen. Nothing may be lost, repeated or reordered without the subscriber being told.

    tests/faults/run.py [--binary PATH] [NAME …]

Builds the release binary unless one is named. Needs root for the three of memory (control groups), `disk` (a small file
system), `network` and `outage` (namespaces), and a C compiler for `wall_clock`; what can't be had is skipped, and said
so. Ends with an error if a promise was broken. Only the standard library.
"""

import argparse
import contextlib
import http.client
import itertools
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from parties import PATIENCE_SECONDS, Connection, Lost, Server, audience, await_that, finish
from wire import OURS, Wire, enter_namespace

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """
[namespaces.default]
history_size = 10_000
history_ttl_ms = 600_000

[namespaces.ballast]
"""


class Skipped(Exception):
    """The host does not allow this fault."""


def kill(start: "Start") -> str:
    """Killed with SIGKILL and started again, three times: a new epoch each time, which everybody is told."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(start())
        publisher, subscribers, over = stack.enter_context(audience(server))
        for round in range(3):
            time.sleep(1)
            server.process.kill()
            server.process.wait()
            server = stack.enter_context(start(like=server))
            await_that("all were told", lambda: all(each.losses_told > round for each in subscribers))
        time.sleep(1)
        return finish(server, publisher, subscribers, over)


class LittleMemory:
    """A control group with little memory, which a server enters when it starts."""

    def __init__(self) -> None:
        self.group = Path("/sys/fs/cgroup/memory/ringfeed-faults")
        self.bound = 96 << 20

    def __enter__(self) -> "LittleMemory":
        try:
            self.group.mkdir(exist_ok=True)
            self.limit(self.bound)
        except OSError as error:
            raise Skipped(f"no control group for memory: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        await_that("the group is empty", lambda: not (self.group / "cgroup.procs").read_text())
        self.group.rmdir()

    def limit(self, count: int) -> None:
        (self.group / "memory.limit_in_bytes").write_text(str(count))

    def enter(self) -> None:
        (self.group / "cgroup.procs").write_text(str(os.getpid()))

    def used(self) -> int:
        return int((self.group / "memory.usage_in_bytes").read_text())

    def stall_when_full(self) -> None:
        """Who wants more than there is waits, where it would be killed otherwise."""
        (self.group / "memory.oom_control").write_text("1")

    def is_stalled(self) -> bool:
        return "under_oom 1" in (self.group / "memory.oom_control").read_text()


class Ballast:
    """Subscribers that never read, each of a topic of its own, so that all that waits for them is memory."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.dead = [Connection(server.data, f"/feed/ballast:{number}") for number in range(150)]

    def grow(self, until: Callable[[], bool]) -> None:
        """By a publication to one after the other."""
        for number in itertools.cycle(range(len(self.dead))):
            if until():
                return
            self.server.request("POST", f"/publish/ballast:{number}", b"x" * 50_000)

    def close(self) -> None:
        for each in self.dead:
            each.socket.close()


def memory(start: "Start") -> str:
    """Little memory, of which subscribers that never read take nine tenths, until the server ends them."""
    with LittleMemory() as group, start(prepare=group.enter) as server, audience(server) as parties:
        ballast = Ballast(server)
        ballast.grow(lambda: group.used() > group.bound * 9 // 10)
        full = group.used()
        time.sleep(3)
        for number in range(len(ballast.dead)):
            while server.closed("slow_consumer") <= number:
                server.request("POST", f"/publish/ballast:{number}", b"x" * 50_000)
        seen = finish(server, *parties)
        server.expect_running()
        return f"{seen}; {full >> 20} of {group.bound >> 20} MB were used, {len(ballast.dead)} ended as slow"


def no_memory(start: "Start") -> str:
    """All memory is used up, so that the server stands still, until there is more."""
    with LittleMemory() as group, start(prepare=group.enter) as server, audience(server) as parties:
        group.stall_when_full()
        ballast = Ballast(server)
        is_enough = threading.Event()
        growing = threading.Thread(target=ballast.grow, args=(is_enough.is_set,), daemon=True)
        growing.start()
        await_that("the memory is used up", group.is_stalled)
        time.sleep(3)
        assert group.is_stalled(), "it went on by itself"
        is_enough.set()
        group.limit(4 * group.bound)
        growing.join()
        seen = finish(server, *parties)
        server.expect_running()
        return f"{seen}; stood still with {group.bound >> 20} MB, went on with {4 * group.bound >> 20}"


def out_of_memory(start: "Start") -> str:
    """All memory is used up, and the kernel kills the server: its next life tells everybody."""
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(LittleMemory())
        server = stack.enter_context(start(prepare=group.enter))
        publisher, subscribers, over = stack.enter_context(audience(server))
        ballast = Ballast(server)
        with contextlib.suppress(OSError, http.client.HTTPException):
            ballast.grow(lambda: False)
        assert server.process.wait(PATIENCE_SECONDS) == -signal.SIGKILL, "it ended, but nobody killed it"
        ballast.close()
        server = stack.enter_context(start(like=server, prepare=group.enter))
        await_that("all were told", lambda: all(each.losses_told for each in subscribers))
        time.sleep(1)
        return finish(server, publisher, subscribers, over)


@contextlib.contextmanager
def few_descriptors(start: "Start", **how: object) -> Iterator[tuple]:
    """A server that may have 200 descriptors and has its subscribers, and more connections than that to both ports."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

    with start(prepare=limit, **how) as server, audience(server) as parties:
        crowd = [socket.create_connection(server.data, timeout=PATIENCE_SECONDS) for _ in range(600)]
        crowd += [socket.create_connection(server.control, timeout=PATIENCE_SECONDS) for _ in range(250)]
        yield server, parties, crowd


def descriptors(start: "Start") -> str:
    """No more descriptors than 200, and 850 connections: the others wait or are told so, and nobody inside notices."""
    with few_descriptors(start) as (server, parties, crowd):
        time.sleep(3)
        server.expect_running()
        leave(crowd)
        accepted = server.metric("ringfeed_connections_accepted_total{")
        stalls = server.metric("ringfeed_accept_stalls_total{")
        await_that("the crowd has gone", lambda: server.metric("ringfeed_connections{") <= 10)
        return f"{finish(server, *parties)}; {accepted} accepted, {stalls} times without room"


def disk(start: "Start") -> str:
    """The log is on a disk that is full, and each failure to accept wants a line in it: the server goes on without."""
    with tempfile.TemporaryDirectory() as directory:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", directory], capture_output=True)
        if mounted.returncode:
            raise Skipped(f"no small file system: {mounted.stderr.decode().strip()}")
        try:
            log = f"{directory}/log"
            with few_descriptors(start, stderr=log) as (server, parties, crowd):
                await_that("the disk is full", lambda: os.statvfs(directory).f_bfree == 0)
                await_that("its last block is full", lambda: os.stat(log).st_size % 4096 == 0)
                time.sleep(3)
                server.expect_running()
                leave(crowd)
                return f"{finish(server, *parties)}; {os.stat(log).st_size} bytes of the log found room"
        finally:
            subprocess.run(["umount", directory], check=True)


def leave(crowd: list[socket.socket]) -> None:
    for each in crowd:
        each.close()


def stopped(start: "Start") -> str:
    """Stopped for longer than pings may go unanswered, so that all clocks have jumped when it goes on: whoever answered
    is not given up for it."""
    with (
        start("--ping-interval-ms", "500", "--pong-timeout-ms", "1000") as server,
        audience(server) as (publisher, subscribers, over),
    ):
        for _ in range(5):
            idle = Connection(server.data, "/feed/quiet")
            threading.Thread(target=answer_pings, args=(idle,), daemon=True).start()
        for _ in range(3):
            time.sleep(1)
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(4)
            server.process.send_signal(signal.SIGCONT)
        time.sleep(2)
        given_up = server.closed("ping_timeout")
        assert given_up == 0, f"{given_up} were given up while the server slept"
        return finish(server, publisher, subscribers, over)


def answer_pings(connection: Connection) -> None:
    """For as long as there are any."""
    with contextlib.suppress(Lost, OSError):
        connection.message()


def wall_clock(start: "Start") -> str:
    """The wall clock is set an hour ahead, a day back, and ten years ahead."""
    with tempfile.TemporaryDirectory() as directory:
        library, offset = f"{directory}/clock.so", Path(directory) / "offset"
        source = str(Path(__file__).with_name("clock.c"))
        try:
            subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Skipped(f"no C compiler: {error}") from error
        offset.write_bytes(struct.pack("=q", 0))
        environment = {"LD_PRELOAD": library, "RF_CLOCK_FILE": str(offset)}
        with start(environment=environment) as server, audience(server) as parties:
            for seconds in (3600, -86_400, 10 * 365 * 86_400):
                time.sleep(2)
                with offset.open("r+b") as file:
                    file.write(struct.pack("=q", seconds))
            time.sleep(2)
            return finish(server, *parties)


@contextlib.contextmanager
def bad_network() -> Iterator[Wire]:
    if os.geteuid() != 0:
        raise Skipped("namespaces need root")
    try:
        wire = Wire()
    except (OSError, subprocess.CalledProcessError) as error:
        raise Skipped(f"no bad network to be had: {error}") from error
    with contextlib.closing(wire):
        yield wire


def network(start: "Start") -> str:
    """A network that takes 20 ms, loses one packet in twenty, and is cut in mid-stream for three seconds, three times:
    some wait and get everything, some give up and recover."""
    with (
        bad_network() as wire,
        start(host=OURS) as server,
        audience(server, enter=enter_namespace, pause_seconds=0.02) as (publisher, subscribers, over),
    ):
        for subscriber in subscribers[::2]:
            subscriber.silence_seconds = 1
        for _ in range(3):
            time.sleep(3)
            with wire.cut():
                time.sleep(3)
        time.sleep(3)
        seen = finish(server, publisher, subscribers, over)
        return f"{seen}; {wire.carried} packets carried, {wire.lost} lost"


def outage(start: "Start") -> str:
    """The same network is cut for longer than the server waits for anybody: it gives them up, and they recover."""
    with (
        bad_network() as wire,
        start(host=OURS) as server,
        audience(server, enter=enter_namespace, pause_seconds=0.2) as (publisher, subscribers, over),
    ):
        for subscriber in subscribers:
            subscriber.silence_seconds = 5
        time.sleep(2)
        with wire.cut():
            await_that("the server has given all up", lambda: server.metric("ringfeed_connections{") == 0)
        seen = finish(server, publisher, subscribers, over)
        return f"{seen}; {server.closed('peer_lost')} given up"


SCENARIOS = [kill, memory, no_memory, out_of_memory, descriptors, disk, stopped, wall_clock, network, outage]


class Start:
    """Starts the server, each time in the same way but for what is said."""

    def __init__(self, binary: str, config: str) -> None:
        self.binary, self.config = binary, config

    def __call__(self, *flags: str, **how: object) -> Server:
        return Server(self.binary, ["--config", self.config, *flags], **how)


def build() -> str:
    subprocess.run(["cargo", "build", "--release", "--bin", "ringfeed"], cwd=ROOT, check=True)
    return str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "ringfeed")


def main() -> int:
    names = [scenario.__name__ for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", help="the server; built if it is left out")
    parser.add_argument("names", nargs="*", choices=[[], *names], metavar="NAME", help=", ".join(names))
    arguments = parser.parse_args()
    binary = arguments.binary or build()
    failed = 0
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        config.write(CONFIG)
        config.flush()
        for scenario in SCENARIOS:
            if arguments.names and scenario.__name__ not in arguments.names:
                continue
            try:
                outcome = scenario(Start(binary, config.name))
            except Skipped as reason:
                outcome = f"skipped: {reason}"
            except (AssertionError, OSError, http.client.HTTPException) as broken:
                outcome = f"BROKEN: {broken!r}"
                failed += 1
            print(f"| {scenario.__name__} | {outcome} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
