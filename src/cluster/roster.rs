//! The clients that are present on other nodes, in topics whose namespaces announce joins and leaves.
//!
//! Each node numbers the changes among its own clients and broadcasts them; only it speaks for them. A node that misses
//! a change sees the gap in the numbers, or in the number of a heartbeat, and requests all of the other's clients. The
//! difference to what it knew are the joins and leaves that it missed. A node that is gone takes its clients with it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::message::{MemberChange, MemberChanges, MembersPart};
use super::record::Info;
use crate::limits::{
    CLUSTER_MEMBERS_ASK_MS, CLUSTER_MEMBERS_BYTES_MAX, CLUSTER_MEMBERS_EARLY_MAX, CLUSTER_MEMBERS_PER_TURN,
    CLUSTER_RECORD_BYTES,
};
use crate::topics::{ClientInfo, TopicName};

/// Bytes of a member beside its topic and what is known of the client.
const MEMBER_BYTES: usize = 128;

/// A client that has joined or left a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The topic.
    pub topic: TopicName,
    /// The client.
    pub info: Arc<ClientInfo>,
    /// Whether it has joined; it has left otherwise.
    pub has_joined: bool,
}

/// Clients by topic and id.
#[derive(Debug, Default)]
struct Present {
    clients: HashMap<(TopicName, Box<str>), Arc<ClientInfo>>,
    bytes: usize,
}

impl Present {
    /// Whether this changes anything; what does not fit changes nothing.
    fn apply(&mut self, member: &Member) -> bool {
        let key = (member.topic.clone(), member.info.client.clone());
        let bytes = |info: &ClientInfo| MEMBER_BYTES + member.topic.as_str().len() + info.bytes();
        if !member.has_joined {
            let Some(info) = self.clients.remove(&key) else { return false };
            self.bytes -= bytes(&info);
            return true;
        }
        if self.clients.contains_key(&key) || self.bytes + bytes(&member.info) > CLUSTER_MEMBERS_BYTES_MAX {
            return false;
        }
        self.bytes += bytes(&member.info);
        self.clients.insert(key, member.info.clone());
        true
    }

    fn members(&self, has_joined: bool) -> impl Iterator<Item = Member> {
        self.clients.iter().map(move |((topic, _), info)| Member {
            topic: topic.clone(),
            info: info.clone(),
            has_joined,
        })
    }
}

/// The clients of this node.
#[derive(Debug, Default)]
pub(super) struct OwnMembers {
    present: Present,
    /// Changes that were not sent.
    changes: Vec<MemberChange>,
    /// The number of the last changes that were sent.
    number: u64,
    /// Joins for which there was no room: other nodes never learn of them.
    pub(super) left_out: u64,
}

impl OwnMembers {
    /// A client of this node has joined or left.
    pub(super) fn on_change(&mut self, member: &Member) {
        match self.present.apply(member) {
            true => self.changes.push(MemberChange::from(member)),
            false => self.left_out += u64::from(member.has_joined),
        }
    }

    /// The number of the last changes that were sent.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Takes the changes to send, in order.
    pub(super) fn take_changes(&mut self) -> Vec<MemberChanges> {
        let mut list = Vec::new();
        for changes in chunks(std::mem::take(&mut self.changes)) {
            self.number += 1;
            list.push(MemberChanges { number: self.number, changes });
        }
        list
    }

    /// All clients after the last changes that were sent, for a node that missed some. Call it when no changes are
    /// left.
    pub(super) fn parts(&self) -> Vec<MembersPart> {
        debug_assert!(self.changes.is_empty());
        let mut chunks = chunks(self.present.members(true).map(|member| MemberChange::from(&member)).collect());
        if chunks.is_empty() {
            chunks.push(Vec::new());
        }
        let total = chunks.len() as u64;
        let part = |(index, members)| MembersPart { number: self.number, index, total, members };
        (0..).zip(chunks).map(part).collect()
    }
}

