//! What the service manager learns of the server: systemd's protocol (`sd_notify(3)`), datagrams to `NOTIFY_SOCKET`.
//!
//! Without that variable nothing is sent. A datagram that is lost harms nobody, so failures are ignored.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::rc::Rc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::State;

/// The way to the service manager.
#[derive(Debug)]
pub(super) struct Notifier {
    manager: Option<(UnixDatagram, SocketAddr)>,
    /// How often the manager wants a sign of life, if it does.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The manager of this process's environment.
    pub(super) fn of_environment() -> Notifier {
        let variable = |name: &str| std::env::var(name).ok();
        let manager = variable("NOTIFY_SOCKET").and_then(|path| address(&path));
        let manager = manager.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        if let Some((socket, _)) = &manager {
            // A manager that does not read must not stop the server. Otherwise a send could block.
            let _ = socket.set_nonblocking(true);
        }
        let is_meant = variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let limit = variable("WATCHDOG_USEC").and_then(|text| text.parse().ok()).filter(|_| is_meant);
        Notifier { manager, watchdog: limit.map(Duration::from_micros) }
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.manager {
            let _ = socket.send_to_addr(text.as_bytes(), address);
        }
    }

    /// The server serves.
    pub(super) fn ready(&self) {
        self.send("READY=1\nSTATUS=serving");
    }

    /// The server reads its configuration again; [`ready`](Self::ready) follows.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=reloading"));
    }

    /// The server drains, with so many connections left.
    pub(super) fn stopping(&self, connections: u64) {
        self.send(&format!("STOPPING=1\nSTATUS=stopping, {connections} connections left"));
    }
}

/// A path, or a name in the abstract namespace, which begins with `@`.
fn address(path: &str) -> Option<SocketAddr> {
    match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).ok(),
        None => SocketAddr::from_pathname(path).ok(),
    }
}

/// Sends signs of life, each after all shards have answered a question. A shard that hangs makes the manager restart
/// the server. While the server drains, shards end, and the manager's stop timeout counts.
pub(super) async fn watch(state: Rc<State>) {
    let Some(limit) = state.notifier.watchdog else { return };
    loop {
        tokio::time::sleep(limit / 3).await;
        if state.status.is_draining() || state.slowest(1).await.is_ok() {
            state.notifier.send("WATCHDOG=1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_paths_and_abstract_names() {
        assert!(address("/run/systemd/notify").unwrap().as_pathname().is_some());
        assert_eq!(address("@abc").unwrap().as_abstract_name(), Some(&b"abc"[..]));
        assert!(address(&"x".repeat(200)).is_none());
    }
}
