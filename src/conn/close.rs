//! Why connections end.

/// Why a connection ended, as the application, logs and metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CloseCause {
    /// The peer sent a Close frame.
    Peer,
    /// The peer went away without one: end of stream, reset, or no longer reachable.
    PeerLost,
    /// The peer broke the protocol.
    Protocol,
    /// The opening handshake was not a valid upgrade, or was refused.
    Refused,
    /// The opening handshake took too long.
    HandshakeTimeout,
    /// A plain HTTP request was answered.
    Answered,
    /// No sign of life: neither a pong nor anything else.
    PingTimeout,
    /// It sent more than it may in a second.
    RateLimited,
    /// It did not read as fast as its topics are published.
    SlowConsumer,
    /// The application closed it.
    Application,
    /// The server is stopping.
    Drain,
}

impl CloseCause {
    /// All of them.
    pub const ALL: [CloseCause; 11] = [
        CloseCause::Peer,
        CloseCause::PeerLost,
        CloseCause::Protocol,
        CloseCause::Refused,
        CloseCause::HandshakeTimeout,
        CloseCause::Answered,
        CloseCause::PingTimeout,
        CloseCause::RateLimited,
        CloseCause::SlowConsumer,
        CloseCause::Application,
        CloseCause::Drain,
    ];

    /// The value of the metric's label.
    pub fn label(self) -> &'static str {
        match self {
            CloseCause::Peer => "peer",
            CloseCause::PeerLost => "peer_lost",
            CloseCause::Protocol => "protocol",
            CloseCause::Refused => "refused",
            CloseCause::HandshakeTimeout => "handshake_timeout",
            CloseCause::Answered => "answered",
            CloseCause::PingTimeout => "ping_timeout",
            CloseCause::RateLimited => "rate_limited",
            CloseCause::SlowConsumer => "slow_consumer",
            CloseCause::Application => "application",
            CloseCause::Drain => "drain",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_a_number_and_a_label_of_its_own() {
        let mut labels: Vec<&str> = CloseCause::ALL.iter().map(|cause| cause.label()).collect();
        for (index, cause) in CloseCause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, index);
        }
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), CloseCause::ALL.len());
    }
}
