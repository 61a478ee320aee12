//! Answers of the log writer on their way to the calls that wait for them.
//!
//! The writer hands a whole group's answers to a network worker at once; one task there passes them on to its own calls.
//! So a group costs one wake-up across threads, not one for each request.
//!
//! The other way round likewise: a worker that has read a burst of requests hands all of them over before it wakes the
//! writer, so that they become one group and not a small one with everybody else waiting behind it. The writer is woken
//! when the worker has nothing more to do, or after [`SILENT_MAX`] requests; a writer at work looks by itself.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use parking_lot::Mutex;
use slab::Slab;
use storage::request::{Answer, AppendError, Done, Lane, ReplySink, ReplyTo, Request};
use storage::threads::Store;
use tokio::sync::{Notify, oneshot};

thread_local! {
    /// The network worker that this thread is; 0 for every other thread.
    static WORKER: Cell<usize> = const { Cell::new(0) };
    /// On a network worker: the store whose writer was given requests and not woken, and how many.
    static SILENT: RefCell<Option<Silent>> = const { RefCell::new(None) };
}

#[derive(Default)]
struct Silent {
    store: Option<Store>,
    requests: usize,
}

/// Requests that a worker hands over before it wakes the writer: about what is decoded while a small group is synced.
const SILENT_MAX: usize = 16;

/// Says that this thread is network worker `index`: what its calls are answered by comes back to it. Whoever says so calls
/// [`ring`] each time the thread is about to sleep.
pub fn enter_worker(index: usize) {
    WORKER.set(index);
    SILENT.set(Some(Silent::default()));
}

/// Wakes the writer for what this worker has handed over.
pub fn ring() {
    SILENT.with_borrow_mut(|silent| {
        if let Some(silent) = silent {
            silent.ring();
        }
    });
}

impl Silent {
    fn ring(&mut self) {
        self.requests = 0;
        if let Some(store) = self.store.take() {
            store.ring();
        }
    }
}

/// Hands a request over; the writer is woken now, or soon by this worker.
pub fn submit(store: &Store, lane: Lane, request: Request, reply: ReplyTo) -> Result<(), AppendError> {
    SILENT.with_borrow_mut(|silent| {
        let Some(silent) = silent else { return store.submit(lane, request, reply) };
        store.submit_silently(lane, request, reply)?;
        if silent.store.as_ref().is_none_or(|other| !other.is_same(store)) {
            silent.ring();
            silent.store = Some(store.clone());
        }
        silent.requests += 1;
        if silent.requests >= SILENT_MAX {
            silent.ring();
        }
        Ok(())
    })
}

/// The worker of this thread.
pub fn current_worker() -> usize {
    WORKER.get()
}

type Waiting = oneshot::Sender<Result<Done, AppendError>>;

/// The mailbox of one network worker.
#[derive(Debug, Default)]
pub struct Mailbox {
    /// Filled by the writer, emptied by the worker's task.
    arrived: Mutex<Vec<Answer>>,
    bell: Notify,
    /// A mutex, because calls of other threads (tests, the HTTP port) may use this worker's mailbox.
    waiting: Mutex<Slab<Waiting>>,
}

impl ReplySink for Mailbox {
    fn deliver(&self, answers: &mut Vec<Answer>) {
        let mut arrived = self.arrived.lock();
        let was_empty = arrived.is_empty();
        arrived.append(answers);
        drop(arrived);
        if was_empty {
            self.bell.notify_one();
        }
    }
}

impl Mailbox {
    /// Hands a request to the writer now; the future waits for its answer. Dropping the future changes nothing about the
    /// request.
    pub fn submit(
        self: &Arc<Self>,
        store: &Store,
        lane: Lane,
        request: Request,
    ) -> impl Future<Output = Result<Done, AppendError>> + use<> {
        let (sender, receiver) = oneshot::channel();
        let ticket = self.waiting.lock().insert(sender);
        let reply = ReplyTo { sink: self.clone(), ticket: ticket as u64 };
        let refused = submit(store, lane, request, reply).err();
        if refused.is_some() {
            self.waiting.lock().remove(ticket);
        }
        async move {
            match refused {
                Some(refused) => Err(refused),
                None => receiver.await.unwrap_or(Err(AppendError::Closed)),
            }
        }
    }

    /// Passes answers on for as long as the runtime lives.
    pub async fn run(self: Arc<Self>) {
        let mut answers = Vec::new();
        loop {
            self.bell.notified().await;
            std::mem::swap(&mut *self.arrived.lock(), &mut answers);
            let mut waiting = self.waiting.lock();
            for answer in answers.drain(..) {
                let ticket = usize::try_from(answer.ticket).expect("tickets are indexes of the slab");
                // A call that was cancelled no longer listens; its request is committed all the same.
                drop(waiting.remove(ticket).send(answer.result));
            }
        }
    }
}
