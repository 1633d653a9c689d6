//! Signs of life.

use super::Heartbeat;
use crate::limits::{PING_INTERVAL_MS, PONG_TIMEOUT_MS};

/// When to ask a silent peer for a sign of life, and when to give it up. 0 turns a thing off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(default))]
pub struct KeepAliveConfig {
    /// A peer that was silent for this long is pinged.
    pub ping_interval_ms: u64,
    /// A peer that is silent for this long after a ping is lost.
    pub pong_timeout_ms: u64,
    /// A peer that was silent for this long is lost, pinged or not.
    pub idle_timeout_ms: u64,
}

impl Default for KeepAliveConfig {
    fn default() -> Self {
        KeepAliveConfig { ping_interval_ms: PING_INTERVAL_MS, pong_timeout_ms: PONG_TIMEOUT_MS, idle_timeout_ms: 0 }
    }
}

/// When a peer was last heard of.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    last_recv_ms: u64,
    /// From when on the interval to the next ping counts.
    since_ms: u64,
    /// The silence after which the server has sent a ping that is not answered yet; 0 if there is none, or no answer to
    /// it.
    pinged_after_ms: u32,
    /// What the first ping of all waits for, where that is less than the interval; 0 once it was sent.
    first_ping_after_ms: u32,
}

/// What a look at the clock means for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAliveAction {
    /// Nothing to do before this time.
    Wait {
        /// When to look again.
        until_ms: u64,
    },
    /// Ping it now.
    Ping {
        /// When to look again.
        until_ms: u64,
    },
    /// It is lost.
    Lost,
}

impl KeepAlive {
    /// A peer whose last bytes arrived at `now_ms`.
    pub fn new(now_ms: u64) -> KeepAlive {
        KeepAlive { last_recv_ms: now_ms, since_ms: now_ms, pinged_after_ms: 0, first_ping_after_ms: 0 }
    }

    /// The first ping waits no longer than this. So the pings of many that came at once need not go at once.
    pub fn ping_first_after(&mut self, pause_ms: u64) {
        self.first_ping_after_ms = saturate(pause_ms);
    }

    /// How long nothing has come.
    pub fn silence_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.last_recv_ms)
    }

    /// Bytes came, of whatever kind. Returns the time since the ping that they answer, if there was one.
    pub fn on_recv(&mut self, now_ms: u64, heartbeat: Heartbeat) -> Option<u64> {
        let pinged_after_ms = u64::from(self.pinged_after_ms);
        let since_ping_ms = (pinged_after_ms > 0).then(|| self.silence_ms(now_ms).saturating_sub(pinged_after_ms));
        self.last_recv_ms = now_ms;
        self.pinged_after_ms = 0;
        if !heartbeat.is_regular() {
            self.since_ms = now_ms;
        }
        since_ping_ms
    }

    /// The requested time has come.
    pub fn on_timer(&mut self, now_ms: u64, config: &KeepAliveConfig, heartbeat: Heartbeat) -> KeepAliveAction {
        let is_pinged = self.pinged_after_ms > 0;
        let pinged_ms = self.last_recv_ms.saturating_add(u64::from(self.pinged_after_ms));
        let give_up_ms = [
            (config.idle_timeout_ms > 0 && heartbeat.has_answer())
                .then(|| self.last_recv_ms.saturating_add(config.idle_timeout_ms)),
            is_pinged.then(|| pinged_ms.saturating_add(config.pong_timeout_ms)),
        ];
        let give_up_ms = give_up_ms.into_iter().flatten().min().unwrap_or(u64::MAX);
        if now_ms >= give_up_ms {
            return KeepAliveAction::Lost;
        }
        if config.ping_interval_ms == 0 {
            return KeepAliveAction::Wait { until_ms: give_up_ms };
        }
        // An answer may come before then, and the next ping is due an interval later.
        let look_ms = now_ms.saturating_add(config.ping_interval_ms).min(give_up_ms);
        if is_pinged {
            return KeepAliveAction::Wait { until_ms: look_ms };
        }
        let ping_after_ms = match self.first_ping_after_ms {
            0 => config.ping_interval_ms,
            first_ms => config.ping_interval_ms.min(u64::from(first_ms)),
        };
        let ping_ms = self.since_ms.saturating_add(ping_after_ms);
        if now_ms < ping_ms {
            return KeepAliveAction::Wait { until_ms: ping_ms.min(give_up_ms) };
        }
        self.since_ms = now_ms;
        self.first_ping_after_ms = 0;
        if !heartbeat.has_answer() {
            return KeepAliveAction::Ping { until_ms: now_ms.saturating_add(config.ping_interval_ms) };
        }
        self.pinged_after_ms = saturate(self.silence_ms(now_ms)).max(1);
        KeepAliveAction::Ping { until_ms: now_ms.saturating_add(config.pong_timeout_ms).min(look_ms) }
    }
}

