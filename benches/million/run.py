#!/usr/bin/env python3
"""Proofs with a million and more connections on one machine: `ringfeed serve` on CPU 0, `loadgen` on CPU 1.

    benches/million/run.py PROOF [--connections N] [--keep]      see benches/README.md for the proofs
    benches/million/run.py report                                prints the kept figures as a page of benches/results

Needs root, and the binaries of `cargo build --release -p ringfeed -p loadgen -p floor`. Each run has a network
namespace of its own, with a TCP table that is large enough; it restores the host's settings when it ends.
"""

import argparse
import atexit
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = os.path.join(ROOT, os.environ.get("CARGO_TARGET_DIR", "target"))
KEPT = os.path.join(TARGET, "million")

# Host settings during a proof, as in tuning/ for this many connections; the namespace inherits the first.
HOST_SETTINGS = {
    "net/ipv4/tcp_child_ehash_entries": "4194304",
    "net/ipv4/tcp_mem": "1500000 2250000 3000000",
}
NAMESPACE_SETTINGS = {"net/core/somaxconn": "4096", "net/ipv4/tcp_max_syn_backlog": "8192"}

# Longer than any latency here: messages are checked, but not for lateness.
PATIENT = ["--late", "60s", "--patience", "60s"]


def setting(name, value=None):
    path = f"/proc/sys/{name}"
    if value is None:
        with open(path) as file:
            return file.read().strip()
    with open(path, "w") as file:
        file.write(value)


def slab_bytes():
    with open("/proc/meminfo") as file:
        return int(re.search(r"^Slab:\s+(\d+) kB", file.read(), re.M)[1]) * 1024


class Server:
    """A server under test: started on its CPU, reached at the addresses that it prints."""

    def __init__(self, program, flags, cpus="0"):
        self.command = [os.path.join(TARGET, "release", program), *flags]
        self.process = subprocess.Popen(["taskset", "-c", cpus, *self.command], stdout=subprocess.PIPE, text=True)
        atexit.register(self.end)
        self.data = self.control = None
        for line in self.process.stdout:
            what, _, address = line.strip().partition(" on ")
            if what == "listening":
                self.data = address
            elif what == "control":
                self.control = address
            elif what == "ready":
                return
        raise SystemExit(f"{program} ended before it was ready")

    @property
    def pid(self):
        return self.process.pid

    def metric(self, name, label=""):
        """The sum over all shards; None once the server has ended."""
        try:
            with urllib.request.urlopen(f"{self.control}/metrics", timeout=30) as answer:
                rows = answer.read().decode().splitlines()
        except OSError:
            return None
        return sum(int(float(row.rsplit(" ", 1)[1])) for row in rows if row.startswith(name + "{") and label in row)

    def resident_bytes(self):
        with open(f"/proc/{self.pid}/status") as file:
            return int(re.search(r"^VmRSS:\s+(\d+) kB", file.read(), re.M)[1]) * 1024

    def cpu_seconds(self):
        threads = os.listdir(f"/proc/{self.pid}/task")
        times = [open(f"/proc/{self.pid}/task/{thread}/schedstat").read().split()[0] for thread in threads]
        return sum(map(int, times)) / 1e9

    def end(self):
        """Kills the server. Returns its exit code, also if it has ended already."""
        self.process.kill()
        return self.process.wait()


class Watch(threading.Thread):
    """Samples a server: seconds since the start, connections, resident bytes, slab, CPU seconds."""

    def __init__(self, server, pause):
        super().__init__(daemon=True)
        self.server, self.pause, self.rows, self.is_over = server, pause, [], threading.Event()
        self.start_time = time.monotonic()

    def run(self):
        while not self.is_over.wait(self.pause):
            try:
                connections = self.server.metric("ringfeed_connections")
                if connections is None:
                    return
                elapsed = time.monotonic() - self.start_time
                memory = self.server.resident_bytes(), slab_bytes()
                self.rows.append((elapsed, connections, *memory, self.server.cpu_seconds()))
            except (OSError, TypeError):
                return

    def end(self):
        self.is_over.set()
        self.join()
        return self.rows


