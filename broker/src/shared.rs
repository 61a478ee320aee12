//! What every part of the broker holds: the store, the clocks, the registry of clients and subscriptions.

use std::sync::{Arc, OnceLock};

use base::{Clock, GroupName, TopicId, TopicName};
use storage::request::{AppendError, Done, Lane, Request};
use storage::threads::Store;
use storage::view::catalog::{GroupSpec, Topic, TopicKind, TopicSpec};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::checks::Elsewhere;
use crate::config::Config;
use crate::drain::Drain;
use crate::mailbox::{Mailbox, current_worker};
use crate::membership::Membership;
use crate::metrics::Messages;
use crate::peers::Peers;
use crate::refusal::Refusal;
use crate::subscription::room::Room;
use crate::subscription::task::Subscriptions;
use crate::subscription::{Alive, Now, Pair};

pub struct Shared {
    pub store: Store,
    pub config: Config,
    pub clock: Arc<dyn Clock>,
    pub membership: Membership,
    pub subscriptions: Subscriptions,
    /// Of all subscriptions.
    pub read_ahead: Room,
    pub messages: Messages,
    pub peers: Peers,
    pub drain: Drain,
    /// How producers that listen at other brokers are reached, once a gateway can.
    pub elsewhere: OnceLock<Arc<dyn Elsewhere>>,
    mailboxes: Vec<Arc<Mailbox>>,
    workers: Vec<Handle>,
}

impl Shared {
    pub fn new(
        store: Store,
        config: Config,
        clock: Arc<dyn Clock>,
        messages: Messages,
        workers: Vec<Handle>,
    ) -> Arc<Self> {
        assert!(!workers.is_empty(), "a broker has at least one worker");
        let mailboxes: Vec<Arc<Mailbox>> = workers.iter().map(|_| Arc::default()).collect();
        for (worker, mailbox) in workers.iter().zip(&mailboxes) {
            worker.spawn(mailbox.clone().run());
        }
        let peers = Peers::new(&config);
        let membership = Membership::new(clock.monotonic_ms());
        Arc::new(Self {
            store,
            config,
            clock,
            membership,
            subscriptions: Subscriptions::default(),
            read_ahead: Room::default(),
            messages,
            peers,
            drain: Drain::default(),
            elsewhere: OnceLock::new(),
            mailboxes,
            workers,
        })
    }

    pub fn now(&self) -> Now {
        Now { wall: self.clock.now(), tick: self.clock.monotonic_ms() }
    }

    /// Hands a request to the log writer now; the future waits for the answer.
    pub fn submit(&self, lane: Lane, request: Request) -> impl Future<Output = Result<Done, AppendError>> + use<> {
        let worker = current_worker().min(self.mailboxes.len() - 1);
        self.mailboxes[worker].submit(&self.store, lane, request)
    }

    /// A subscription lives on one worker, always the same for a pair.
    pub fn spawn_subscription(&self, pair: Pair, task: impl Future<Output = ()> + Send + 'static) {
        let number = u64::from(pair.group.0) * 31 + u64::from(pair.topic.0);
        let worker = usize::try_from(number % self.workers.len() as u64).expect("below the number of workers");
        self.workers[worker].spawn(task);
    }

    /// Starts a task that lives as long as the broker.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.workers[0].spawn(task)
    }

    pub fn topic(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.store.reader().catalog().topic(name).cloned()
    }

    pub fn group(&self, name: &GroupName) -> Option<Arc<GroupSpec>> {
        self.store.reader().catalog().group(name).cloned()
    }

    /// A topic that is not there yet, kept as the defaults say.
    pub fn new_topic(&self, name: TopicName, kind: TopicKind, queues: u16) -> TopicSpec {
        TopicSpec::new(name, kind, queues, self.clock.now())
    }

    pub async fn create_topic(&self, spec: TopicSpec) -> Result<(TopicSpec, bool), AppendError> {
        match self.submit(Lane::Request, Request::CreateTopic(spec)).await? {
            Done::Topic { spec, is_new } => Ok((spec, is_new)),
            other => unreachable!("a topic was asked for, not {other:?}"),
        }
    }

    pub async fn create_group(&self, spec: GroupSpec) -> Result<(GroupSpec, bool), AppendError> {
        match self.submit(Lane::Request, Request::CreateGroup(spec)).await? {
            Done::Group { spec, is_new } => Ok((spec, is_new)),
            other => unreachable!("a group was asked for, not {other:?}"),
        }
    }

    /// The topic that holds the dead letters of a group, made when it is needed first.
    pub async fn dead_letter_topic(&self, group: &GroupName) -> Result<TopicId, AppendError> {
        let name = TopicName::dead_letters_of(group);
        if let Some(topic) = self.topic(&name) {
            return Ok(topic.spec.id);
        }
        self.create_topic(self.new_topic(name, TopicKind::DeadLetter, 1)).await.map(|(spec, _)| spec.id)
    }
}

impl Alive for Shared {
    fn is_alive(&self, client: &str) -> bool {
        self.membership.is_alive(client, self.clock.monotonic_ms())
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// What the log's refusals mean to a caller.
pub fn store_refusal(error: &AppendError) -> Refusal {
    match error {
        AppendError::InboxFull { what, .. } => Refusal::Overloaded { limit: what },
        AppendError::TooLarge { size, max } => Refusal::FieldTooLarge { field: "request", size: *size, max: *max },
        AppendError::TopicGone(_) | AppendError::GroupGone(_) | AppendError::QueuesStay { .. } => Refusal::Gone,
        AppendError::DiskFull { free, reserve } => Refusal::DiskFull { free: *free, reserve: *reserve },
        AppendError::Overtaken { .. } => Refusal::Overloaded { limit: "changes of progress at a time" },
        AppendError::CatalogFull { what, .. } => Refusal::Overloaded { limit: what },
        AppendError::TransactionUnknown | AppendError::TransactionEndedAs(_) => {
            Refusal::InvalidTransaction { id: String::new(), problem: "is unknown or ended otherwise" }
        }
        AppendError::TimerUnknown => Refusal::NothingToRecall { problem: "was delivered already, or recalled" },
        AppendError::TimerUnreadable(error) => Refusal::Unreadable { what: "the timer", cause: error.to_string() },
        AppendError::Failed(failure) => Refusal::WritesDisabled { cause: failure.to_string() },
        AppendError::OutcomeUnknown { .. } => Refusal::WritesDisabled { cause: error.to_string() },
        AppendError::Closed => Refusal::Draining,
    }
}
