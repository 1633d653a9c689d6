//! The default reconnect delays of well-known client SDKs.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;

/// A client SDK, by its reconnect policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sdk {
    /// No delay: the worst case
    None,
    /// centrifuge-js: 0.5 to 1 s, then doubled on each attempt with full jitter, up to 20 s
    Centrifuge,
    /// pusher-js: always 1 s
    Pusher,
    /// @stomp/stompjs: always 5 s
    Stomp,
    /// mqtt.js: always 1 s
    Mqtt,
    /// socket.io: 1 s, doubled on each attempt up to 5 s, plus or minus half
    SocketIo,
    /// The browser's EventSource: always 3 s
    EventSource,
}

impl fmt::Display for Sdk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sdk::None => f.write_str("without delay"),
            sdk => write!(f, "as {} does", sdk.to_possible_value().expect("every SDK has a name").get_name()),
        }
    }
}

impl Sdk {
    /// The delay before attempt number `attempt`, counted from 0. `random` is uniformly distributed.
    pub(crate) fn pause(self, attempt: u32, random: u32) -> Duration {
        let share = f64::from(random) / f64::from(u32::MAX);
        let doubled = |first_ms: f64, max_ms: f64| (first_ms * f64::from(attempt.min(16)).exp2()).min(max_ms);
        let milliseconds = match self {
            Sdk::None => 0.0,
            Sdk::Centrifuge if attempt == 0 => 500.0 + 500.0 * share,
            Sdk::Centrifuge => 500.0 + (doubled(500.0, 20_000.0) - 500.0) * share,
            Sdk::Pusher | Sdk::Mqtt => 1000.0,
            Sdk::Stomp => 5000.0,
            Sdk::SocketIo => doubled(1000.0, 5000.0) * (0.5 + share),
            Sdk::EventSource => 3000.0,
        };
        Duration::from_secs_f64(milliseconds / 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_has_a_name() {
        assert_eq!([Sdk::None, Sdk::SocketIo].map(|sdk| sdk.to_string()), ["without delay", "as socket-io does"]);
    }

    #[test]
    fn delays_follow_the_policy_of_each_sdk() {
        // SDK, attempt, shortest and longest pause in milliseconds
        let table = [
            (Sdk::None, 3, 0, 0),
            (Sdk::Centrifuge, 0, 500, 1000),
            (Sdk::Centrifuge, 2, 500, 2000),
            (Sdk::Centrifuge, 40, 500, 20_000),
            (Sdk::Pusher, 9, 1000, 1000),
            (Sdk::Stomp, 0, 5000, 5000),
            (Sdk::Mqtt, 0, 1000, 1000),
            (Sdk::SocketIo, 0, 500, 1500),
            (Sdk::SocketIo, 9, 2500, 7500),
            (Sdk::EventSource, 1, 3000, 3000),
        ];
        for (sdk, attempt, shortest, longest) in table {
            let pauses = [0, u32::MAX].map(|random| sdk.pause(attempt, random).as_millis());
            assert_eq!(pauses, [shortest, longest], "{sdk:?} {attempt}");
        }
    }
}
