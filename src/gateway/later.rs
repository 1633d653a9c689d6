//! Answers to calls that a handler has given away: at once, or later from any thread.

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{Handle, SendError};
use crate::limits::{HANDLE_RETRY_MS, HANDLE_RETRY_TIMES};

/// The answer to a call.
pub trait CallAnswer: Any + Send + Sync + Sized {
    /// The answer that a dropped [`Responder`] gives.
    fn failed() -> Self;

    /// Approximate bytes in memory.
    fn bytes(&self) -> usize {
        size_of::<Self>()
    }
}

/// Makes the [`Responder`] of a call.
#[derive(Debug)]
pub struct Later<A> {
    handle: Handle,
    request_id: u32,
    answer: PhantomData<A>,
}

/// Answers one call, from any thread but a shard's. Dropping it without an answer is [`CallAnswer::failed`].
#[derive(Debug)]
pub struct Responder<A: CallAnswer> {
    /// `None` once it has answered.
    handle: Option<Handle>,
    request_id: u32,
    answer: PhantomData<A>,
}

impl<A: CallAnswer> Later<A> {
    pub(super) fn new(handle: Handle, request_id: u32) -> Later<A> {
        Later { handle, request_id, answer: PhantomData }
    }

    /// The responder.
    pub fn responder(self) -> Responder<A> {
        Responder { handle: Some(self.handle), request_id: self.request_id, answer: PhantomData }
    }
}

impl<A: CallAnswer> Responder<A> {
    /// Answers. Waits some milliseconds where the shard's queue is full.
    pub fn answer(mut self, answer: A) {
        self.send_patiently(answer);
    }

    /// Answers unless the shard's queue is full: then try again some milliseconds later.
    ///
    /// # Errors
    /// The responder itself: the queue is full.
    pub fn try_answer(mut self, answer: &Arc<A>) -> Result<(), Responder<A>> {
        let Some(handle) = self.handle.take() else { return Ok(()) };
        match handle.reply(self.request_id, answer.clone(), answer.bytes()) {
            Err(SendError::Full) => {
                self.handle = Some(handle);
                Err(self)
            }
            // A connection that has ended needs no answer.
            Ok(()) | Err(SendError::Closed) => Ok(()),
        }
    }

    /// Whether the connection is open, so that an answer matters.
    pub fn is_wanted(&self) -> bool {
        self.handle.as_ref().is_some_and(Handle::is_open)
    }

    fn send_patiently(&mut self, answer: A) {
        let Some(handle) = self.handle.take() else { return };
        let (bytes, answer) = (answer.bytes(), Arc::new(answer));
        for _ in 0..HANDLE_RETRY_TIMES {
            if handle.reply(self.request_id, answer.clone(), bytes) != Err(SendError::Full) {
                return;
            }
            thread::sleep(Duration::from_millis(HANDLE_RETRY_MS));
        }
    }
}

impl<A: CallAnswer> Drop for Responder<A> {
    fn drop(&mut self) {
        // After an answer there is nothing to make another one for.
        if self.handle.is_some() {
            self.send_patiently(A::failed());
        }
    }
}
