//! Topics and groups are made, changed and dropped: by those who ask this store, and as other brokers have it.
//!
//! N1. What is said about a name is newer than all that was said before: the clock may be set back, `changed_at` is not.
//! N2. Of another broker nothing is taken over that is older than what is known here.

use base::limits::{GROUPS_MAX, TOPICS_MAX};
use base::{GroupId, GroupName, QueueOffset, Timestamp, TopicId, TopicName};

use super::Sequencer;
use crate::record::Record;
use crate::request::{AppendError, TopicChange};
use crate::view::catalog::{GroupSpec, TopicKind, TopicSpec};

/// What is there then, and the record that makes it so; none when it is so already.
type Made<T> = Result<(T, Option<Record>), AppendError>;

impl Sequencer {
    /// The topic of that name, or the record that makes it.
    pub fn create_topic(&mut self, mut spec: TopicSpec) -> Made<TopicSpec> {
        if let Some(existing) = self.topic_named(&spec.name) {
            return Ok((existing, None));
        }
        let buried = self.topic_buried(&spec.name, spec.kind);
        spec.changed_at = after(buried, spec.changed_at);
        self.make_topic(spec)
    }

    /// The topic as it will be, and the record that makes it so; none when it is so already.
    pub fn change_topic(&mut self, id: TopicId, change: TopicChange, now: Timestamp) -> Made<TopicSpec> {
        let before = self.topic_with(id)?;
        let queues = change.queues.unwrap_or(before.queues);
        if queues < before.queues || (queues > before.queues && before.kind.has_fixed_queues()) {
            return Err(AppendError::QueuesStay { topic: id, queues: before.queues, asked: queues });
        }
        let spec = TopicSpec {
            queues,
            retention: change.retention.unwrap_or(before.retention),
            retention_bytes: change.retention_bytes.unwrap_or(before.retention_bytes),
            ..before.clone()
        };
        if spec == before {
            return Ok((spec, None));
        }
        let changed_at = after(Some(before.changed_at), now);
        self.alter_topic(TopicSpec { changed_at, ..spec })
    }

    pub fn drop_topic(&mut self, id: TopicId, now: Timestamp) -> Result<Record, AppendError> {
        let before = self.topic_with(id)?;
        let changed_at = after(Some(before.changed_at), now);
        Ok(self.bury_topic(TopicSpec { changed_at, ..before }))
    }

    /// As another broker has it; its id means nothing here. What is not as new as what is known, and a topic of another
    /// kind, leave what is there.
    pub fn adopt_topic(&mut self, theirs: TopicSpec) -> Made<TopicSpec> {
        let ours = self.topic_named(&theirs.name);
        // What was dropped elsewhere as another kind is remembered beside what is here.
        let Some(ours) = ours.filter(|ours| ours.kind == theirs.kind || !theirs.is_dropped) else {
            if self.topic_buried(&theirs.name, theirs.kind).is_some_and(|buried| buried >= theirs.changed_at) {
                return Ok((theirs, None));
            }
            if !theirs.is_dropped {
                return self.make_topic(theirs);
            }
            // It was never here, and shall not come with a broker that was away either.
            let id = self.give_topic()?;
            let spec = TopicSpec { id, ..theirs };
            return Ok((spec.clone(), Some(self.bury_topic(spec))));
        };
        if ours.kind != theirs.kind || ours.changed_at > theirs.changed_at {
            return Ok((ours, None));
        }
        if theirs.is_dropped {
            let spec = TopicSpec { changed_at: theirs.changed_at, ..ours };
            return Ok((spec.clone(), Some(self.bury_topic(spec))));
        }
        let queues = if ours.kind.has_fixed_queues() { ours.queues } else { theirs.queues.max(ours.queues) };
        let spec = TopicSpec { id: ours.id, queues, ..theirs };
        if spec == ours { Ok((ours, None)) } else { self.alter_topic(spec) }
    }

    pub fn create_group(&mut self, mut spec: GroupSpec) -> Made<GroupSpec> {
        if let Some(existing) = self.group_named(&spec.name) {
            return Ok((existing, None));
        }
        spec.changed_at = after(self.group_buried(&spec.name), spec.changed_at);
        self.make_group(spec)
    }

    pub fn drop_group(&mut self, id: GroupId, now: Timestamp) -> Result<Record, AppendError> {
        self.check_group(id)?;
        let catalog = self.catalog.load();
        let stored = catalog.group_by_id(id).ok_or(AppendError::GroupGone(id))?;
        let before = self.changed_groups.get(&id).unwrap_or(stored).clone();
        let changed_at = after(Some(before.changed_at), now);
        Ok(self.bury_group(GroupSpec { changed_at, ..before }))
    }

