"""A bad network between this host and a namespace: packets of the kernel's own TCP pass through this process, which
takes its time with them, loses some, and can be cut. Two devices of /dev/net/tun and nothing else, since not every
kernel has `netem`. Needs root.
"""

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time

NAMESPACE = "ringfeed-faults"
OURS, THEIRS = "10.213.77.1", "10.213.77.2"
DELAY_SECONDS, JITTER_SECONDS, LOSS = 0.020, 0.005, 0.05

# From linux/if_tun.h.
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000

# From linux/sched.h.
CLONE_NEWNET = 0x40000000

PACKET_BYTES_MAX = 65536


class Wire(threading.Thread):
    """Carries packets both ways from when it is made until it is closed. Each packet takes its own time, so that some
    pass others by."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.is_cut = self.is_closed = False
        self.carried = self.lost = 0
        # Packets in flight: arrival time, a number that orders those of the same time, destination, and bytes.
        self.under_way: list[tuple[float, int, int, bytes]] = []
        with contextlib.ExitStack() as cleanup:
            run("ip", "netns", "add", NAMESPACE)
            cleanup.callback(run, "ip", "netns", "del", NAMESPACE)
            devices = ("rf-faults0", OURS, THEIRS, []), ("rf-faults1", THEIRS, OURS, ["ip", "netns", "exec", NAMESPACE])
            ends = [open_device(*device) for device in devices]
            run(*devices[1][3], "ip", "link", "set", "lo", "up")
            self.other = dict(zip(ends, reversed(ends)))
            self.cleanup = cleanup.pop_all()
        self.chance = random.Random(1)
        self.start()

    def run(self) -> None:
        while not self.is_closed:
            next_arrival = self.under_way[0][0] if self.under_way else time.monotonic() + 0.1
            ready, _, _ = select.select(self.other, [], [], max(0, next_arrival - time.monotonic()))
            for end in ready:
                self.take(end)
            while self.under_way and self.under_way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(self.under_way)
                os.write(end, packet)

    def take(self, end: int) -> None:
        packet = os.read(end, PACKET_BYTES_MAX)
        if self.is_cut or self.chance.random() < LOSS:
            self.lost += 1
            return
        self.carried += 1
        arrival = time.monotonic() + self.chance.uniform(DELAY_SECONDS - JITTER_SECONDS, DELAY_SECONDS + JITTER_SECONDS)
        heapq.heappush(self.under_way, (arrival, self.carried, self.other[end], packet))

    @contextlib.contextmanager
    def cut(self):
        """Nothing gets through meanwhile."""
        self.is_cut = True
        try:
            yield
        finally:
            self.is_cut = False

    def close(self) -> None:
        self.is_closed = True
        self.join()
        for end in self.other:
            os.close(end)
        self.cleanup.close()


def enter_namespace() -> None:
    """From now on the sockets of the calling thread are made at the other end of the wire."""
    library = ctypes.CDLL(None, use_errno=True)
    with open(f"/var/run/netns/{NAMESPACE}") as namespace:
        if library.setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def open_device(name: str, address: str, peer: str, prefix: list[str]) -> int:
    """A device whose packets this process reads and writes; it lies where `prefix` runs commands."""
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    if prefix:
        run("ip", "link", "set", name, "netns", NAMESPACE)
    run(*prefix, "ip", "addr", "add", address, "peer", peer, "dev", name)
    run(*prefix, "ip", "link", "set", name, "up")
    return end


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
