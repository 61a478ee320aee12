//! Drives one subscription: collects what happens, lets the core think, carries out what it says.

use std::sync::Arc;
use std::time::Duration;

use base::limits::SUBSCRIPTION_IDLE_MS;
use base::{GroupName, GroupOrder};
use hashbrown::HashMap;
use parking_lot::Mutex;
use storage::reads::{Fetched, Job};
use storage::record::Fact;
use storage::request::{Answer, AppendError, Change, Done, Lane, ReplySink, ReplyTo, Request};
use storage::view::catalog::{Topic, TopicKind};
use storage::watch::Watcher;
use tokio::sync::{Notify, oneshot};

use super::core::{Core, Counts};
use super::*;
use crate::filter::Filter;
use crate::mailbox;
use crate::shared::Shared;

/// What a poll is answered with.
#[derive(Debug)]
pub struct Delivered {
    /// Empty: nothing came in time.
    pub messages: Vec<Handout>,
    /// Of each message, if it was fetched ahead.
    pub bodies: Vec<Option<StoredMessage>>,
    /// How the others are to be read.
    pub urgency: Urgency,
    pub receipt: Option<Receipt>,
}

impl Delivered {
    fn nothing() -> Self {
        Self { messages: Vec::new(), bodies: Vec::new(), urgency: Urgency::Live, receipt: None }
    }
}

type PollReply = oneshot::Sender<Result<Delivered, Refusal>>;
type SettleReply = oneshot::Sender<Result<(), Refusal>>;

/// Where calls, the writer and the clock leave what they want of a subscription. A mutex, because calls come from every
/// worker; held for a push or a swap.
pub struct Inbox {
    pair: Pair,
    state: Mutex<State>,
    bell: Notify,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    polls: HashMap<PollId, PollReply>,
    settles: HashMap<SettleId, SettleReply>,
    next: u64,
    /// Its task has ended; calls start a new one.
    is_closed: bool,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("pair", &self.pair).finish_non_exhaustive()
    }
}

/// The subscription has just ended; ask for it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended;

impl Inbox {
    pub fn new(pair: Pair) -> Self {
        Self { pair, state: Mutex::default(), bell: Notify::new(), counts: Mutex::default() }
    }

    /// Parks a poll. Dropping what is returned cancels it.
    pub fn poll(self: &Arc<Self>, poll: Poll) -> Result<ParkedPoll, Ended> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(Ended);
        }
        state.next += 1;
        let id = state.next;
        state.polls.insert(id, sender);
        state.events.push(Event::Poll(id, poll));
        drop(state);
        self.bell.notify_one();
        Ok(ParkedPoll { inbox: self.clone(), id, receiver, is_answered: false })
    }

    pub fn settle(&self, settle: Settle) -> Result<oneshot::Receiver<Result<(), Refusal>>, Ended> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        if state.is_closed {
            return Err(Ended);
        }
        state.next += 1;
        let id = state.next;
        state.settles.insert(id, sender);
        state.events.push(Event::Settle(id, settle));
        drop(state);
        self.bell.notify_one();
        Ok(receiver)
    }

    /// Leaves an event; nothing when the task has ended, as nothing is out then.
    pub fn push(&self, event: Event) {
        let mut state = self.state.lock();
        if !state.is_closed {
            state.events.push(event);
            drop(state);
            self.bell.notify_one();
        }
    }

    pub fn counts(&self) -> Counts {
        *self.counts.lock()
    }

    fn take(&self, into: &mut Vec<Event>) {
        std::mem::swap(&mut self.state.lock().events, into);
    }

    /// Ends the inbox unless something has come.
    fn close_if_empty(&self) -> bool {
        let mut state = self.state.lock();
        state.is_closed = state.events.is_empty();
        state.is_closed
    }

    /// Ends the inbox; everybody who waits is told why.
    fn close(&self, refusal: &Refusal) {
        let mut state = self.state.lock();
        state.is_closed = true;
        state.events.clear();
        for (_, poll) in state.polls.drain() {
            drop(poll.send(Err(refusal.clone())));
        }
        for (_, settle) in state.settles.drain() {
            drop(settle.send(Err(refusal.clone())));
        }
    }
}

impl ReplySink for Inbox {
    fn deliver(&self, answers: &mut Vec<Answer>) {
        let mut state = self.state.lock();
        state.events.extend(answers.drain(..).map(|answer| Event::Answer(answer.ticket, answer.result)));
        drop(state);
        self.bell.notify_one();
    }
}

