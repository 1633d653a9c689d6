//! The 64 bits that travel with an operation and come back with its completion.

use crate::buf::{ConnId, SlotId};

/// What kind of operation a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Op {
    /// A connection was accepted.
    Accept = 1,
    /// Bytes were received.
    Recv = 2,
    /// A send that may wait ended.
    Send = 3,
    /// A reply sent at once did not go whole.
    Reply = 4,
    /// A publication sent at once did not go whole.
    Publish = 5,
    /// Our half of a stream was ended.
    Shutdown = 6,
    /// A descriptor was closed.
    Close = 7,
    /// Another shard has put something into a queue of ours.
    Doorbell = 8,
    /// An event that another thread notifies.
    Wake = 9,
    /// A cancellation found nothing to cancel.
    Cancel = 10,
    /// There may be something to receive.
    Poll = 11,
    /// A socket was given a descriptor of the process's own.
    Export = 12,
    /// The poll before a receive that waits. Never leaves the ring.
    BeforeRecv = 13,
    /// The poll before a send that waits. Never leaves the ring.
    BeforeSend = 14,
}

impl Op {
    const ALL: [Op; 14] = [
        Op::Accept,
        Op::Recv,
        Op::Send,
        Op::Reply,
        Op::Publish,
        Op::Shutdown,
        Op::Close,
        Op::Doorbell,
        Op::Wake,
        Op::Cancel,
        Op::Poll,
        Op::Export,
        Op::BeforeRecv,
        Op::BeforeSend,
    ];
}

/// Names one operation: kind (8 bits), tag (24 bits), slot (32 bits).
///
/// For an operation of a connection, tag and slot are its [`ConnId`]: a completion that arrives after the slot was
/// given to another connection has another generation. A send that ends within the call
/// ([`Ring::send_now`](super::Ring::send_now)) needs no generation, and carries the index of its bytes as the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(u64);

impl Token {
    /// A token from its parts.
    pub fn new(op: Op, tag: u32, slot: u32) -> Token {
        debug_assert!(tag < 1 << 24, "a tag has 24 bits");
        Token(u64::from(op as u8) << 56 | u64::from(tag) << 32 | u64::from(slot))
    }

    /// An operation of a connection.
    pub fn of_conn(op: Op, id: ConnId) -> Token {
        Token::of_slot(op, id.generation, id.slot)
    }

    /// An operation of the connection in `slot`. The tag of a send that ends within the call is the index of its bytes.
    pub fn of_slot(op: Op, tag: u32, slot: SlotId) -> Token {
        Token::new(op, tag, slot.0)
    }

    /// The kind of operation.
    pub fn op(self) -> Op {
        let code = (self.0 >> 56) as u8;
        Op::ALL[usize::from(code) - 1]
    }

    /// The 24 bits between kind and slot.
    pub fn tag(self) -> u32 {
        (self.0 >> 32) as u32 & 0xff_ffff
    }

    /// The slot.
    pub fn slot(self) -> SlotId {
        SlotId(self.0 as u32)
    }

    /// The connection of an operation made with [`of_conn`](Self::of_conn).
    pub fn conn_id(self) -> ConnId {
        ConnId { slot: self.slot(), generation: self.tag() }
    }

    /// The same operation's poll, for those that have one before them.
    pub(super) fn before(self) -> Option<Token> {
        let op = match self.op() {
            Op::Recv => Op::BeforeRecv,
            Op::Send => Op::BeforeSend,
            _ => return None,
        };
        Some(Token::of_slot(op, self.tag(), self.slot()))
    }

    /// The operation that this is the poll before.
    pub(super) fn after(self) -> Option<Token> {
        let op = match self.op() {
            Op::BeforeRecv => Op::Recv,
            Op::BeforeSend => Op::Send,
            _ => return None,
        };
        Some(Token::of_slot(op, self.tag(), self.slot()))
    }

    /// As the kernel carries it.
    pub(super) fn to_bits(self) -> u64 {
        self.0
    }

    /// From a completion of an operation submitted with [`to_bits`](Self::to_bits).
    pub(super) fn from_bits(bits: u64) -> Token {
        Token(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back() {
        for (index, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, index + 1);
            for (tag, slot) in [(0, 0), (0xff_ffff, u32::MAX), (0x12_3456, 0x789a_bcde)] {
                let token = Token::from_bits(Token::new(op, tag, slot).to_bits());
                assert_eq!((token.op(), token.tag(), token.slot()), (op, tag, SlotId(slot)));
            }
        }
    }

    #[test]
    fn an_operation_and_the_poll_before_it_name_each_other() {
        for op in [Op::Recv, Op::Send] {
            let token = Token::new(op, 0x12_3456, 7);
            let before = token.before().unwrap();
            assert_eq!((before.after(), before.before(), token.after()), (Some(token), None, None));
        }
        assert_eq!(Token::new(Op::Poll, 1, 2).before(), None);
    }
}
