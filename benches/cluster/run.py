#!/usr/bin/env python3
"""What a cluster costs: a node of a cluster against a single server, in alternation, and publishing through NATS.

    benches/cluster/run.py [--rounds N] [--duration 3s] [--nats PROGRAM] [--ringfeed PROGRAM] [--loadgen PROGRAM]

Prints a page for benches/results. Needs two CPUs, nats-server, and the binaries of
`cargo build --release -p ringfeed -p loadgen`. The measured server runs on CPU 0; loadgen, the other nodes and the NATS
servers share CPU 1, so that rates are those of this machine, and CPU time per delivery is the figure to compare.
"""

import argparse
import atexit
import datetime
import json
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RELEASE = os.path.join(ROOT, os.environ.get("CARGO_TARGET_DIR", "target"), "release")
TICK = os.sysconf("SC_CLK_TCK")
STARTED = []


def start(command, cpu, **options):
    process = subprocess.Popen(["taskset", "-c", str(cpu), *command], **options)
    STARTED.append(process)
    return process


def end(processes):
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


@atexit.register
def end_all():
    for process in STARTED:
        if process.poll() is None:
            process.kill()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Nats:
    """NATS servers with JetStream, as many as copies of a log."""

    def __init__(self, program, replicas, storage):
        self.directory = tempfile.mkdtemp(prefix="ringfeed-nats-")
        self.replicas, self.storage = replicas, storage
        self.ports = [free_port() for _ in range(replicas)]
        routes = [free_port() for _ in range(replicas)]
        self.processes = []
        for index, (port, route) in enumerate(zip(self.ports, routes)):
            command = [program, "-js", "-a", "127.0.0.1", "-p", str(port), "-n", f"n{index}"]
            command += ["-sd", os.path.join(self.directory, str(index)), "-l", os.path.join(self.directory, "log")]
            if replicas > 1:
                command += ["--cluster_name", "bench", "--cluster", f"nats://127.0.0.1:{route}"]
                command += ["--routes", ",".join(f"nats://127.0.0.1:{other}" for other in routes)]
            self.processes.append(start(command, 1))

    def end(self):
        end(self.processes)
        shutil.rmtree(self.directory, ignore_errors=True)


class Server:
    """A single server, or a node of a cluster. It has one shard, and is ready."""

    def __init__(self, program, cpu, nats=None, node="one"):
        lines = ["[[listener]]", 'address = "127.0.0.1:0"', "[server]", 'control = "127.0.0.1:0"', "shards = 1"]
        if nats:
            servers = ", ".join(f'"nats://127.0.0.1:{port}"' for port in nats.ports)
            lines += ["[cluster]", "enabled = true", f'node = "{node}"', f"servers = [{servers}]"]
            lines += ["start_wait_ms = 1500", f"replicas = {nats.replicas}", f'storage = "{nats.storage}"']
            lines += ["log_max_bytes = 33554432"]
        handle, self.config = tempfile.mkstemp(suffix=".toml")
        os.write(handle, "\n".join(lines).encode())
        os.close(handle)
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = start([program, "serve", "--config", self.config], cpu, **quiet)
        self.data = self.control = None
        for line in self.process.stdout:
            address = re.search(r"(127\.0\.0\.1:\d+)", line)
            if "control" in line and address:
                self.control = address[1]
            elif address and not self.data:
                self.data = address[1]
            if "ready" in line:
                break
        while self.get("/readyz") is None:
            time.sleep(0.05)

    def get(self, path):
        try:
            return urllib.request.urlopen(f"http://{self.control}{path}", timeout=5).read().decode()
        except OSError:
            return None

    def cpu_s(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def counter(self, name):
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.get("/metrics"), re.M))

    def end(self):
        end([self.process])
        os.remove(self.config)


def load(arguments, server, subscribers, flags):
    """A run of loadgen; its report."""
    command = [arguments.loadgen, "fanout", "--cpu", "1", "--url", f"ws://{server.data}/feed/load"]
    command += ["--publish", f"http://{server.control}/publish/load", "-c", str(subscribers)]
    command += ["--duration", arguments.duration, "--late", "30s", "--patience", "30s", "--json", "-", *flags]
    command += ["--server-pid", str(server.process.pid)]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode not in (0, 3):
        raise SystemExit(f"{' '.join(command)}: {ran.stderr[-2000:]}")
    return json.loads(ran.stdout)


def median(values):
    return statistics.median(values)


def spread(values, digits=2):
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def deliveries(arguments):
    """CPU microseconds per delivery at 1,000 subscribers: single servers and nodes of a cluster in alternation."""
    single, node = [], []
    for round_ in range(arguments.rounds):
        cases = [(single, False), (node, True)]
        for costs, is_node in cases if round_ % 2 == 0 else reversed(cases):
            nats = Nats(arguments.nats, 1, "memory") if is_node else None
            servers = [Server(arguments.ringfeed, 0, nats)]
            if is_node:
                servers.append(Server(arguments.ringfeed, 1, nats, "two"))
            before = servers[0].cpu_s(), servers[0].counter("ringfeed_deliveries_total")
            load(arguments, servers[0], 1000, ["--rate", "100"])
            after = servers[0].cpu_s(), servers[0].counter("ringfeed_deliveries_total")
            costs.append((after[0] - before[0]) / (after[1] - before[1]) * 1e6)
            for server in servers:
                server.end()
            if nats:
                nats.end()
    ratios = [of_node / of_single for of_single, of_node in zip(single, node)]
    return single, node, ratios