impl Watcher for Inbox {
    fn ring(&self) {
        let mut state = self.state.lock();
        // One ring is as good as many.
        if !state.is_closed && !matches!(state.events.last(), Some(Event::Ring)) {
            state.events.push(Event::Ring);
            drop(state);
            self.bell.notify_one();
        }
    }
}

/// A poll that waits.
#[derive(Debug)]
pub struct ParkedPoll {
    inbox: Arc<Inbox>,
    id: PollId,
    receiver: oneshot::Receiver<Result<Delivered, Refusal>>,
    is_answered: bool,
}

impl ParkedPoll {
    pub async fn answer(mut self) -> Result<Delivered, Refusal> {
        let answer = (&mut self.receiver).await;
        self.is_answered = true;
        answer.unwrap_or(Err(Refusal::Draining))
    }
}

impl Drop for ParkedPoll {
    fn drop(&mut self) {
        if !self.is_answered {
            self.inbox.state.lock().polls.remove(&self.id);
            self.inbox.push(Event::CancelPoll(self.id));
        }
    }
}

/// Says whether a reply was written to its end. Dropped without [`Receipt::written`], every message of it is taken back.
#[derive(Debug)]
pub struct Receipt {
    inbox: Arc<Inbox>,
    batch: u64,
    is_written: bool,
}

impl Receipt {
    /// The whole reply, end of stream included, was handed to the transport before the caller's deadline.
    pub fn written(mut self) {
        self.is_written = true;
    }

    /// Messages of the reply that cannot be delivered, ever.
    pub fn discard(&self, slots: Vec<Slot>) {
        self.inbox.push(Event::Discard(slots));
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if !self.is_written {
            self.inbox.push(Event::Unwritten(self.batch));
        }
    }
}

/// The subscriptions that have a task.
#[derive(Debug, Default)]
pub struct Subscriptions {
    /// A mutex, because every worker starts and finds subscriptions; held for a look-up.
    running: Mutex<HashMap<Pair, Arc<Inbox>>>,
    /// The next hand-out of subscriptions that ended: numbers are never used twice.
    ended: Mutex<HashMap<Pair, u64>>,
}

impl Subscriptions {
    pub fn get(&self, pair: Pair) -> Option<Arc<Inbox>> {
        self.running.lock().get(&pair).cloned()
    }

    /// The running subscription, or a new one.
    pub fn get_or_start(&self, shared: &Arc<Shared>, pair: Pair) -> Arc<Inbox> {
        let mut running = self.running.lock();
        if let Some(inbox) = running.get(&pair).filter(|inbox| !inbox.state.lock().is_closed) {
            return inbox.clone();
        }
        let inbox = Arc::new(Inbox::new(pair));
        running.insert(pair, inbox.clone());
        drop(running);
        shared.spawn_subscription(pair, run(shared.clone(), inbox.clone()));
        inbox
    }

    /// Messages that are handed out and not settled.
    pub fn in_flight(&self) -> u64 {
        self.running.lock().values().map(|inbox| inbox.counts().in_flight).sum()
    }

    /// Leaves an event at every subscription that `wanted` names.
    pub fn push_to(&self, mut wanted: impl FnMut(Pair) -> Option<Event>) {
        let running: Vec<(Pair, Arc<Inbox>)> = self.running.lock().iter().map(|(p, i)| (*p, i.clone())).collect();
        for (pair, inbox) in running {
            if let Some(event) = wanted(pair) {
                inbox.push(event);
            }
        }
    }

    /// Hand-outs of a term are numbered from its own range: 2⁴⁰ of them before the next term's begin.
    fn first_batch(&self, pair: Pair, term: base::Term) -> u64 {
        let of_term = term.0 << 40;
        let mut ended = self.ended.lock();
        let next = ended.entry(pair).or_default();
        let first = (*next).max(of_term + 1);
        // Should its task not come to say where it ended, these are gone.
        *next = first + (1 << 32);
        first
    }

    fn remove(&self, inbox: &Arc<Inbox>) {
        let mut running = self.running.lock();
        if running.get(&inbox.pair).is_some_and(|other| Arc::ptr_eq(other, inbox)) {
            running.remove(&inbox.pair);
        }
    }
}

