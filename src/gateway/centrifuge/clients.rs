//! All clients of one shard: by connection and by user.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use smallvec::SmallVec;

use super::session::{ClientId, Session};
use crate::buf::{BySlot, ConnId};

/// The clients of a shard.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// By slot. Most slots may belong to other protocols.
    sessions: BySlot<Box<Session>>,
    /// Connections by authenticated user; anonymous ones are found by a scan.
    users: HashMap<Box<str>, SmallVec<[ConnId; 1]>>,
    names: Names,
}

/// Generates names of clients: keyed hashes of a count, which are unpredictable.
#[derive(Debug, Default)]
struct Names {
    key: RandomState,
    count: u64,
}

impl Clients {
    /// A unique name.
    pub(super) fn new_name(&mut self) -> ClientId {
        self.names.count += 1;
        let half = |half: u8| u128::from(self.names.key.hash_one((self.names.count, half)));
        ClientId(half(0) << 64 | half(1))
    }

    pub(super) fn insert(&mut self, session: Session) {
        let slot = session.id.slot;
        if let Some(earlier) = self.sessions.get(slot).map(|earlier| earlier.id) {
            self.remove(earlier);
        }
        self.sessions.set(slot, Box::new(session));
    }

    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Session> {
        self.sessions.get_mut(id.slot).map(|session| &mut **session).filter(|session| session.id == id)
    }

    pub(super) fn get(&self, id: ConnId) -> Option<&Session> {
        self.sessions.get(id.slot).map(|session| &**session).filter(|session| session.id == id)
    }

    pub(super) fn remove(&mut self, id: ConnId) {
        if self.get(id).is_none() {
            return;
        }
        let session = self.sessions.take(id.slot).expect("it was found");
        if let Some(connections) = self.users.get_mut(&session.user) {
            connections.retain(|other| *other != id);
            if connections.is_empty() {
                self.users.remove(&session.user);
            }
        }
    }

    /// Adds a connection of an authenticated user.
    pub(super) fn add_user(&mut self, user: &str, id: ConnId) {
        if !user.is_empty() {
            self.users.entry(user.into()).or_default().push(id);
        }
    }

    /// Appends the connections of `user`; an empty user appends all.
    pub(super) fn of_user(&self, user: &str, found: &mut Vec<ConnId>) {
        if user.is_empty() {
            found.extend(self.iter().map(|session| session.id));
        } else {
            found.extend(self.users.get(user).into_iter().flatten());
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().map(|session| &**session)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::session::Wire;
    use super::*;
    use crate::buf::SlotId;

    fn id(slot: u32) -> ConnId {
        ConnId { slot: SlotId(slot), generation: 3 }
    }

    fn clients(slots: &[u32]) -> Clients {
        let mut clients = Clients::default();
        for slot in slots {
            let name = clients.new_name();
            clients.insert(Session::new(id(*slot), Wire::Json, name, true));
        }
        clients
    }

    #[test]
    fn an_earlier_connection_of_a_slot_has_no_session() {
        let mut clients = clients(&[4]);
        assert!(clients.get_mut(id(4)).is_some());
        for stranger in [ConnId { slot: SlotId(4), generation: 2 }, id(3), id(5)] {
            assert!(clients.get_mut(stranger).is_none());
            clients.remove(stranger);
        }
        assert_eq!(clients.iter().count(), 1);
        clients.remove(id(4));
        assert_eq!(clients.iter().count(), 0);
    }

    #[test]
    fn connections_are_found_by_user() {
        let mut clients = clients(&[1, 2, 3]);
        for (slot, user) in [(1, "a"), (2, "a"), (3, "")] {
            clients.get_mut(id(slot)).unwrap().user = user.into();
            clients.add_user(user, id(slot));
        }
        let of = |clients: &Clients, user| {
            let mut found = Vec::new();
            clients.of_user(user, &mut found);
            found
        };
        assert_eq!(of(&clients, "a"), [id(1), id(2)]);
        assert_eq!(of(&clients, ""), [id(1), id(2), id(3)]);
        assert_eq!(of(&clients, "b"), []);
        clients.remove(id(1));
        assert_eq!(of(&clients, "a"), [id(2)]);
        clients.remove(id(2));
        assert!(clients.users.is_empty());
    }

    #[test]
    fn names_are_unique() {
        let (mut some, mut others) = (Clients::default(), Clients::default());
        let names: HashSet<String> =
            (0..100).flat_map(|_| [some.new_name(), others.new_name()]).map(|name| name.to_string()).collect();
        assert_eq!(names.len(), 200);
        assert!(names.iter().all(|name| name.len() == 36), "{names:?}");
    }
}
