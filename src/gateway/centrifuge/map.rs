//! Map subscriptions: the state of a keyed topic, as Centrifugo's clients read it.
//!
//! A client requests pages of the state, then pages of what has changed since the first one, until the server says that
//! the subscription has begun. Here the changes are the later part of the same log, so the server begins the
//! subscription with the page that reaches the topic's position, whichever that is.

use super::call::Call;
use super::protocol::{ClientError, SubscribeRequest};
use super::reply::{Publication, Reply, SubscribeResult};
use super::session::{MapRead, Subscribing};
use crate::topics::{Body, CatchUp, Epoch, Position, StateCursor, StatePage};

/// The kind of map subscriptions.
pub(super) const MAP: i32 = 1;

/// The phases of a request and of its reply.
const STATE: i32 = 2;
const CHANGES: i32 = 1;

/// What a request reads.
///
/// # Errors
/// [`ClientError::BadRequest`]: there is no such phase or cursor.
pub(super) fn map_read(request: &SubscribeRequest<'_>) -> Result<(MapRead, CatchUp), ClientError> {
    match (request.phase, request.cursor) {
        (STATE, "") => Ok((MapRead::Start, CatchUp::State(None))),
        (STATE, cursor) => {
            let cursor = StateCursor::from_text(cursor).ok_or(ClientError::BadRequest)?;
            Ok((MapRead::State(cursor.began), CatchUp::State(Some(cursor))))
        }
        (CHANGES, _) => {
            let epoch = Some(Epoch::from_text(request.epoch));
            Ok((MapRead::Changes, CatchUp::Since { epoch, offset: request.offset }))
        }
        _ => Err(ClientError::BadRequest),
    }
}

/// Whether the client can use a page: what it has read before is void if the page begins a snapshot.
pub(super) fn continues(read: MapRead, page: &StatePage) -> bool {
    read == MapRead::Start || !page.begins
}

/// Values and changes of a page. A client takes changes of values that it has read as changes only.
fn split(read: MapRead, page: &StatePage) -> (Vec<Publication>, Vec<Publication>) {
    let state_max = match read {
        MapRead::Start => page.position.offset,
        MapRead::State(began) => began,
        MapRead::Changes => 0,
    };
    let (state, changes): (Vec<&Body>, Vec<&Body>) =
        page.bodies.iter().map(|body| &**body).partition(|body| body.position.offset <= state_max);
    let publications = |bodies: Vec<&Body>| bodies.into_iter().map(Publication::from).collect();
    (publications(state), publications(changes))
}

/// Adds the last page to the result of a subscription that begins at `position`.
pub(super) fn add_last_page(result: &mut SubscribeResult, read: MapRead, page: &StatePage, recovers: bool) {
    (result.state, result.publications) = split(read, page);
    let Position { epoch, offset } = page.position;
    (result.epoch, result.offset, result.kind) = (epoch.to_string(), offset, MAP);
    (result.recoverable, result.positioned) = (true, true);
    (result.was_recovering, result.recovered) = (recovers, recovers);
}

impl Call<'_, '_> {
    /// The reply with a page that is not the last: the subscription has not begun.
    pub(super) fn map_page(&mut self, id: u32, subscribing: &Subscribing, page: &StatePage) -> Vec<Reply> {
        let Some(read) = subscribing.map.filter(|read| continues(*read, page)) else {
            return self.not_subscribed(id, subscribing, ClientError::UnrecoverablePosition);
        };
        if subscribing.ended.is_none() {
            self.session.remove_channel(subscribing.topic.as_str());
        }
        let last = page.bodies.last().map_or(page.position, |body| body.position);
        let (state, changes) = split(read, page);
        let mut result = SubscribeResult { kind: MAP, epoch: last.epoch.to_string(), ..SubscribeResult::default() };
        if read == MapRead::Changes {
            (result.phase, result.publications, result.offset) = (CHANGES, changes, last.offset);
        } else {
            let next = page.next.expect("the last page begins the subscription");
            // Without a cursor the client goes on with the changes since the first page.
            (result.phase, result.state, result.offset) = (STATE, state, next.began);
            result.cursor = if changes.is_empty() { next.to_string() } else { String::new() };
        }
        vec![Reply { id, subscribe: Some(result), ..Reply::default() }]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(phase: i32, cursor: &'a str, epoch: &'a str, offset: u64) -> SubscribeRequest<'a> {
        SubscribeRequest { kind: MAP, phase, cursor, epoch, offset, ..SubscribeRequest::default() }
    }

    #[test]
    fn a_request_reads_the_state_or_its_changes() {
        let epoch = Epoch::new(7);
        let cursor = StateCursor { position: Position { epoch, offset: 5 }, began: 9 };
        let (text, epoch_text) = (cursor.to_string(), epoch.to_string());
        let since = CatchUp::Since { epoch: Some(epoch), offset: 5 };
        let rows = [
            (request(STATE, "", "", 0), Ok((MapRead::Start, CatchUp::State(None)))),
            (request(STATE, &text, &epoch_text, 9), Ok((MapRead::State(9), CatchUp::State(Some(cursor))))),
            (request(STATE, "nonsense", "", 0), Err(ClientError::BadRequest)),
            (request(CHANGES, "", &epoch_text, 5), Ok((MapRead::Changes, since))),
            (request(0, "", "", 0), Err(ClientError::BadRequest)),
            (request(3, "", "", 0), Err(ClientError::BadRequest)),
        ];
        for (request, expected) in rows {
            assert_eq!(map_read(&request), expected, "{request:?}");
        }
    }
}