/// Longer than 49 days is 49 days.
fn saturate(ms: u64) -> u32 {
    u32::try_from(ms).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::CloseCode;

    const WEBSOCKET: Heartbeat = Heartbeat::WEBSOCKET;
    const CONFIG: KeepAliveConfig = KeepAliveConfig { ping_interval_ms: 25, pong_timeout_ms: 10, idle_timeout_ms: 0 };

    #[test]
    fn pings_keep_their_interval_where_answers_may_take_longer() {
        let config = KeepAliveConfig { ping_interval_ms: 10, pong_timeout_ms: 35, idle_timeout_ms: 0 };
        let mut peer = KeepAlive::new(100);
        assert_eq!(peer.on_timer(110, &config, WEBSOCKET), KeepAliveAction::Ping { until_ms: 120 });
        let mut slow = peer;
        peer.on_recv(111, WEBSOCKET);
        assert_eq!(peer.on_timer(120, &config, WEBSOCKET), KeepAliveAction::Wait { until_ms: 121 });
        assert_eq!(peer.on_timer(121, &config, WEBSOCKET), KeepAliveAction::Ping { until_ms: 131 });

        assert_eq!(slow.on_timer(120, &config, WEBSOCKET), KeepAliveAction::Wait { until_ms: 130 });
        let mut lost = slow;
        slow.on_recv(125, WEBSOCKET);
        assert_eq!(slow.on_timer(130, &config, WEBSOCKET), KeepAliveAction::Wait { until_ms: 135 });
        assert_eq!(slow.on_timer(135, &config, WEBSOCKET), KeepAliveAction::Ping { until_ms: 145 });
        assert_eq!(lost.on_timer(140, &config, WEBSOCKET), KeepAliveAction::Wait { until_ms: 145 });
        assert_eq!(lost.on_timer(145, &config, WEBSOCKET), KeepAliveAction::Lost);
    }

    #[test]
    fn a_silent_peer_is_pinged_and_then_lost() {
        let mut peer = KeepAlive::new(100);
        assert_eq!(peer.on_timer(112, &CONFIG, WEBSOCKET), KeepAliveAction::Wait { until_ms: 125 });
        assert_eq!(peer.on_timer(125, &CONFIG, WEBSOCKET), KeepAliveAction::Ping { until_ms: 135 });
        assert_eq!(peer.on_timer(130, &CONFIG, WEBSOCKET), KeepAliveAction::Wait { until_ms: 135 });
        let mut answering = peer;
        assert_eq!(answering.on_recv(133, WEBSOCKET), Some(8), "the time since the ping");
        assert_eq!(answering.on_recv(134, WEBSOCKET), None, "the ping has an answer already");
        assert_eq!(peer.on_timer(135, &CONFIG, WEBSOCKET), KeepAliveAction::Lost);
    }

    #[test]
    fn only_the_first_ping_may_come_early() {
        let mut peer = KeepAlive::new(100);
        peer.ping_first_after(7);
        assert_eq!(peer.on_timer(100, &CONFIG, WEBSOCKET), KeepAliveAction::Wait { until_ms: 107 });
        peer.on_recv(105, WEBSOCKET);
        assert_eq!(peer.on_timer(107, &CONFIG, WEBSOCKET), KeepAliveAction::Wait { until_ms: 112 });
        assert_eq!(peer.on_timer(112, &CONFIG, WEBSOCKET), KeepAliveAction::Ping { until_ms: 122 });
        peer.on_recv(113, WEBSOCKET);
        assert_eq!(peer.on_timer(122, &CONFIG, WEBSOCKET), KeepAliveAction::Wait { until_ms: 138 });
        peer.ping_first_after(1000);
        assert_eq!(
            peer.on_timer(122, &CONFIG, WEBSOCKET),
            KeepAliveAction::Wait { until_ms: 138 },
            "nor may it come late"
        );
    }

    #[test]
    fn any_bytes_are_a_sign_of_life() {
        let mut peer = KeepAlive::new(100);
        peer.on_timer(125, &CONFIG, WEBSOCKET);
        peer.on_recv(134, WEBSOCKET);
        assert_eq!(peer.on_timer(135, &CONFIG, WEBSOCKET), KeepAliveAction::Wait { until_ms: 159 });
    }

    #[test]
    fn idle_ones_are_lost_also_without_pings() {
        let config = KeepAliveConfig { ping_interval_ms: 0, idle_timeout_ms: 40, ..CONFIG };
        let mut peer = KeepAlive::new(100);
        assert_eq!(peer.on_timer(120, &config, WEBSOCKET), KeepAliveAction::Wait { until_ms: 140 });
        assert_eq!(peer.on_timer(140, &config, WEBSOCKET), KeepAliveAction::Lost);
        let config = KeepAliveConfig { idle_timeout_ms: 30, ..CONFIG };
        let mut peer = KeepAlive::new(100);
        assert_eq!(peer.on_timer(125, &config, WEBSOCKET), KeepAliveAction::Ping { until_ms: 130 });
        assert_eq!(peer.on_timer(130, &config, WEBSOCKET), KeepAliveAction::Lost);
    }

    #[test]
    fn nothing_is_asked_of_a_peer_when_all_is_off() {
        let config = KeepAliveConfig { ping_interval_ms: 0, ..CONFIG };
        assert_eq!(KeepAlive::new(5).on_timer(6, &config, WEBSOCKET), KeepAliveAction::Wait { until_ms: u64::MAX });
    }

    #[test]
    fn times_without_end_never_come() {
        let config = KeepAliveConfig { ping_interval_ms: u64::MAX, idle_timeout_ms: u64::MAX, ..CONFIG };
        assert_eq!(KeepAlive::new(5).on_timer(6, &config, WEBSOCKET), KeepAliveAction::Wait { until_ms: u64::MAX });
        let config = KeepAliveConfig { pong_timeout_ms: u64::MAX, ..CONFIG };
        let mut peer = KeepAlive::new(5);
        assert_eq!(peer.on_timer(30, &config, WEBSOCKET), KeepAliveAction::Ping { until_ms: 55 });
        assert_eq!(peer.on_timer(55, &config, WEBSOCKET), KeepAliveAction::Wait { until_ms: 80 });
    }

    #[test]
    fn regular_pings_come_whatever_the_peer_sends() {
        let json = Heartbeat::regular(b"{}", Some((CloseCode(3012), "no pong")));
        let mut peer = KeepAlive::new(100);
        peer.on_recv(120, json);
        assert_eq!(peer.on_timer(125, &CONFIG, json), KeepAliveAction::Ping { until_ms: 135 });
        peer.on_recv(126, json);
        assert_eq!(peer.on_timer(135, &CONFIG, json), KeepAliveAction::Wait { until_ms: 150 });
        assert_eq!(peer.on_timer(150, &CONFIG, json), KeepAliveAction::Ping { until_ms: 160 });
        assert_eq!(peer.on_timer(160, &CONFIG, json), KeepAliveAction::Lost);
    }

    #[test]
    fn pings_without_an_answer_go_on() {
        let config = KeepAliveConfig { idle_timeout_ms: 30, ..CONFIG };
        let comment = Heartbeat::regular(b":\n\n", None);
        let mut peer = KeepAlive::new(100);
        assert_eq!(peer.on_timer(125, &config, comment), KeepAliveAction::Ping { until_ms: 150 });
        assert_eq!(peer.on_timer(150, &config, comment), KeepAliveAction::Ping { until_ms: 175 });
    }
}