def unheard(arguments, flags):
    """CPU microseconds of a node per publication that has no subscribers there, beside what it uses when idle."""
    costs, rates, groups = [], [], []
    nats = Nats(arguments.nats, 1, "memory")
    quiet, busy = Server(arguments.ringfeed, 0, nats), Server(arguments.ringfeed, 1, nats, "two")
    for _ in range(arguments.rounds):
        start_s, idle = time.monotonic(), quiet.cpu_s()
        time.sleep(2)
        idle_rate = (quiet.cpu_s() - idle) / (time.monotonic() - start_s)
        names = ("ringfeed_cluster_applied_entries_total", "ringfeed_cluster_appended_records_total")
        entries, records = quiet.counter(names[0]), busy.counter(names[1])
        start_s, before = time.monotonic(), quiet.cpu_s()
        load(arguments, busy, 1, flags)
        took_s = time.monotonic() - start_s
        cpu_s = quiet.cpu_s() - before - idle_rate * took_s
        entries, records = quiet.counter(names[0]) - entries, busy.counter(names[1]) - records
        costs.append(cpu_s / entries * 1e6)
        rates.append(entries / took_s)
        groups.append(entries / max(records, 1))
    for server in (quiet, busy):
        server.end()
    nats.end()
    return costs, rates, groups


def publishing(arguments, replicas, storage):
    """Latency of one publication at a time, and rate with many, through a node on CPU 0."""
    nats = Nats(arguments.nats, replicas, storage)
    server = Server(arguments.ringfeed, 0, nats)
    alone, many = [], []
    for _ in range(arguments.rounds):
        alone.append(load(arguments, server, 1, ["--in-flight", "1"]))
        many.append(load(arguments, server, 1, ["--in-flight", "256", "--publishers", "16"]))
    server.end()
    nats.end()
    return alone, many


def processor():
    with open("/proc/cpuinfo") as file:
        return re.search(r"^model name\s*: (.*)$", file.read(), re.M)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration", default="3s")
    parser.add_argument("--nats", default=shutil.which("nats-server") or "nats-server")
    parser.add_argument("--ringfeed", default=os.path.join(RELEASE, "ringfeed"))
    parser.add_argument("--loadgen", default=os.path.join(RELEASE, "loadgen"))
    parser.add_argument("--commit", help="that of the binaries; default: of the repository")
    arguments = parser.parse_args()
    version = subprocess.run([arguments.nats, "--version"], capture_output=True, text=True).stdout.split()[-1]
    git = ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]
    commit = arguments.commit or subprocess.run(git, capture_output=True, text=True).stdout.strip()
    print("# Cluster\n")
    print(f"{datetime.date.today()}, {processor()}, Linux {platform.release()}, commit {commit},")
    print(f"nats-server {version}.")
    print(f"{arguments.rounds} rounds of {arguments.duration}; median (smallest–largest).")
    print("Made by benches/cluster/run.py.\n")

    single, node, ratios = deliveries(arguments)
    print("## CPU per delivery, 1,000 subscribers, 100 publications a second\n")
    print("| | CPU time of the server per delivery, µs |\n|---|---|")
    print(f"| a single server | {spread(single)} |")
    print(f"| a node of two, with a log in memory | {spread(node)} |")
    print(f"| ratio of runs in the same round | {spread(ratios)} |\n")

    print("## A publication that nobody on the node listens to\n")
    print("| | CPU time of the node per publication, µs | publications a second | in a record |\n|---|---|---|---|")
    cases = [
        ("one at a time", ["--in-flight", "1"]),
        ("256 at a time", ["--in-flight", "256", "--publishers", "16"]),
    ]
    for name, flags in cases:
        costs, rates, groups = unheard(arguments, flags)
        print(f"| {name} | {spread(costs)} | {median(rates):,.0f} | {median(groups):.1f} |")

    print("\n## Publishing over HTTP, one topic, one subscriber\n")
    print("| log | one at a time, p50 | p99 | 256 at a time, publications a second | p50 | p99 |")
    print("|---|---|---|---|---|---|")
    for replicas, storage in [(1, "memory"), (3, "file")]:
        alone, many = publishing(arguments, replicas, storage)
        rate = f"{median([per_second(report) for report in many]):,.0f}"
        cells = [quantile(alone, "p50"), quantile(alone, "p99"), rate, quantile(many, "p50"), quantile(many, "p99")]
        print(f"| {replicas} in {storage} | " + " | ".join(cells) + " |")


def per_second(report):
    return report["per_second"]


def quantile(reports, name):
    return f"{median([report['latency']['uncorrected'][name + '_us'] for report in reports]) / 1000:.2f} ms"


if __name__ == "__main__":
    main()