def loadgen(scenario, server, *flags):
    """The report of a run, with its command."""
    path = os.path.join(KEPT, f"loadgen-{os.getpid()}.json")
    words = [scenario, "--url", f"{server.data}/feed/{{topic}}", *flags, "--json", path]
    if scenario not in ("idle", "connect"):
        words += ["--publish", f"{server.control}/publish/{{topic}}"]
    command = [os.path.join(TARGET, "release", "loadgen"), *words, "--server-pid", str(server.pid), "--cpu", "1"]
    code = subprocess.run(command, stdout=sys.stderr).returncode
    if code not in (0, 1, 3):
        raise SystemExit(f"loadgen {scenario} could not measure: {code}")
    with open(path) as file:
        report = json.load(file)
    os.remove(path)
    report["command"] = "loadgen " + " ".join(words[:-2] if "--publish" not in words else words).replace(path, "FILE")
    report["exit"] = code
    report["figure"] = {figure["name"]: figure["value"] for figure in report["figures"]}
    return report


def serve(*flags, cpus="0"):
    return Server("ringfeed", ["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", *flags], cpus)


def command_of(server):
    return " ".join([os.path.basename(server.command[0]), *server.command[1:]])


def faults_of(report):
    return ", ".join(f"{report['faults'][name]} {name}" for name in FAULTS if report["faults"][name]) or "none"


FAULTS = ("missing", "duplicate", "reordered", "corrupt", "late", "stalled", "closed", "refused")


def broadcast(report):
    """The cost of one publication to all subscribers."""
    publications = report["figure"]["publications"]
    return {
        "publications": publications,
        "deliveries": report["count"],
        "faults": faults_of(report),
        "wall time of one publication, s": report["seconds"] / max(publications, 1),
        "CPU us of the server for each delivery": report["server"]["cpu_ns_each"] / 1e3,
        "client-bound": report["self_check"]["client_bound"],
    }


def hold(connections, flags=()):
    """Connects all subscribers to one topic, then publishes to all of them."""
    slab_before = slab_bytes()
    server = serve("--shards", "1", "--max-connections", str(connections), "--ping-interval-ms", "0", *flags)
    start = (server.resident_bytes(), server.cpu_seconds())
    watch = Watch(server, 0.2)
    watch.start()
    load = ["-c", str(connections), "--in-flight", "1", "--warmup", "1s", "--duration", "10s", *PATIENT]
    report = loadgen("fanout", server, *load)
    rows = watch.end()
    # The last sample before all were connected: then publications begin, and at the end all disconnect.
    full = next((index for index, row in enumerate(rows) if row[1] >= connections), None)
    if not full:
        raise SystemExit("never saw all of them connected, or not before they were: more connections are needed")
    _, connected, resident, slab, cpu = rows[full - 1]
    figures = {
        "connected": max(row[1] for row in rows),
        "seconds to connect": rows[full][0],
        "looked at with": connected,
        "CPU us of the server for each handshake": (cpu - start[1]) / connected * 1e6,
        "RSS of the server for each, B": (resident - start[0]) / connected,
        "slab for each socket, B": (slab - slab_before) / connected / 2,
        **broadcast(report),
        "exit code of loadgen": report["exit"],
    }
    command = command_of(server)
    server.end()
    return {"figures": figures, "commands": [command, report["command"]]}


def spread(connections, topics, *skew):
    """Connects each subscriber to one of many topics, then publishes to the topics in turn."""
    server = serve("--shards", "1", "--max-connections", str(connections), "--ping-interval-ms", "0")
    start = server.resident_bytes()
    watch = Watch(server, 0.2)
    watch.start()
    load = ["-c", str(connections), "--topics", str(topics), *skew, "--in-flight", "16", "--publishers", "16"]
    report = loadgen("fanout", server, *load, "--warmup", "1s", "--duration", "10s", *PATIENT)
    full = [row for row in watch.end() if row[1] >= connections]
    found = broadcast(report)
    del found["wall time of one publication, s"]
    figures = {
        "topics": topics,
        "RSS of the server for each connection with its share of the topics, B": (full[0][2] - start) / connections,
        **found,
        "publications a second": report["figure"]["publications"] / report["seconds"],
    }
    command = command_of(server)
    server.end()
    return {"figures": figures, "commands": [command, report["command"]]}


