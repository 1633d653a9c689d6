//! `POST /api/<method>`: Centrifugo's server API, so that its libraries for backends work here.
//!
//! The answer is 200 with `{"result":…}` or `{"error":{"code":…,"message":…}}`, whatever has become of the request; 400
//! with such an error where the body is not what the method takes, and 404 where there is no such method. With
//! `X-Centrifugo-Error-Mode: transport` the status tells the error of one call. Requests are
//! `request`'s, answers `reply`'s, and what happens between is `run`'s.
//!
//! Beyond Centrifugo's, `channels` takes `limit` and `cursor`, and `disconnect` a connection, an address or a topic.
//!
//! What it does not take is refused with "not available" rather than left undone in silence: a subscription's own
//! positions and overrides, single sessions, and lists of clients to be spared.

mod reply;
mod request;
mod run;

use bytes::Bytes;
use hyper::body::Body;
use hyper::{Request, StatusCode};

use super::access::Right;
use super::answer::{Answer, JSON, answer, text};
use super::audit::Operator;
use super::http::READ_ONLY;
use super::{State, audit, body};
use crate::limits::API_BYTES_MAX;
use reply::{ApiError, Reply, detailed};
use request::{Batch, Call, Malformed};

/// With the value `transport`, the status of a response tells its error, too.
const ERROR_MODE: &str = "x-centrifugo-error-mode";

/// Answers one request; `method` is what follows `/api/`.
pub(super) async fn post<B: Body<Data = Bytes>>(
    state: &State,
    method: &str,
    request: Request<B>,
    operator: Operator,
) -> Answer {
    let right = operator.right;
    let by_status = request.headers().get(ERROR_MODE).is_some_and(|mode| mode == "transport");
    let body = match body::read(request.into_body(), API_BYTES_MAX).await {
        Ok(body) if body.trim_ascii().is_empty() => Bytes::from_static(b"{}"),
        Ok(body) => body,
        Err(error) => return error.answer(),
    };
    let refused = || text(StatusCode::FORBIDDEN, READ_ONLY);
    if method == "batch" && right < Right::All {
        return refused();
    }
    if method == "batch" {
        return match Batch::parse(&body) {
            Ok(batch) => {
                let calls = batch.calls.iter().filter_map(|call| call.call.as_ref()?.as_ref().ok());
                calls.for_each(|call| log(operator, call));
                encode(&run::batch(state, &batch, &body).await)
            }
            Err(malformed) => bad_request(&malformed),
        };
    }
    match Call::parse(method, &body) {
        None => {
            let methods = format_args!("there are the methods {}", Call::METHODS);
            answer(StatusCode::NOT_FOUND, JSON, detailed(ApiError::NotFound, methods))
        }
        Some(Err(malformed)) => bad_request(&malformed),
        Some(Ok(call)) if right < Right::All && !call.is_read() => refused(),
        Some(Ok(call)) => {
            log(operator, &call);
            let reply = Reply::from(run::call(state, &call, &body).await);
            let status = if by_status { reply.status() } else { StatusCode::OK };
            encode_with(status, &reply)
        }
    }
}

/// Logs a call that acts on clients or histories.
fn log(operator: Operator, call: &Call<'_>) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (action, user, client, channel) = match call {
        Call::Disconnect(call) => {
            let place = call.connection.map(|at| format!("{}.{}.{}", at.shard, at.slot, at.generation));
            let client = place.or(call.address.map(|address| address.to_string())).or(call.client.clone());
            ("disconnect", text(&call.user), text(&client), text(&call.topic))
        }
        Call::Unsubscribe(call) => ("unsubscribe", text(&call.user), text(&call.client), text(&call.channel)),
        Call::HistoryRemove(call) => ("history_remove", String::new(), String::new(), text(&call.channel)),
        _ => return,
    };
    audit::log_for(operator, action, &user, &client, &channel);
}

fn bad_request(malformed: &Malformed) -> Answer {
    answer(StatusCode::BAD_REQUEST, JSON, detailed(ApiError::BadRequest, malformed))
}

fn encode(reply: &impl serde::Serialize) -> Answer {
    encode_with(StatusCode::OK, reply)
}

fn encode_with(status: StatusCode, reply: &impl serde::Serialize) -> Answer {
    let body = serde_json::to_vec(reply).expect("replies have no maps whose keys are not text");
    answer(status, JSON, body)
}

#[cfg(test)]
mod tests;
