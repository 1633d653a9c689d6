//! Sockets that the parent of this process has opened: systemd's protocol for socket activation (`sd_listen_fds(3)`).

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use rustix::io::{FdFlags, fcntl_setfd};

/// The number of the first such socket (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// How many sockets a parent can pass.
const COUNT_MAX: RawFd = 1024;

/// The name of a socket without one.
const UNNAMED: &str = "unknown";

/// A socket that the parent has opened.
#[derive(Debug)]
pub struct InheritedSocket {
    /// Its name: `FileDescriptorName=` of systemd's socket unit.
    pub name: String,
    /// The socket.
    pub socket: OwnedFd,
}

/// The sockets that the parent of this process has opened for it, as `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`
/// list them. They stay open until the process ends.
pub fn inherited_sockets() -> &'static [InheritedSocket] {
    static SOCKETS: OnceLock<Vec<InheritedSocket>> = OnceLock::new();
    SOCKETS.get_or_init(|| {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let [pid, count, names] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"].map(variable);
        if pid != std::process::id().to_string() {
            return Vec::new();
        }
        listed(&count, &names).filter_map(|(number, name)| take(number, name)).collect()
    })
}

/// The numbers of the sockets, each with its name.
fn listed(count: &str, names: &str) -> impl Iterator<Item = (RawFd, String)> {
    let count: RawFd = count.parse().unwrap_or(0);
    let names: Vec<String> = names.split(':').map(str::to_owned).collect();
    (0..count.clamp(0, COUNT_MAX)).map(move |index| {
        let name = names.get(index as usize).filter(|name| !name.is_empty());
        (FIRST + index, name.map_or_else(|| UNNAMED.to_owned(), String::clone))
    })
}

/// Takes a descriptor over; `None` if it is not open.
fn take(number: RawFd, name: String) -> Option<InheritedSocket> {
    // SAFETY: F_GETFD reads no memory of ours. It fails for a number that is not open.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: the descriptor is open, and must have no other owner. The parent opened it for this process, which it
    // names in LISTEN_PID, before the process began: so no code of this process received that number from the kernel.
    // It is taken once, in the initialisation of a static.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    // Programs that this process starts have no use for it.
    let _ = fcntl_setfd(&socket, FdFlags::CLOEXEC);
    Some(InheritedSocket { name, socket })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_numbered_from_three_and_have_the_names_of_their_places() {
        let all = |count, names| listed(count, names).collect::<Vec<_>>();
        let named =
            |list: &[(RawFd, &str)]| list.iter().map(|(fd, name)| (*fd, (*name).to_owned())).collect::<Vec<_>>();
        assert_eq!(all("2", "data:control"), named(&[(3, "data"), (4, "control")]));
        assert_eq!(all("3", "data"), named(&[(3, "data"), (4, "unknown"), (5, "unknown")]));
        assert_eq!(all("2", ":b:c"), named(&[(3, "unknown"), (4, "b")]));
        for count in ["", "0", "-1", "many", "99999999999"] {
            assert_eq!(all(count, "data"), [], "{count}");
        }
        assert_eq!(listed("5000", "").count(), COUNT_MAX as usize);
    }

    #[test]
    fn a_process_without_such_a_parent_has_none() {
        assert!(inherited_sockets().is_empty());
        assert!(take(RawFd::MAX, String::new()).is_none());
    }
}
