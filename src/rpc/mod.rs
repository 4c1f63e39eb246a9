//! JSON-RPC 2.0 over a Unix stream socket: how operators reach the control plane.
//!
//! Owns the socket and one blocking thread per client; all state is [`Control`]'s, on the control
//! thread, to which a client's thread sends each request. Methods, results and their order of
//! members are those of SPDK where SPDK has the method, so its client and monitors work unchanged.
//!
//! A client can send anything and stop anywhere: requests, answers, clients and the time for a
//! write are bounded, and a client harms only its own connection. Nothing here runs on a core.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use serde_json::value::RawValue;

use crate::control::{Control, ControlThread, Post};

mod change;
pub mod dispatch;
mod documents;
pub mod error;
pub mod load;
pub mod methods;
pub mod params;
mod schema;
mod server;
mod socket;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use documents::{DOCUMENT_BYTES_MAX, Documents, Next};
pub use error::RpcError;
pub use server::Server;
pub use socket::BindError;

/// Code of an answer that a request does not get any more, because the target stops.
const STOPPING: i32 = -108;

/// Code of the answer to a request that met a bug of the target (JSON-RPC's "Internal error").
const INTERNAL_ERROR: i32 = -32603;

/// The control plane as the threads of all clients see it.
pub struct Shared {
    /// `None`: somebody else has the thread.
    thread: Option<ControlThread>,
    post: Post,
    unanswered: Mutex<Unanswered>,
}

/// Requests that the control thread has not answered.
#[derive(Default)]
struct Unanswered {
    next: u64,
    clients: BTreeMap<u64, mpsc::Sender<Option<methods::Outcome>>>,
    given_up: bool,
}

impl Shared {
    /// Clients of a control thread that somebody else ends.
    pub fn new(post: Post) -> Self {
        Shared { thread: None, post, unanswered: Mutex::default() }
    }

    /// Starts a control thread that ends with the last client.
    ///
    /// Fails when the system has no thread to give.
    pub fn start(
        control: Control,
        post: Post,
        inbox: mpsc::Receiver<crate::control::Mail>,
    ) -> std::io::Result<Self> {
        let thread = ControlThread::start(control, post.clone(), inbox)?;
        Ok(Shared { thread: Some(thread), ..Shared::new(post) })
    }

    /// The way to the control thread.
    pub fn post(&self) -> &Post {
        &self.post
    }

    /// Runs a method on the control thread and waits for its result.
    pub fn call(&self, method: &str, params: Option<&RawValue>) -> methods::Outcome {
        let (sender, answer) = mpsc::channel();
        let number = {
            let mut unanswered = self.unanswered();
            if unanswered.given_up {
                return Err(stopping());
            }
            unanswered.next += 1;
            let number = unanswered.next;
            unanswered.clients.insert(number, sender.clone());
            number
        };
        let reply = Reply(sender);
        let (method, params) = (method.to_owned(), params.map(ToOwned::to_owned));
        self.post.begin(
            |desk| async move { methods::call(&desk, &method, params.as_deref()).await },
            move |outcome| drop(reply.0.send(Some(outcome))),
        );
        let answer = answer.recv();
        self.unanswered().clients.remove(&number);
        match answer {
            Ok(Some(outcome)) => outcome,
            Ok(None) if self.unanswered().given_up => Err(stopping()),
            _ => Err(RpcError {
                code: INTERNAL_ERROR,
                message: "Internal error: the method failed; the log says where".to_owned(),
            }),
        }
    }

    /// Ends all waiting for changes, now and later.
    pub fn stop_waiting(&self) {
        self.post.begin(|desk| async move { desk.stop_waiting() }, drop);
    }

    /// Answers every request that has no answer yet, and all later ones, with an error that says
    /// that the target stops. What they began goes on. Does not need the control thread.
    fn give_up(&self) {
        let mut unanswered = self.unanswered();
        unanswered.given_up = true;
        for client in unanswered.clients.values() {
            // It may be reading another answer just now.
            let _ = client.send(None);
        }
    }

    fn unanswered(&self) -> MutexGuard<'_, Unanswered> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("own_thread", &self.thread.is_some()).finish()
    }
}

/// Says that there will be no answer when it is dropped without one: the method has panicked.
struct Reply(mpsc::Sender<Option<methods::Outcome>>);

impl Drop for Reply {
    fn drop(&mut self) {
        // Nobody reads it after an answer.
        let _ = self.0.send(None);
    }
}

fn stopping() -> RpcError {
    RpcError {
        code: STOPPING,
        message: "Cannot send after transport endpoint shutdown: the target stops".to_owned(),
    }
}