def each(connections):
    """As many topics as subscribers, with one subscriber each."""
    return spread(connections, connections)


def zipf(connections):
    """One topic per ten subscribers, the k-th with an audience proportional to 1 / k: a few large, most small."""
    return spread(connections, connections // 10, "--skew", "1")


def floor(connections):
    """The floor at the same scale."""
    server = Server("floor", ["--ring", str(connections + 64)])
    load = ["-c", str(connections), "--in-flight", "1", "--warmup", "1s", "--duration", "10s", *PATIENT]
    report = loadgen("fanout", server, *load)
    command = command_of(server)
    server.end()
    return {"figures": broadcast(report), "commands": [command, report["command"]]}


def idle(connections):
    """Idle connections that answer pings."""
    server = serve("--shards", "1", "--max-connections", str(connections))
    watch = Watch(server, 5)
    watch.start()
    report = loadgen("idle", server, "-c", str(connections), "--warmup", "30s", "--duration", "5m", *PATIENT)
    held = [row for row in watch.end() if row[1] >= connections]
    first, last = held[0], held[-1]
    figures = {
        "connections": report["connections"],
        "disconnects": report["faults"]["closed"],
        "faults": faults_of(report),
        "pings answered": report["figure"]["pings answered"],
        "CPU share of the server": report["server"]["cpu_seconds"] / report["seconds"],
        "CPU share of the client": report["client_cpus"],
        "RSS when all were there, MB": first[2] / 1e6,
        "RSS at the end, MB": last[2] / 1e6,
        "slab when all were there, MB": first[3] / 1e6,
        "slab at the end, MB": last[3] / 1e6,
        "seconds between": last[0] - first[0],
    }
    command = command_of(server)
    server.end()
    return {"figures": figures, "commands": [command, report["command"]]}


def storm(connections):
    """Many clients are cut and reconnect at once, while others receive publications. Once per admission rate."""
    figures, commands = {}, []
    for rate in (10_000, 4_000):
        room = ["--max-connections", str(connections + 20_000)]
        server = serve("--shards", "1", *room, "--handshakes-per-second", str(rate))
        load = ["-c", str(connections), "--watchers", "10000", "--rate", "100", "--calm", "5s", "--duration", "30s"]
        report = loadgen("storm", server, *load, "--connect-rate", str(int(rate * 0.9)), *PATIENT)
        names = ["calm p50", "calm p99", "storm p50", "storm p99", "storm max", "back", "not back", "half back after"]
        names += ["all back after", "failed attempts"]
        in_ms = ("p", "max", "after")
        titles = [f"{name}, ms" if name.split()[-1].startswith(in_ms) else name for name in names]
        found = {title: report["figure"][name] for title, name in zip(titles, names)}
        found["deliveries"] = report["count"]
        found["faults"] = faults_of(report)
        found["client-bound"] = report["self_check"]["client_bound"]
        figures |= {f"{title}, {rate:,} handshakes a second": value for title, value in found.items()}
        commands += [command_of(server), report["command"]]
        server.end()
    return {"figures": figures, "commands": commands}


def drain(connections):
    """The server gets SIGTERM and closes all connections over 20 seconds."""
    server = serve("--shards", "1", "--max-connections", str(connections), "--drain-spread-ms", "20000")
    report = loadgen("drain", server, "-c", str(connections), "--spread", "20s", "--duration", "3s", *PATIENT)
    code = server.process.wait(timeout=60)
    figures = {**report["figure"], "deliveries": report["count"], "faults": faults_of(report), "exit code": code}
    return {"figures": figures, "commands": [command_of(server), report["command"]]}


def shards(connections):
    """The same subscribers on two shards and on a hundred."""
    figures, commands = {}, []
    for count in (2, 100) * 3:
        server = serve("--shards", str(count), "--max-connections", str(2 * connections), "--ping-interval-ms", "0")
        load = ["-c", str(connections), "--in-flight", "1", "--warmup", "2s", "--duration", "10s", *PATIENT]
        report = loadgen("fanout", server, *load)
        found = broadcast(report)
        cost, wall = found["CPU us of the server for each delivery"], found["wall time of one publication, s"]
        figures.setdefault(f"CPU us for each delivery, {count} shards", []).append(cost)
        figures.setdefault(f"wall time of one publication, {count} shards, s", []).append(wall)
        resident = report["server"]["resident_bytes"] / 1e6
        figures.setdefault(f"RSS, {count} shards, MB", []).append(resident)
        figures.setdefault(f"faults, {count} shards", []).append(found["faults"])
        commands += [command_of(server), report["command"]]
        server.end()
    few, many = (sorted(figures[f"CPU us for each delivery, {count} shards"]) for count in (2, 100))
    figures["CPU of a hundred shards to that of two, medians"] = many[1] / few[1]
    return {"figures": figures, "commands": commands[:4]}


# Each proof with its number of connections.
PROOFS = {
    "hold": (hold, 1_000_000),
    "floor": (floor, 1_000_000),
    "each": (each, 1_000_000),
    "zipf": (zipf, 1_000_000),
    "drain": (drain, 200_000),
    "storm": (storm, 200_000),
    "idle": (idle, 1_000_000),
    "shards": (shards, 100_000),
}


def outside(arguments):
    """Changes the host settings, runs the proof in a namespace, and restores the settings."""
    before = {name: setting(name) for name in HOST_SETTINGS}
    try:
        for name, value in HOST_SETTINGS.items():
            setting(name, value)
        command = ["unshare", "--net", sys.executable, os.path.abspath(__file__), *arguments, "--inside"]
        return subprocess.run(command).returncode
    finally:
        for name, value in before.items():
            setting(name, value)


def inside(proof, connections, keep):
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for name, value in NAMESPACE_SETTINGS.items():
        setting(name, value)
    run, usual = PROOFS[proof]
    connections = connections or usual
    started = time.time()
    result = run(connections)
    result |= {"proof": proof, "connections": connections, "date": time.strftime("%Y-%m-%d"), "commit": commit()}
    result["seconds"] = round(time.time() - started)
    print(page_of(result))
    if keep:
        with open(os.path.join(KEPT, f"{proof}-{connections}.json"), "w") as file:
            json.dump(result, file, indent=1)


def commit():
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def show(value):
    if isinstance(value, list):
        return ", ".join(map(show, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def page_of(result):
    proof = PROOFS[result["proof"]][0]
    rows = [f"| {name} | {show(value)} |" for name, value in result["figures"].items()]
    commands = [f"    {command}" for command in result["commands"]]
    head = f"## {result['proof']}, {result['connections']:,} connections"
    about = f"{proof.__doc__} Commit {result['commit']}, {result['date']}."
    return "\n".join([head, "", about, "", "| what | figure |", "| --- | --- |", *rows, "", *commands, ""])


def report():
    model = re.search(r"model name\s*: (.*)", open("/proc/cpuinfo").read())[1]
    kernel, today = os.uname().release, datetime.date.today()
    settings = ", ".join(f"`{name.replace('/', '.')} = {value}`" for name, value in HOST_SETTINGS.items())
    lines = [f"# Millions of connections: {today}", ""]
    lines += [f"- {model}, {os.cpu_count()} CPUs, {kernel}; server on CPU 0, `loadgen` on CPU 1"]
    lines += [f"- each run in a network namespace of its own; {settings}"]
    lines += ["- `benches/million/run.py PROOF --keep`", ""]
    order = list(PROOFS)
    names = [name for name in sorted(os.listdir(KEPT)) if not name.startswith("loadgen")]
    kept = [json.load(open(os.path.join(KEPT, name))) for name in names]
    kept.sort(key=lambda result: (order.index(result["proof"]), result["connections"]))
    print("\n".join(lines + [page_of(result) for result in kept]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("proof", choices=[*PROOFS, "report"])
    parser.add_argument("--connections", type=int)
    parser.add_argument("--keep", action="store_true", help="keep the figures for the report")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.makedirs(KEPT, exist_ok=True)
    if arguments.proof == "report":
        return report()
    if arguments.inside:
        return inside(arguments.proof, arguments.connections, arguments.keep)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return outside(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
