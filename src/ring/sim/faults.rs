//! What goes wrong, and how often.
//!
//! Each seed turns each fault on or off by itself ("swarm testing"): a run in which everything fails all the time never
//! gets far enough to find what needs one fault and much that works.

use super::Rng;

/// Rates are in a thousand; 0 is off. Times are in microseconds of virtual time.
#[derive(Clone, Debug)]
pub struct Faults {
    /// Operations and segments take up to this long.
    pub delay_us_max: u64,
    /// Bytes that the network moves at once, at most.
    pub segment_bytes_max: usize,
    /// Bytes that a socket holds for its reader, and for its sender.
    pub socket_bytes_max: usize,
    /// Receive buffers of a ring, a power of two.
    pub recv_buffers: u16,
    /// Bytes of each.
    pub recv_buffer_bytes: u32,
    /// Descriptors of a ring.
    pub descriptors: u32,
    /// A new socket gets any free descriptor instead of the lowest.
    pub descriptors_are_random: bool,

    /// A receive brings fewer bytes than are there.
    pub recv_short: u32,
    /// A receive ends though bytes came.
    pub recv_ends: u32,
    /// A receive finds no buffer though there is one.
    pub recv_scarce: u32,
    /// A poll ends though nothing has come.
    pub poll_early: u32,
    /// A receive is interrupted.
    pub recv_interrupted: u32,
    /// A send takes fewer bytes than there is room for.
    pub send_short: u32,
    /// A send that may not wait is refused for lack of memory or by a signal.
    pub send_refused: u32,
    /// A send that may wait fails for lack of memory. The connection does not survive that.
    pub send_fails: u32,
    /// A connection was gone before it was accepted.
    pub accept_aborted: u32,
    /// The system's table of files is full.
    pub accept_full: u32,
    /// Accepting fails with something unheard of.
    pub accept_fails: u32,
    /// A doorbell fails for lack of memory.
    pub doorbell_fails: u32,
    /// A watch of an event ends.
    pub watch_ends: u32,
    /// A wait returns before anything happened, or without all that did.
    pub wait_short: u32,
    /// Time stands still for everybody and then leaps, as when a machine is suspended. In a million happenings.
    pub leaps_per_million: u32,
}

impl Faults {
    /// A kernel that does what one hopes for.
    pub fn none() -> Faults {
        Faults {
            delay_us_max: 100,
            segment_bytes_max: 64 * 1024,
            socket_bytes_max: 256 * 1024,
            recv_buffers: 8,
            recv_buffer_bytes: 64 * 1024,
            descriptors: 256,
            descriptors_are_random: false,
            recv_short: 0,
            recv_ends: 0,
            recv_scarce: 0,
            recv_interrupted: 0,
            send_short: 0,
            send_refused: 0,
            send_fails: 0,
            poll_early: 0,
            accept_aborted: 0,
            accept_full: 0,
            accept_fails: 0,
            doorbell_fails: 0,
            watch_ends: 0,
            wait_short: 0,
            leaps_per_million: 0,
        }
    }

    /// The faults of one seed.
    pub fn swarm(rng: &mut Rng) -> Faults {
        let mut rate = |choices: &[u32]| if rng.chance(500) { rng.choose(choices) } else { 0 };
        let usual = [1, 10, 100, 400];
        let seldom = [1, 5, 20];
        Faults {
            recv_short: rate(&usual),
            recv_ends: rate(&usual),
            recv_scarce: rate(&usual),
            recv_interrupted: rate(&usual),
            send_short: rate(&usual),
            send_refused: rate(&usual),
            send_fails: rate(&seldom),
            poll_early: rate(&usual),
            accept_aborted: rate(&usual),
            accept_full: rate(&usual),
            accept_fails: rate(&seldom),
            doorbell_fails: rate(&usual),
            watch_ends: rate(&usual),
            wait_short: rate(&usual),
            leaps_per_million: rate(&[10, 100, 1000]),
            delay_us_max: rng.choose(&[0, 20, 500, 5_000, 30_000]),
            segment_bytes_max: rng.choose(&[7, 100, 1448, 64 * 1024]),
            socket_bytes_max: rng.choose(&[64, 1024, 4096, 64 * 1024, 256 * 1024]),
            recv_buffers: rng.choose(&[1, 2, 4, 16]),
            recv_buffer_bytes: rng.choose(&[128, 1024, 4096, 64 * 1024]),
            descriptors: rng.choose(&[8, 24, 64, 256]),
            descriptors_are_random: rng.chance(300),
        }
    }
}
