//! How many connections come from one address.
//!
//! Counted over all shards, under a lock that is taken when a connection begins and ends, and only where there is a
//! bound. An IPv6 address counts as its network of 64 bits: who has one address of it has all of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::buf::{BySlot, SlotId};

/// Locks, so that shards seldom meet.
const STRIPES: usize = 64;

/// An address as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Network {
    /// One address.
    V4(u32),
    /// All addresses that begin with these bits.
    V6(u64),
}

impl Network {
    /// What `address` counts as.
    pub(crate) fn of(address: IpAddr) -> Network {
        match address.to_canonical() {
            IpAddr::V4(address) => Network::V4(address.to_bits()),
            IpAddr::V6(address) => Network::V6((address.to_bits() >> 64) as u64),
        }
    }

    fn stripe(self) -> usize {
        let bits = match self {
            Network::V4(bits) => u64::from(bits),
            Network::V6(bits) => bits,
        };
        (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize % STRIPES
    }
}

/// The counts of all addresses. Clones are the same counts.
#[derive(Clone, Debug)]
pub(super) struct AddressCounts {
    stripes: Arc<[Mutex<HashMap<Network, u32>>]>,
    max: u32,
}

impl AddressCounts {
    /// Counts that stay at `max` or below.
    pub(super) fn new(max: u32) -> AddressCounts {
        AddressCounts { stripes: (0..STRIPES).map(|_| Mutex::default()).collect(), max }
    }

    fn stripe(&self, network: Network) -> MutexGuard<'_, HashMap<Network, u32>> {
        self.stripes[network.stripe()].lock().expect("nobody panics with the lock")
    }

    /// Counts one more, unless that is one too many.
    fn enter(&self, network: Network) -> bool {
        let mut counts = self.stripe(network);
        let count = counts.entry(network).or_default();
        let may_enter = *count < self.max;
        *count += u32::from(may_enter);
        may_enter
    }

    fn leave(&self, network: Network) {
        let mut counts = self.stripe(network);
        let Entry::Occupied(mut count) = counts.entry(network) else { unreachable!("who leaves has entered") };
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

/// Where the connections of one shard come from.
#[derive(Debug)]
pub(super) struct Addresses {
    counts: AddressCounts,
    /// By slot; none where it is not counted.
    networks: BySlot<Network>,
}

impl Addresses {
    /// Of a shard that has no connections.
    pub(super) fn new(counts: AddressCounts) -> Addresses {
        Addresses { counts, networks: BySlot::default() }
    }

    /// A connection from `address` begins in `slot`. `false`: it is one too many, and is not counted.
    pub(super) fn enter(&mut self, slot: SlotId, address: IpAddr) -> bool {
        // Its proxy may have named another address before.
        self.leave(slot);
        let network = Network::of(address);
        let may_enter = self.counts.enter(network);
        if may_enter {
            self.networks.set(slot, network);
        }
        may_enter
    }

    /// The connection in `slot` has ended.
    pub(super) fn leave(&mut self, slot: SlotId) {
        if let Some(network) = self.networks.take(slot) {
            self.counts.leave(network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_bound_over_all_shards() {
        let counts = AddressCounts::new(2);
        let (mut here, mut there) = (Addresses::new(counts.clone()), Addresses::new(counts.clone()));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(here.enter(SlotId(5), address("10.0.0.1")));
        assert!(there.enter(SlotId(5), address("::ffff:10.0.0.1")), "the same by another name");
        assert!(!here.enter(SlotId(6), address("10.0.0.1")));
        assert!(here.enter(SlotId(7), address("10.0.0.2")));
        here.leave(SlotId(6));
        assert!(!there.enter(SlotId(6), address("10.0.0.1")), "who was refused takes nobody's place along");
        here.leave(SlotId(5));
        assert!(there.enter(SlotId(6), address("10.0.0.1")));
        [5, 6].into_iter().for_each(|slot| there.leave(SlotId(slot)));
        here.leave(SlotId(7));
        assert!(counts.stripes.iter().all(|stripe| stripe.lock().unwrap().is_empty()), "nobody is remembered");
    }

    #[test]
    fn a_network_counts_as_one_address() {
        let mut addresses = Addresses::new(AddressCounts::new(1));
        assert!(addresses.enter(SlotId(0), "2001:db8:1:2::1".parse().unwrap()));
        assert!(!addresses.enter(SlotId(1), "2001:db8:1:2:ffff::2".parse().unwrap()));
        assert!(addresses.enter(SlotId(2), "2001:db8:1:3::1".parse().unwrap()));
    }
}