    /// As [`Sequencer::adopt_topic`].
    pub fn adopt_group(&mut self, theirs: GroupSpec) -> Made<GroupSpec> {
        let Some(ours) = self.group_named(&theirs.name) else {
            if self.group_buried(&theirs.name).is_some_and(|buried| buried >= theirs.changed_at) {
                return Ok((theirs, None));
            }
            if !theirs.is_dropped {
                return self.make_group(theirs);
            }
            let id = self.give_group()?;
            let spec = GroupSpec { id, ..theirs };
            return Ok((spec.clone(), Some(self.bury_group(spec))));
        };
        if ours.changed_at > theirs.changed_at {
            return Ok((ours, None));
        }
        let spec = GroupSpec { id: ours.id, ..theirs };
        if spec.is_dropped {
            return Ok((spec.clone(), Some(self.bury_group(spec))));
        }
        if spec == ours {
            return Ok((ours, None));
        }
        match self.new_groups.get_mut(&spec.name).filter(|new| new.id == spec.id) {
            Some(new) => new.clone_from(&spec),
            None => drop(self.changed_groups.insert(spec.id, spec.clone())),
        }
        Ok((spec.clone(), Some(Record::Group(spec))))
    }

    /// As it will be when this group is applied. One that was dropped in this group may have been made anew in it.
    fn topic_named(&self, name: &TopicName) -> Option<TopicSpec> {
        let catalog = self.catalog.load();
        let stored = catalog.topic(name).map(|topic| &topic.spec);
        let stored = stored.filter(|stored| !self.dropped_topics.contains(&stored.id));
        let stored = stored.map(|stored| self.changed_topics.get(&stored.id).unwrap_or(stored));
        stored.or_else(|| self.new_topics.get(name)).cloned()
    }

    /// As [`Sequencer::topic_named`], but for one that is new in this group: nobody knows its id yet.
    fn topic_with(&self, id: TopicId) -> Result<TopicSpec, AppendError> {
        self.check_topic(id)?;
        let catalog = self.catalog.load();
        let stored = catalog.topic_by_id(id).ok_or(AppendError::TopicGone(id))?;
        Ok(self.changed_topics.get(&id).unwrap_or(&stored.spec).clone())
    }

    fn topic_buried(&self, name: &TopicName, kind: TopicKind) -> Option<Timestamp> {
        let here = self.buried_topics.get(&(name.clone(), kind)).copied();
        here.max(self.catalog.load().topic_buried(name, kind))
    }

    fn give_topic(&mut self) -> Result<TopicId, AppendError> {
        let next = self.catalog.load().next_topic().0 + self.given.0;
        if next as usize >= TOPICS_MAX {
            return Err(AppendError::CatalogFull { what: "topics", max: TOPICS_MAX });
        }
        self.given.0 += 1;
        Ok(TopicId(next))
    }

    fn make_topic(&mut self, mut spec: TopicSpec) -> Made<TopicSpec> {
        spec.id = self.give_topic()?;
        self.new_topics.insert(spec.name.clone(), spec.clone());
        Ok((spec.clone(), Some(Record::Topic(spec))))
    }

    fn alter_topic(&mut self, spec: TopicSpec) -> Made<TopicSpec> {
        match self.new_topics.get_mut(&spec.name).filter(|new| new.id == spec.id) {
            Some(new) => new.clone_from(&spec),
            None => {
                // What follows in this group may go to the new queues: the record that makes them is before it.
                self.tail(spec.id)?.next.resize(usize::from(spec.queues), QueueOffset(0));
                self.changed_topics.insert(spec.id, spec.clone());
            }
        }
        Ok((spec.clone(), Some(Record::Topic(spec))))
    }

    fn bury_topic(&mut self, spec: TopicSpec) -> Record {
        self.dropped_topics.insert(spec.id);
        if self.new_topics.get(&spec.name).is_some_and(|new| new.id == spec.id) {
            self.new_topics.remove(&spec.name);
        }
        self.buried_topics.insert((spec.name.clone(), spec.kind), spec.changed_at);
        Record::Topic(TopicSpec { is_dropped: true, ..spec })
    }

    fn group_named(&self, name: &GroupName) -> Option<GroupSpec> {
        let catalog = self.catalog.load();
        let stored = catalog.group(name).filter(|stored| !self.dropped_groups.contains(&stored.id));
        let stored = stored.map(|stored| self.changed_groups.get(&stored.id).unwrap_or(stored));
        stored.or_else(|| self.new_groups.get(name)).cloned()
    }

    fn group_buried(&self, name: &GroupName) -> Option<Timestamp> {
        self.buried_groups.get(name).copied().max(self.catalog.load().group_buried(name))
    }

    fn give_group(&mut self) -> Result<GroupId, AppendError> {
        let next = self.catalog.load().next_group().0 + self.given.1;
        if next as usize >= GROUPS_MAX {
            return Err(AppendError::CatalogFull { what: "groups", max: GROUPS_MAX });
        }
        self.given.1 += 1;
        Ok(GroupId(next))
    }

    fn make_group(&mut self, mut spec: GroupSpec) -> Made<GroupSpec> {
        spec.id = self.give_group()?;
        self.new_groups.insert(spec.name.clone(), spec.clone());
        Ok((spec.clone(), Some(Record::Group(spec))))
    }

    fn bury_group(&mut self, spec: GroupSpec) -> Record {
        self.dropped_groups.insert(spec.id);
        if self.new_groups.get(&spec.name).is_some_and(|new| new.id == spec.id) {
            self.new_groups.remove(&spec.name);
        }
        self.buried_groups.insert(spec.name.clone(), spec.changed_at);
        Record::Group(GroupSpec { is_dropped: true, ..spec })
    }
}

/// N1.
fn after(known: Option<Timestamp>, now: Timestamp) -> Timestamp {
    known.map_or(now, |known| now.max(known.plus_ms(1)))
}