/// The life of one subscription.
async fn run(shared: Arc<Shared>, inbox: Arc<Inbox>) {
    let end = End { shared: &shared, inbox: &inbox };
    let outcome = match begin(&shared, &inbox).await {
        Ok(mut driver) => {
            let outcome = driver.drive().await;
            shared.subscriptions.ended.lock().insert(inbox.pair, driver.core.next_batch());
            outcome
        }
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = outcome {
        inbox.close(&refusal);
    }
    drop(end);
}

/// However a subscription ends, by a panic too, nobody is left waiting for it, and the next call starts a new one.
struct End<'a> {
    shared: &'a Shared,
    inbox: &'a Arc<Inbox>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.inbox.close(&Refusal::Draining);
        self.shared.subscriptions.remove(self.inbox);
    }
}

struct Driver {
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    core: Core,
    group: GroupName,
    idle_since: u64,
}

/// Waits until everything written before is applied, makes sure the group is subscribed, and restores what is out.
async fn begin(shared: &Arc<Shared>, inbox: &Arc<Inbox>) -> Result<Driver, Refusal> {
    let pair = inbox.pair;
    shared.submit(Lane::Request, Request::Barrier).await.map_err(|e| crate::store_refusal(&e))?;
    let (topic, group) = {
        let catalog = shared.store.reader().catalog();
        let topic = catalog.topic_by_id(pair.topic).cloned().ok_or(Refusal::Draining)?;
        let group = catalog.group_by_id(pair.group).cloned().ok_or(Refusal::Draining)?;
        (topic, group)
    };
    let progress = shared.store.reader().progress(pair.group, pair.topic);
    let stored = progress.lock().filter.clone();
    let filter = match stored {
        Some(filter) => filter,
        None => {
            let filter = storage::record::FilterSpec { is_sql: false, expression: "*".into() };
            let start = start_of(&topic, group.created_at);
            let subscribe =
                Change::Fact(Fact::Subscribe { group: pair.group, topic: pair.topic, start, filter: filter.clone() });
            shared.submit(Lane::Request, Request::one(subscribe)).await.map_err(|e| crate::store_refusal(&e))?;
            tracing::info!(group = %group.name, topic = %topic.spec.name, "first contact of a group with a topic");
            filter
        }
    };
    let filter = Filter::of(&filter, shared.store.reader().hash_key());
    let settings = settings_of(shared, &group, &topic);
    let name = group.name.clone();
    let watcher: Arc<dyn Watcher> = inbox.clone();
    topic.watchers.add(&watcher);
    let first_batch = shared.subscriptions.first_batch(pair, shared.store.reader().term());
    let source = Queues { topic, hash_key: *shared.store.reader().hash_key() };
    let mut core = Core::new(pair, settings, filter, Box::new(source), progress, first_batch, shared.now());
    core.read_ahead_within(shared.read_ahead.clone());
    let idle_since = shared.now().tick;
    Ok(Driver { shared: shared.clone(), inbox: inbox.clone(), core, group: name, idle_since })
}

/// Where a group starts: behind everything that was there when it was created. Dead letters are read from the first.
pub fn start_of(topic: &Topic, created_at: Timestamp) -> Vec<(QueueIndex, QueueOffset)> {
    let from = if topic.spec.kind == TopicKind::DeadLetter { Timestamp::ZERO } else { created_at };
    let queues = topic.queues.iter().enumerate();
    let index = |number: usize| QueueIndex(u16::try_from(number).expect("topics have at most 1,024 queues"));
    queues.map(|(number, queue)| (index(number), queue.offset_at(from))).collect()
}

/// What a group's settings mean on a topic.
pub fn settings_of(shared: &Shared, group: &storage::view::catalog::GroupSpec, topic: &Topic) -> Settings {
    Settings {
        is_ordered: is_ordered(group.order, topic.spec.kind),
        attempts_max: group.attempts_max,
        backoff: group.backoff.clone(),
        invisible: group.invisible,
        in_flight_max: shared.config.groups.in_flight_max,
    }
}

/// Whether a group consumes a topic in order.
pub fn is_ordered(order: GroupOrder, kind: TopicKind) -> bool {
    match order {
        GroupOrder::Auto => kind == TopicKind::Fifo,
        GroupOrder::Always => !matches!(kind, TopicKind::DeadLetter),
        GroupOrder::Never => false,
    }
}

