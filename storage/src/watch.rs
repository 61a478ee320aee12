//! Who wants to know that a topic has new messages. Rung once per committed group, and only for those who are waiting.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Told that something happened; must return at once.
pub trait Watcher: Send + Sync + std::fmt::Debug {
    fn ring(&self);
}

/// The watchers of one topic. A mutex, because subscriptions come and go on their own tasks while the writer rings.
#[derive(Debug, Default)]
pub struct Watchers {
    list: Mutex<Vec<Weak<dyn Watcher>>>,
}

impl Watchers {
    /// Watches for as long as `watcher` lives.
    pub fn add(&self, watcher: &Arc<dyn Watcher>) {
        self.list.lock().push(Arc::downgrade(watcher));
    }

    pub(crate) fn ring(&self) {
        self.list.lock().retain(|watcher| match watcher.upgrade() {
            Some(watcher) => {
                watcher.ring();
                true
            }
            None => false,
        });
    }
}