/// Changes in messages that every broker takes.
fn chunks(changes: Vec<MemberChange>) -> Vec<Vec<MemberChange>> {
    let (mut chunks, mut bytes): (Vec<Vec<MemberChange>>, usize) = (Vec::new(), usize::MAX);
    for change in changes {
        let size = prost::Message::encoded_len(&change);
        if bytes.saturating_add(size) > CLUSTER_RECORD_BYTES {
            chunks.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        chunks.last_mut().expect("there is one").push(change);
    }
    chunks
}

/// The clients of another node.
#[derive(Debug, Default)]
struct Peer {
    present: Present,
    /// The number of the last changes that were counted; `None` until the first ones are known.
    number: Option<u64>,
    /// As in its last heartbeat.
    announced: u64,
    /// Changes behind a gap.
    early: VecDeque<MemberChanges>,
    early_changes: usize,
    /// Parts that have arrived of all its clients: their number, and each part.
    parts: (u64, Vec<Option<Vec<MemberChange>>>),
    /// When its clients were last requested.
    asked_ms: Option<u64>,
    /// Its clients were there before this node had subscribers: they are no news.
    is_silent: bool,
}

/// The clients of all other nodes.
#[derive(Debug, Default)]
pub(super) struct OtherMembers {
    peers: HashMap<u64, Peer>,
    /// For the subscribers of this node, in order.
    news: VecDeque<Member>,
    /// How often clients of another node were requested.
    pub(super) requested: u64,
}

impl OtherMembers {
    /// A node that is known says that `number` is that of its last changes. Returns whether to request its clients.
    /// `is_ready`: this node has subscribers.
    pub(super) fn on_heartbeat(&mut self, id: u64, number: u64, is_ready: bool, now_ms: u64) -> bool {
        let peer = self.peers.entry(id).or_insert_with(|| Peer {
            number: (number == 0).then_some(0),
            is_silent: !is_ready,
            ..Peer::default()
        });
        // Changes that were sent before the last heartbeat should have come before this one.
        let is_behind = peer.number.is_none_or(|known| known < peer.announced);
        peer.announced = number;
        let is_asked = peer.asked_ms.is_some_and(|asked_ms| now_ms < asked_ms + CLUSTER_MEMBERS_ASK_MS);
        if !is_behind || is_asked {
            return false;
        }
        peer.asked_ms = Some(now_ms);
        peer.parts = (0, Vec::new());
        self.requested += 1;
        true
    }

    /// Changes have arrived.
    pub(super) fn on_changes(&mut self, id: u64, changes: MemberChanges) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match peer.number {
            Some(number) if changes.number <= number => {}
            Some(number) if changes.number == number + 1 => {
                peer.number = Some(changes.number);
                Self::apply(peer, changes.changes, &mut self.news);
                Self::catch_up(peer, &mut self.news);
            }
            _ if peer.early_changes + changes.changes.len() > CLUSTER_MEMBERS_EARLY_MAX => {}
            _ => {
                peer.early_changes += changes.changes.len();
                let place = peer.early.partition_point(|other| other.number < changes.number);
                peer.early.insert(place, changes);
            }
        }
    }

    fn apply(peer: &mut Peer, changes: Vec<MemberChange>, news: &mut VecDeque<Member>) {
        for member in changes.into_iter().filter_map(MemberChange::into_member) {
            if peer.present.apply(&member) {
                news.push_back(member);
            }
        }
    }

    /// Counts changes that were early and are not any more.
    fn catch_up(peer: &mut Peer, news: &mut VecDeque<Member>) {
        while let (Some(number), Some(first)) = (peer.number, peer.early.front()) {
            if first.number > number + 1 {
                return;
            }
            let first = peer.early.pop_front().expect("there is one");
            peer.early_changes -= first.changes.len();
            if first.number == number + 1 {
                peer.number = Some(first.number);
                Self::apply(peer, first.changes, news);
            }
        }
    }

    /// A part of all clients of a node has arrived.
    pub(super) fn on_part(&mut self, id: u64, part: MembersPart) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.asked_ms.is_some()) else { return };
        let total_max = CLUSTER_MEMBERS_BYTES_MAX / CLUSTER_RECORD_BYTES * 2;
        let (Ok(index), Ok(total)) = (usize::try_from(part.index), usize::try_from(part.total)) else { return };
        if index >= total || total > total_max {
            return;
        }
        if peer.parts.0 != part.number || peer.parts.1.len() != total {
            peer.parts = (part.number, vec![None; total]);
        }
        peer.parts.1[index] = Some(part.members);
        if peer.parts.1.iter().any(Option::is_none) {
            return;
        }
        let (number, parts) = std::mem::take(&mut peer.parts);
        peer.asked_ms = None;
        // Changes that came meanwhile may lead further.
        if peer.number.is_some_and(|known| known >= number) {
            return;
        }
        let mut present = Present::default();
        for member in parts.into_iter().flatten().flatten().filter_map(MemberChange::into_member) {
            present.apply(&Member { has_joined: true, ..member });
        }
        let is_news = peer.number.is_some() || !peer.is_silent;
        let before = std::mem::replace(&mut peer.present, present);
        let gone = before.members(false).filter(|member| !peer.present.has(member));
        self.news.extend(gone);
        if is_news {
            let new = peer.present.members(true).filter(|member| !before.has(member));
            self.news.extend(new);
        }
        peer.number = Some(number);
        Self::catch_up(peer, &mut self.news);
    }

    /// Ends the clients of nodes that are gone.
    pub(super) fn retain(&mut self, is_known: impl Fn(u64) -> bool) {
        let news = &mut self.news;
        self.peers.retain(|id, peer| {
            let is_known = is_known(*id);
            if !is_known {
                news.extend(peer.present.members(false));
            }
            is_known
        });
    }

    /// Takes joins and leaves for the subscribers of this node, so many at most.
    pub(super) fn take_news(&mut self) -> Vec<Member> {
        let count = self.news.len().min(CLUSTER_MEMBERS_PER_TURN);
        self.news.drain(..count).collect()
    }

    /// How many clients of other nodes are known.
    pub(super) fn len(&self) -> usize {
        self.peers.values().map(|peer| peer.present.clients.len()).sum()
    }
}

