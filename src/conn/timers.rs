//! Signs of life.

use serde::{Deserialize, Serialize};

use super::Heartbeat;
use crate::limits::{PING_INTERVAL_MS, PONG_TIMEOUT_MS};

/// When to ask a silent peer for a sign of life, and when to give it up. 0 turns a thing off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
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
    /// A ping was sent since the peer was heard of, at this time; 0 if none, or if it has no answer.
    pinged_ms: u64,
}

/// What a look at the clock means for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
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
    /// A peer that was heard of at `now_ms`.
    pub fn new(now_ms: u64) -> KeepAlive {
        KeepAlive { last_recv_ms: now_ms, since_ms: now_ms, pinged_ms: 0 }
    }

    /// Bytes came, of whatever kind.
    pub fn on_recv(&mut self, now_ms: u64, heartbeat: Heartbeat) {
        self.last_recv_ms = now_ms;
        self.pinged_ms = 0;
        if !heartbeat.is_regular() {
            self.since_ms = now_ms;
        }
    }

    /// The time has come that was asked for.
    pub fn on_timer(&mut self, now_ms: u64, config: &KeepAliveConfig, heartbeat: Heartbeat) -> Pulse {
        let give_up_ms = [
            (config.idle_timeout_ms > 0 && heartbeat.has_answer())
                .then(|| self.last_recv_ms.saturating_add(config.idle_timeout_ms)),
            (self.pinged_ms > 0).then(|| self.pinged_ms.saturating_add(config.pong_timeout_ms)),
        ];
        let give_up_ms = give_up_ms.into_iter().flatten().min().unwrap_or(u64::MAX);
        if now_ms >= give_up_ms {
            return Pulse::Lost;
        }
        if config.ping_interval_ms == 0 || self.pinged_ms > 0 {
            return Pulse::Wait { until_ms: give_up_ms };
        }
        let ping_ms = self.since_ms.saturating_add(config.ping_interval_ms);
        if now_ms < ping_ms {
            return Pulse::Wait { until_ms: ping_ms.min(give_up_ms) };
        }
        self.since_ms = now_ms;
        if !heartbeat.has_answer() {
            return Pulse::Ping { until_ms: now_ms.saturating_add(config.ping_interval_ms) };
        }
        self.pinged_ms = now_ms.max(1);
        Pulse::Ping { until_ms: now_ms.saturating_add(config.pong_timeout_ms).min(give_up_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEBSOCKET: Heartbeat = Heartbeat::WebSocket;
    const CONFIG: KeepAliveConfig = KeepAliveConfig { ping_interval_ms: 25, pong_timeout_ms: 10, idle_timeout_ms: 0 };

    #[test]
    fn a_silent_peer_is_pinged_and_then_lost() {
        let mut peer = KeepAlive::new(100);
        assert_eq!(peer.on_timer(112, &CONFIG, WEBSOCKET), Pulse::Wait { until_ms: 125 });
        assert_eq!(peer.on_timer(125, &CONFIG, WEBSOCKET), Pulse::Ping { until_ms: 135 });
        assert_eq!(peer.on_timer(130, &CONFIG, WEBSOCKET), Pulse::Wait { until_ms: 135 });
        assert_eq!(peer.on_timer(135, &CONFIG, WEBSOCKET), Pulse::Lost);
    }

    #[test]
    fn any_bytes_are_a_sign_of_life() {
        let mut peer = KeepAlive::new(100);
        peer.on_timer(125, &CONFIG, WEBSOCKET);
        peer.on_recv(134, WEBSOCKET);
        assert_eq!(peer.on_timer(135, &CONFIG, WEBSOCKET), Pulse::Wait { until_ms: 159 });
    }

    #[test]
    fn idle_ones_are_lost_also_without_pings() {
        let config = KeepAliveConfig { ping_interval_ms: 0, idle_timeout_ms: 40, ..CONFIG };
        let mut peer = KeepAlive::new(100);
        assert_eq!(peer.on_timer(120, &config, WEBSOCKET), Pulse::Wait { until_ms: 140 });
        assert_eq!(peer.on_timer(140, &config, WEBSOCKET), Pulse::Lost);
        let config = KeepAliveConfig { idle_timeout_ms: 30, ..CONFIG };
        let mut peer = KeepAlive::new(100);
        assert_eq!(peer.on_timer(125, &config, WEBSOCKET), Pulse::Ping { until_ms: 130 });
        assert_eq!(peer.on_timer(130, &config, WEBSOCKET), Pulse::Lost);
    }

    #[test]
    fn nothing_is_asked_of_a_peer_when_all_is_off() {
        let config = KeepAliveConfig { ping_interval_ms: 0, ..CONFIG };
        assert_eq!(KeepAlive::new(5).on_timer(6, &config, WEBSOCKET), Pulse::Wait { until_ms: u64::MAX });
    }

    #[test]
    fn times_without_end_never_come() {
        let config = KeepAliveConfig { ping_interval_ms: u64::MAX, idle_timeout_ms: u64::MAX, ..CONFIG };
        assert_eq!(KeepAlive::new(5).on_timer(6, &config, WEBSOCKET), Pulse::Wait { until_ms: u64::MAX });
        let config = KeepAliveConfig { pong_timeout_ms: u64::MAX, ..CONFIG };
        let mut peer = KeepAlive::new(5);
        assert_eq!(peer.on_timer(30, &config, WEBSOCKET), Pulse::Ping { until_ms: u64::MAX });
        assert_eq!(peer.on_timer(31, &config, WEBSOCKET), Pulse::Wait { until_ms: u64::MAX });
    }

    #[test]
    fn regular_pings_come_whatever_the_peer_sends() {
        let json = Heartbeat::CentrifugeJson;
        let mut peer = KeepAlive::new(100);
        peer.on_recv(120, json);
        assert_eq!(peer.on_timer(125, &CONFIG, json), Pulse::Ping { until_ms: 135 });
        peer.on_recv(126, json);
        assert_eq!(peer.on_timer(135, &CONFIG, json), Pulse::Wait { until_ms: 150 });
        assert_eq!(peer.on_timer(150, &CONFIG, json), Pulse::Ping { until_ms: 160 });
        assert_eq!(peer.on_timer(160, &CONFIG, json), Pulse::Lost);
    }

    #[test]
    fn pings_without_an_answer_go_on() {
        let config = KeepAliveConfig { idle_timeout_ms: 30, ..CONFIG };
        let mut peer = KeepAlive::new(100);
        assert_eq!(peer.on_timer(125, &config, Heartbeat::Sse), Pulse::Ping { until_ms: 150 });
        assert_eq!(peer.on_timer(150, &config, Heartbeat::Sse), Pulse::Ping { until_ms: 175 });
    }
}