impl Driver {
    async fn drive(&mut self) -> Result<(), Refusal> {
        let mut events = Vec::new();
        loop {
            self.inbox.take(&mut events);
            let now = self.shared.now();
            let mut gone = None;
            for event in events.drain(..) {
                if let Event::Answer(_, Err(AppendError::TopicGone(_) | AppendError::GroupGone(_))) = &event {
                    gone = Some(Refusal::Gone);
                }
                self.core.handle(event, now);
            }
            self.core.warm_from(self.shared.store.reader().warm_from());
            let effects = self.core.finish(now, &*self.shared);
            let must_go_on = self.carry_out(effects).await;
            *self.inbox.counts.lock() = self.core.counts();
            if let Some(refusal) = gone {
                return Err(refusal);
            }
            if must_go_on {
                continue;
            }
            if self.may_end() && self.inbox.close_if_empty() {
                return Ok(());
            }
            self.wait().await;
        }
    }

    fn may_end(&mut self) -> bool {
        let tick = self.shared.now().tick;
        if !self.core.is_idle() {
            self.idle_since = tick;
        }
        tick >= self.idle_since + SUBSCRIPTION_IDLE_MS
    }

    async fn wait(&self) {
        let tick = self.shared.now().tick;
        let idle_end = self.idle_since + SUBSCRIPTION_IDLE_MS;
        let wake =
            self.core.next_wake().map_or(idle_end, |wake| if self.core.is_idle() { wake.min(idle_end) } else { wake });
        let patience = Duration::from_millis(wake.saturating_sub(tick));
        // Time running out is as good a reason to look as any other.
        drop(tokio::time::timeout(patience, self.inbox.bell.notified()).await);
    }

    /// True when there is something new for the core already.
    async fn carry_out(&mut self, effects: Vec<Effect>) -> bool {
        let mut must_go_on = false;
        for effect in effects {
            match effect {
                Effect::Deliver { poll, batch, messages, bodies, urgency } => {
                    let receipt = Some(Receipt { inbox: self.inbox.clone(), batch, is_written: false });
                    self.answer_poll(poll, Ok(Delivered { messages, bodies, urgency, receipt }));
                }
                Effect::Fetch { ticket, urgency, pointers } => self.fetch(ticket, urgency, pointers),
                Effect::Empty { poll } => {
                    self.answer_poll(poll, Ok(Delivered::nothing()));
                }
                Effect::Refuse { poll, refusal } => self.answer_poll(poll, Err(refusal)),
                Effect::Settled { settle, result } => {
                    let reply = self.inbox.state.lock().settles.remove(&settle);
                    if let Some(reply) = reply {
                        drop(reply.send(result));
                    }
                }
                Effect::Append { ticket, changes } => self.append(ticket, changes),
                Effect::Seen(reply, seen) => drop(reply.send(seen)),
                Effect::NeedDeadLetterTopic => {
                    let topic = self.shared.dead_letter_topic(&self.group).await;
                    self.core.dead_letter_topic(topic, self.shared.now());
                    must_go_on = true;
                }
            }
        }
        must_go_on
    }

    fn fetch(&self, ticket: Ticket, urgency: Urgency, pointers: Vec<Pointer>) {
        let inbox = self.inbox.clone();
        let done = move |fetched: Fetched| {
            // What cannot be read is read again, and judged, when it is handed out.
            inbox.push(Event::Fetched(ticket, fetched.into_iter().map(Result::ok).collect()));
        };
        let job = Job { asker: self.inbox.pair.asker(), urgency, pointers, done: Box::new(done) };
        if !self.shared.store.fetch_later(job) {
            self.inbox.push(Event::Fetched(ticket, Vec::new()));
        }
    }

    /// Nobody waits any more: what was for the poll is dropped, and with it the receipt, which takes its messages back.
    fn answer_poll(&self, poll: PollId, answer: Result<Delivered, Refusal>) {
        let reply = self.inbox.state.lock().polls.remove(&poll);
        if let Some(reply) = reply {
            drop(reply.send(answer));
        }
    }

    fn append(&self, ticket: Ticket, changes: Vec<Change>) {
        let reply = ReplyTo { sink: self.inbox.clone(), ticket };
        let request = Request::Changes(changes.into());
        if let Err(refused) = mailbox::submit(&self.shared.store, Lane::Request, request, reply) {
            let result: Result<Done, AppendError> = Err(refused);
            self.inbox.push(Event::Answer(ticket, result));
        }
    }
}
