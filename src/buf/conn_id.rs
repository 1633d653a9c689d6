//! The name of a connection on its shard.

/// A place in a shard's table of connections. The next connection in it has the same slot, but another
/// [generation](ConnId).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

impl SlotId {
    /// The slot as the index of a table.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A connection of one shard: its slot in the slab and the generation of that slot.
///
/// A slot is used again after its connection ended; the generation tells the two apart, so that a late completion or
/// timer of the old one finds nobody. 24 bits of generation: a stale id would have to outlive 16 million connections
/// of the same slot to be mistaken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    /// Its place in the shard's table.
    pub slot: SlotId,
    /// How often that slot was given out before, modulo 2^24.
    pub generation: u32,
}

impl ConnId {
    /// Generations are counted modulo this.
    pub const GENERATIONS: u32 = 1 << 24;

    /// The id that the slot's next connection gets.
    pub fn next(self) -> ConnId {
        ConnId { slot: self.slot, generation: (self.generation + 1) % Self::GENERATIONS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_wrap() {
        let last = ConnId { slot: SlotId(7), generation: ConnId::GENERATIONS - 1 };
        assert_eq!(last.next(), ConnId { slot: SlotId(7), generation: 0 });
    }
}
