#!/usr/bin/env python3
"""Checks that the simulator finds bugs: plants one after the other and counts the seeds until it fails.

    tests/sim/bugs.py [NAME …]
    tests/sim/bugs.py --check       only checks that each bug can be planted

Each bug replaces a text that occurs exactly once in a source file, in a copy of the checkout. Exits with 1 if a bug
can't be planted, or if the simulator does not find it within its seeds.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 5000
SECONDS_MAX = 900
# Optimised for many seeds, except what each bug compiles anew.
SIM = ["cargo", "sim", "--profile", "sim", "--config", "profile.sim.package.ringfeed.opt-level=1"]
SIM += ["--config", "profile.sim.incremental=true"]


class Bug(NamedTuple):
    name: str
    file: str
    before: str
    after: str


BUGS = [
    Bug(
        "generation-not-advanced",
        "src/server/slots.rs",
        "= id.next().generation;",
        "= id.generation;",
    ),
    Bug(
        "no-rearm-after-enobufs",
        "src/server/receive.rs",
        "(false, true, _) => self.await_buffers(slot),",
        "(false, true, _) => {}",
    ),
    Bug(
        "no-resume-after-pause",
        "src/server/resume.rs",
        "(false, RecvMode::None) => self.arm_recv(slot),",
        "(false, RecvMode::None) => {}",
    ),
    Bug(
        "cut-send-begins-anew",
        "src/server/fan_out.rs",
        "self.put_back(slot, part.frame.clone(), skip);",
        "self.put_back(slot, part.frame.clone(), 0 * skip);",
    ),
    Bug(
        "refused-reply-dropped",
        "src/server/send.rs",
        "let sent = result.unwrap_or(0) as usize;\n                let sent = records",
        "let sent = result.unwrap_or(reply.len() as u32) as usize;\n                let sent = records",
    ),
    Bug(
        "skip-kept-after-send",
        "src/conn/outbox.rs",
        "let skip = begun.as_ref().map_or(0, |(_, skip)| *skip);",
        "let skip = begun.as_ref().map_or(0, |(_, skip)| *skip / 2);",
    ),
    Bug(
        "short-send-taken-for-whole",
        "src/server/send.rs",
        "if completion.result != Ok(entry.sending_bytes) {",
        "if completion.result.is_err() {",
    ),
    Bug(
        "fan-out-overtakes-outbox",
        "src/server/fan_out.rs",
        "if is_own || entry.is_behind() {",
        "if is_own {",
    ),
    Bug(
        "two-runs-in-one-fan-out",
        "src/topics/batch.rs",
        "let slot = SlotId(self.first + offset as u32);\n"
        "            self.visits.push(Visit { slot, start, end: self.lists.len() as u32 });",
        "(start..self.lists.len() as u32).for_each(|at| {\n                "
        "self.visits.push(Visit { slot: SlotId(self.first + offset as u32), start: at, end: at + 1 })\n            });",
    ),
    Bug(
        "reply-overtakes-outbox",
        "src/server/send.rs",
        "if entry.is_behind() {\n            let frame =",
        "if false {\n            let frame =",
    ),
    Bug(
        "closed-under-a-receive",
        "src/server/slot.rs",
        "self.recv_mode.op().is_some() || self.is_sending ||",
        "self.is_sending ||",
    ),
    Bug(
        "closed-under-a-send",
        "src/server/slot.rs",
        "self.recv_mode.op().is_some() || self.is_sending || self.is_shutting",
        "self.recv_mode.op().is_some() || self.is_shutting",
    ),
    Bug(
        "operations-not-cancelled",
        "src/server/close.rs",
        "        if entry.is_sending {\n            self.ring.submit_cancel(",
        "        if false && entry.is_sending {\n            self.ring.submit_cancel(",
    ),
    Bug(
        "subscribed-after-the-end",
        "src/server/subscribe.rs",
        "        if self.slots[slot].cause.is_some() {\n            return;\n        }\n",
        "",
    ),
    Bug(
        "reply-after-close",
        "src/server/close.rs",
        "if self.slots[slot].has_reply {",
        "if false {",
    ),
    Bug(
        "subscriptions-outlive",
        "src/server/close.rs",
        "subscriptions.into_iter().for_each(|subscription| self.end_subscription(slot, subscription));",
        "drop(subscriptions);",
    ),
    Bug(
        "unsubscribed-in-name-only",
        "src/server/subscribe.rs",
        "        if self.topics.unsubscribe(topic, slot, variant) {",
        "        if false && self.topics.unsubscribe(topic, slot, variant) {",
    ),
    Bug(
        "sleeps-over-parcels",
        "src/server/mesh.rs",
        "if self.has_incoming() || !self.returned.is_empty() {\n            Duration::ZERO",
        "if false {\n            Duration::ZERO",
    ),
    Bug(
        "backlog-forgotten",
        "src/server/mesh.rs",
        "} else if self.has_backlog() || ",
        "} else if ",
    ),
    Bug(
        "no-doorbell",
        "src/server/mesh.rs",
        "std::mem::take(&mut link.sent) && link.asleep.take();",
        "std::mem::take(&mut link.sent) && link.asleep.take() && self.shard != 1;",
    ),
    Bug(
        "backlog-overtaken",
        "src/server/mesh.rs",
        "self.backlog.push_back(parcel);",
        "if let Err(parcel) = self.queue.push(parcel) { self.backlog.push_back(parcel) }",
    ),
    Bug(
        "watch-not-renewed",
        "src/server/shard.rs",
        "        if !completion.more {\n            self.ring.submit_watch",
        "        if false {\n            self.ring.submit_watch",
    ),
    Bug(
        "accept-not-renewed",
        "src/server/accept.rs",
        "let listener = self.acceptor.accepts.remove(completion.token.tag());",
        "let is_ok = completion.result.is_ok();\n"
        "        let listener = if is_ok { self.acceptor.accepts.remove(completion.token.tag()) } else { 0 };",
    ),
    Bug(
        "no-retry-when-full",
        "src/server/accept.rs",
        "self.metrics.accept_stalls.add(1);\n                self.acceptor.retry_ms = "
        "Some(self.now_ms + ACCEPT_RETRY_MS);",
        "self.metrics.accept_stalls.add(1);\n                self.acceptor.retry_ms = Some(u64::MAX);",
    ),
    Bug(
        "outbox-without-bound",
        "src/conn/outbox.rs",
        "        if counted > 0 && counted + frame.len() > bytes_max {\n"
        "            return Err(OutboxFull);\n"
        "        }\n"
        "        self.backlog()",
        "        if frame.len() > bytes_max {\n"
        "            return Err(OutboxFull);\n"
        "        }\n"
        "        self.backlog()",
    ),
    Bug(
        "bound-too-early",
        "src/conn/outbox.rs",
        "        if counted > 0 && counted + frame.len() > bytes_max {\n"
        "            return Err(OutboxFull);\n"
        "        }\n"
        "        self.backlog()",
        "        if counted > 0 && counted + frame.len() > bytes_max / 4 {\n"
        "            return Err(OutboxFull);\n"
        "        }\n"
        "        self.backlog()",
    ),
    Bug(
        "offset-skipped",
        "src/topics/home.rs",
        "entry.position.offset += 1;",
        "entry.position.offset += if entry.position.offset % 16 == 15 { 2 } else { 1 };",
    ),
    Bug(
        "local-only",
        "src/server/publish.rs",
        "for shard in shards.iter().filter(|shard| **shard != here) {",
        "for shard in shards.iter().filter(|shard| **shard != here && self.topics.find(topic).is_none()) {",
    ),
    Bug(
        "joined-backwards",
        "src/topics/run.rs",
        "let frames: SmallVec<[SharedFrame; 1]> = parts.iter().map(",
        "let frames: SmallVec<[SharedFrame; 1]> = parts.iter().rev().map(",
    ),
    Bug(
        "life-not-noted",
        "src/server/receive.rs",
        "note_alive(entry, self.metrics, self.now_ms);",
        "let _ = note_alive;",
    ),
    Bug(
        "close-code-lost",
        "src/conn/recv.rs",
        "encode_close(out, close.code, \"\", None);",
        "encode_close(out, None, \"\", None);",
    ),
    Bug(
        "shutdown-not-awaited",
        "src/server/slot.rs",
        "self.recv_mode.op().is_some() || self.is_sending || self.is_shutting",
        "self.recv_mode.op().is_some() || self.is_sending",
    ),
    Bug(
        "no-linger",
        "src/server/close.rs",
        "entry.is_close_received = cause == CloseCause::Peer;",
        "entry.is_close_received = true;",
    ),
    Bug(
        "flush-cut-off",
        "src/server/close.rs",
        "        entry.stage = Stage::Flushing;\n",
        "        entry.stage = Stage::Flushing;\n        entry.conn.outbox = Outbox::default();\n",
    ),
    Bug(
        "handshake-for-ever",
        "src/server/accept.rs",
        "self.set_deadline(slot, self.now_ms.saturating_add(self.config.handshake_timeout_ms));",
        "",
    ),
    Bug(
        "drain-forgets-the-busy",
        "src/server/drain.rs",
        "if entry.stage != Stage::Serving || !entry.conn.phase().is_served() {",
        "if entry.is_sending || entry.stage != Stage::Serving || !entry.conn.phase().is_served() {",
    ),
    Bug(
        "interest-not-told",
        "src/server/subscribe.rs",
        "                if is_new {\n                    self.send_interest(&subscribe.topic);\n                }",
        "                let _ = is_new;",
    ),
    Bug(
        "interest-for-ever-lost",
        "src/topics/home.rs",
        "topic.shards.retain(|other| *other != shard);",
        "topic.shards.clear();",
    ),
    Bug(
        "publication-overtakes-subscriber",
        "src/server/mesh.rs",
        "        parcels.append(&mut taken);\n",
        "        taken.append(parcels);\n        parcels.append(&mut taken);\n",
    ),
    Bug(
        "boarded-into-a-round-twice",
        "src/topics/queue.rs",
        "Entry { end: cursor.next_round(), ..entry }",
        "Entry { end: cursor.next_round().first_of(cursor.slot() + 1), ..entry }",
    ),
    Bug(
        "skipped-at-the-wrap",
        "src/topics/subscribers.rs",
        "visit_until(few[start..].iter().copied(), last, visit).or(few.first().copied())",
        "visit_until(few[start..].iter().copied(), last, visit).or(few.get(1).copied())",
    ),
    Bug(
        "small-topic-starved",
        "src/server/fan_out.rs",
        "        for lane in Lane::ALL {\n            self.send_slice(lane, &mut batch);\n",
        "        for lane in Lane::ALL.into_iter().rev() {\n            self.send_slice(lane, &mut batch);\n"
        "            if self.topics.has_work_on(Lane::Crowds) {\n                break;\n            }\n",
    ),
    Bug(
        "joined-bytes-reused",
        "src/server/fan_out.rs",
        "        self.scratch.bundles.clear();\n",
        "",
    ),
    Bug(
        "rest-of-a-joined-send-lost",
        "src/server/fan_out.rs",
        "            if sent < run.bytes.len() {\n",
        "            if sent < run.bytes.len() && (sent > 0 || result.is_err() || result == Ok(0)) {\n",
    ),
    Bug(
        "control-frame-splits-a-frame",
        "src/conn/outbox.rs",
        "run.extend(backlog.urgent.drain(..));",
        "run.splice(0..0, backlog.urgent.drain(..));",
    ),
    Bug(
        "piece-of-the-gone-kept",
        "src/server/receive.rs",
        "            self.ring.release(piece);\n",
        "            if slot.is_some_and(|slot| self.is_serving(slot)) {\n                "
        "self.ring.release(piece);\n            }\n",
    ),
    Bug(
        "turn-slept-through",
        "src/server/shard.rs",
        "let is_waited_for = !self.queues.receive.is_empty() || ",
        "let is_waited_for = ",
    ),
    Bug(
        "turn-never-given",
        "src/server/recv_mode.rs",
        "self.queues.receive.push_back(id);",
        "if self.queues.receive.is_empty() {\n                    "
        "self.queues.receive.push_back(id);\n                }",
    ),
    Bug(
        "recovery-one-short",
        "src/topics/history.rs",
        "Recovery::Recovered(self.kept.range(self.kept.len() - missed..).cloned().collect())",
        "Recovery::Recovered(self.kept.range(self.kept.len() - missed.saturating_sub(1)..).cloned().collect())",
    ),
    Bug(
        "recovery-one-again",
        "src/topics/history.rs",
        "Recovery::Recovered(self.kept.range(self.kept.len() - missed..).cloned().collect())",
        "Recovery::Recovered(self.kept.range(self.kept.len().saturating_sub(missed + 1)..).cloned().collect())",
    ),
    Bug(
        "epoch-not-looked-at",
        "src/topics/history.rs",
        "if epoch.is_some_and(|epoch| epoch != top.epoch) || offset > top.offset {",
        "if offset > top.offset {",
    ),
    Bug(
        "lost-though-kept",
        "src/topics/history.rs",
        "missed > self.fitting(bytes_max) ||",
        "missed + 1 > self.fitting(bytes_max) ||",
    ),
    Bug(
        "subscribed-too-early",
        "src/server/subscribe.rs",
        "if !self.mesh.has_room(self.mesh.home(&subscribe.topic)) => {",
        "if false => {",
    ),
    Bug(
        "staged-before-the-answer",
        "src/topics/table.rs",
        "            queue.insert_newcomer(slot.0, first);\n",
        "            let _ = (queue, first);\n",
    ),
    Bug(
        "back-before-the-goodbye",
        "src/server/subscribe.rs",
        "            self.topics.begin_disinterest(topic);\n",
        "",
    ),
    Bug(
        "replaced-out-of-turn",
        "src/conn/outbox.rs",
        "replaced.filter(|place| backlog.last.get(&queue_key.topic) == Some(place))",
        "replaced",
    ),
    Bug(
        "last-word-dropped",
        "src/conn/outbox.rs",
        "other.queue_key.is_some_and(|other| other != queue_key && newest.get(&other) == Some(place))",
        "other.queue_key.is_some_and(|other| other == queue_key && newest.get(&other) == Some(place))",
    ),
    Bug(
        "repeat-made-again",
        "src/topics/repeats.rs",
        "        self.made.insert(repeat.clone(), (position, end_ms));\n",
        "        let _ = position;\n",
    ),
    Bug(
        "nothing-to-receive-and-no-poll",
        "src/server/receive.rs",
        "                Ok(_) | Err(_) => self.resume_recv(",
        "                Err(Errno::WouldBlock) => {}\n                Ok(_) | Err(_) => self.resume_recv(",
    ),
    Bug(
        "starved-of-buffers-forgotten",
        "src/server/recv_mode.rs",
        "self.queues.buffers.push(id)",
        "drop(id)",
    ),
    Bug(
        "unread-input-lost",
        "src/server/receive.rs",
        "get_or_insert_default().unread.extend_from_slice(input);\n                return Progress::Continue;",
        "get_or_insert_default().unread.extend_from_slice(&input[1..]);\n                return Progress::Continue;",
    ),
    Bug(
        "paused-input-never-resumed",
        "src/server/resume.rs",
        "self.queues.resume.push_back(entry.id);",
        "if self.queues.resume.is_empty() {\n                self.queues.resume.push_back(entry.id);\n            }",
    ),
    Bug(
        "left-without-handing-over",
        "src/server/drain.rs",
        "!self.mesh.has_untaken() && !self.mesh.has_incoming()",
        "!self.mesh.has_backlog() && !self.mesh.has_incoming()",
    ),
    Bug(
        "answer-before-arrival",
        "src/server/subscribe.rs",
        "            let (to, answer) = self.begin_subscription(joined);\n"
        "            news.into_iter().for_each(|news| self.push_to_all(id, &topic, &news));\n"
        "            self.on_answer(to, answer);\n",
        "            let presence = joined.joining.presence.clone();\n"
        "            presence.iter().for_each(|presence| _ = self.home.remove_presence(&topic, presence));\n"
        "            self.on_subscribe_reply(joined);\n"
        "            presence.iter().for_each(|presence| _ = self.home.add_presence(id, presence));\n"
        "            news.into_iter().for_each(|news| self.push_to_all(id, &topic, &news));\n",
    ),
    Bug(
        "departure-ends-another-join",
        "src/topics/home.rs",
        "client.joins.retain(|join| *join != presence.join);",
        "client.joins.clear();",
    ),
    Bug(
        "each-join-pushed",
        "src/topics/home.rs",
        "            client.joins.push(*join);\n            return false;\n",
        "            client.joins.push(*join);\n            return true;\n",
    ),
    Bug(
        "failed-doorbell-forgotten",
        "src/server/mesh.rs",
        "link.map(|link| link.ring_ms = Some(now_ms + MESH_RETRY_MS)).is_some()",
        "link.map(|_| now_ms + MESH_RETRY_MS).is_some()",
    ),
    Bug(
        "catch-up-asleep",
        "src/server/catch_up.rs",
        "!self.waiting.is_empty() && self.may_begin()",
        "false",
    ),
    Bug(
        "changed-variant-lost",
        "src/topics/table.rs",
        "topic.subscribers_mut(after).insert(slot.0);",
        "",
    ),
    Bug(
        "changed-variant-not-noted",
        "src/server/subscribe.rs",
        "entry.subscriptions[index].variant = after;",
        "",
    ),
    Bug(
        "stale-last-page",
        "src/topics/state.rs",
        "shared.page.next.is_some() || shared.page.position == top;",
        "shared.page.next.is_some() || shared.page.position.epoch == top.epoch;",
    ),
    Bug(
        "page-one-short",
        "src/topics/state.rs",
        "next = Some(StateCursor { position: last.position, began });",
        "next = Some(StateCursor { position: if last.position == top { top } else { body.position }, began });",
    ),
    Bug(
        "removals-not-told",
        "src/topics/home.rs",
        "Some(StateCursor { position, began: 0 })",
        "Some(StateCursor { position, began: topic.position.offset })",
    ),
    Bug(
        "values-outlive-their-time",
        "src/topics/home.rs",
        "            self.expiries.remove(&(expiry_ms, id));\n            self.schedule_expiry(id);",
        "            self.expiries.remove(&(expiry_ms, id));",
    ),
]


def main() -> int:
    names = sys.argv[1:]
    if names == ["--check"]:
        stale = [bug for bug in BUGS if not is_plantable(bug)]
        for bug in stale:
            print(f"{bug.name} can't be planted: {bug.file} has changed")
        return 1 if stale else 0
    bugs = [bug for bug in BUGS if not names or bug.name in names]
    with tempfile.TemporaryDirectory(prefix="sim-bugs-") as directory:
        copy = Path(directory) / "ringfeed"
        copy_checkout(copy)
        # A target directory of its own: cargo would take builds of the copy for builds of the checkout.
        target = str(Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "bugs")
        missed = [bug.name for bug in bugs if not hunt(bug, copy, target)]
    print(f"{len(bugs) - len(missed)} of {len(bugs)} bugs found" + (f"; not: {', '.join(missed)}" if missed else ""))
    return 1 if missed else 0


def copy_checkout(copy: Path) -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for file in files.splitlines():
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, copy / file)


def is_plantable(bug: Bug) -> bool:
    return (ROOT / bug.file).read_text().count(bug.before) == 1


def hunt(bug: Bug, copy: Path, target: str) -> bool:
    if not is_plantable(bug):
        print(f"| {bug.name} | can't be planted: {bug.file} has changed |", flush=True)
        return False
    source = (ROOT / bug.file).read_text()
    (copy / bug.file).write_text(source.replace(bug.before, bug.after))
    try:
        found = run(copy, target)
    finally:
        (copy / bug.file).write_text(source)
    print(f"| {bug.name} | {found or f'not found in {SEEDS} seeds'} |", flush=True)
    return found is not None


def run(copy: Path, target: str) -> str | None:
    """How the simulator found the bug, if it did."""
    environment = os.environ | {"CARGO_TARGET_DIR": target, "RUST_BACKTRACE": "0"}
    built = subprocess.run([*SIM, "--no-run"], cwd=copy, env=environment, capture_output=True, text=True)
    if built.returncode != 0:
        sys.exit(f"does not compile:\n{built.stderr}")
    try:
        command = [*SIM, "--", "--seeds", str(SEEDS)]
        ran = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX)
    except subprocess.TimeoutExpired as late:
        return None if is_progressing(late) else "does not end"
    seed = re.search(r"FAILED seed=(\d+)", ran.stderr)
    if not seed:
        return None
    sentence = re.search(r"panicked at [^\n]*\n([^\n]*)", ran.stderr)
    return f"{int(seed[1]) + 1} | {sentence[1][:110] if sentence else ''}"


def is_progressing(late: subprocess.TimeoutExpired) -> bool:
    """Whether the run was only slow: it reports its seeds every ten seconds."""
    text = b"".join(part for part in (late.stdout, late.stderr) if part).decode()
    reports = re.findall(r"seeds in ([\d.]+)s", text)
    return bool(reports) and float(reports[-1]) > SECONDS_MAX - 60


if __name__ == "__main__":
    sys.exit(main())