impl Present {
    fn has(&self, member: &Member) -> bool {
        self.clients.contains_key(&(member.topic.clone(), member.info.client.clone()))
    }
}

impl From<&Member> for MemberChange {
    fn from(member: &Member) -> MemberChange {
        let Member { topic, info, has_joined } = member;
        MemberChange { topic: topic.to_string(), has_joined: *has_joined, info: Some(Info::from(&**info)) }
    }
}

impl MemberChange {
    /// `None` if it has no valid topic.
    fn into_member(self) -> Option<Member> {
        let topic = TopicName::new(&self.topic).ok()?;
        Some(Member { topic, info: Arc::new(self.info?.into()), has_joined: self.has_joined })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::topics::mix;

    fn member(topic: u64, client: u64, has_joined: bool) -> Member {
        let info = ClientInfo { client: client.to_string().into(), ..ClientInfo::default() };
        Member { topic: TopicName::new(&format!("t{topic}")).unwrap(), info: Arc::new(info), has_joined }
    }

    /// All news so far; no client joins twice or leaves without having joined.
    #[derive(Default)]
    struct Told(HashSet<(TopicName, Box<str>)>);

    impl Told {
        fn take(&mut self, others: &mut OtherMembers) {
            while let news @ [_, ..] = &*others.take_news() {
                for Member { topic, info, has_joined } in news {
                    let key = (topic.clone(), info.client.clone());
                    let is_new = if *has_joined { self.0.insert(key) } else { self.0.remove(&key) };
                    assert!(is_new, "told twice: {info:?} {has_joined}");
                }
            }
        }
    }

    /// A node with clients that come and go, and another one that loses some of its messages and gets others late.
    fn run(seed: u64) {
        let (mut own, mut others, mut told) = (OwnMembers::default(), OtherMembers::default(), Told::default());
        let (mut held, mut random, mut now_ms) = (Vec::new(), seed, 0);
        let mut next = |below: u64| {
            random = mix(random.wrapping_add(1));
            random % below
        };
        for round in 0..400 {
            let is_calm = round > 380;
            for _ in 0..next(4) * u64::from(!is_calm) {
                own.on_change(&member(next(3), next(5), next(2) == 0));
            }
            held.extend(own.take_changes());
            while let Some(changes) = held.pop() {
                match next(8) {
                    0 if !is_calm => {}
                    1 if !is_calm => {
                        held.push(changes);
                        break;
                    }
                    _ => others.on_changes(7, changes),
                }
            }
            if next(5) == 0 || is_calm {
                now_ms += 1000;
                if others.on_heartbeat(7, own.number(), true, now_ms) && (next(3) > 0 || is_calm) {
                    own.parts().into_iter().for_each(|part| others.on_part(7, part));
                }
            }
            if next(97) == 0 && !is_calm {
                others.retain(|_| false);
                told.take(&mut others);
                assert_eq!(told.0.len(), 0, "a node that is gone has no clients");
            }
            told.take(&mut others);
        }
        let present: HashSet<_> = own.present.clients.keys().cloned().collect();
        assert_eq!(told.0, present, "seed {seed}");
        assert_eq!(others.len(), present.len());
    }

    #[test]
    fn subscribers_learn_of_each_client_once_whatever_is_lost() {
        (0..500).for_each(run);
    }

    #[test]
    fn clients_that_were_there_before_are_no_news_but_their_leaves_are() {
        let (mut own, mut others) = (OwnMembers::default(), OtherMembers::default());
        own.on_change(&member(1, 1, true));
        own.take_changes();
        assert!(others.on_heartbeat(7, own.number(), false, 0), "the clients are unknown");
        assert!(!others.on_heartbeat(7, own.number(), false, 1), "they are under way");
        own.parts().into_iter().for_each(|part| others.on_part(7, part));
        assert_eq!((others.take_news(), others.len()), (vec![], 1));
        others.retain(|_| false);
        assert_eq!(others.take_news(), [member(1, 1, false)]);
    }

    #[test]
    fn the_memory_for_clients_is_bounded() {
        let mut own = OwnMembers::default();
        let big = |client: u64| {
            let info = ClientInfo {
                client: client.to_string().into(),
                conn_info: Some(vec![0; 1 << 20].into()),
                ..ClientInfo::default()
            };
            Member { info: Arc::new(info), ..member(1, 1, true) }
        };
        (0..100).for_each(|client| own.on_change(&big(client)));
        assert!(own.present.bytes <= CLUSTER_MEMBERS_BYTES_MAX && own.left_out > 30, "{}", own.left_out);
        let mut others = OtherMembers::default();
        others.on_heartbeat(7, 9, true, 0);
        for number in 2..CLUSTER_MEMBERS_EARLY_MAX as u64 + 9 {
            let changes = vec![MemberChange::from(&member(1, number, true))];
            others.on_changes(7, MemberChanges { number, changes });
        }
        assert_eq!(others.peers[&7].early_changes, CLUSTER_MEMBERS_EARLY_MAX);
        let part = MembersPart { number: 1, index: 0, total: u64::MAX, members: Vec::new() };
        others.on_part(7, part);
        assert!(others.peers[&7].parts.1.is_empty());
    }
}
