//! An option of listeners that has no safe wrapper.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Has the kernel hand a connection of `listener` over only when its first bytes have come (`TCP_DEFER_ACCEPT`), or
/// after so many seconds without any.
///
/// For protocols in which the client speaks first. Who accepts finds the request there, and is not woken before it is.
///
/// # Errors
/// The kernel's; `listener` may be no TCP socket.
pub fn defer_accept(listener: BorrowedFd<'_>, seconds: u16) -> io::Result<()> {
    let value = libc::c_int::from(seconds);
    let start: *const libc::c_int = &value;
    // SAFETY: the descriptor is open while it is borrowed, and the kernel reads the value, which has that size, before
    // the call returns.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            start.cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn who_has_said_something_is_handed_over_first() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        defer_accept(listener.as_fd(), 60).unwrap();
        listener.set_nonblocking(true).unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut speaker = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        speaker.write_all(b"hello").unwrap();
        listener.set_nonblocking(false).unwrap();
        assert_eq!(listener.accept().unwrap().1, speaker.local_addr().unwrap());
    }

    #[test]
    fn what_is_no_tcp_socket_can_not_wait() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(defer_accept(socket.as_fd(), 1).is_err());
    }
}
