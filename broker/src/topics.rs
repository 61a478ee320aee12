//! Topics as operators set them: made, changed, and how long what they hold is kept.

use std::time::Duration;

use base::duration::ms;
use base::limits::*;
use base::{ByteSize, Timestamp, TopicName, duration};
use storage::request::{AppendError, Done, Lane, Request, TopicChange};
use storage::upkeep::Policy;
use storage::view::catalog::{Topic, TopicKind, TopicSpec};

use crate::admin::{AdminRefusal, Created, NewTopic, Retention, TopicChanges, TopicDescription, TopicType};
use crate::broker::Broker;
use crate::operate::topic_type;
use crate::shared::{Shared, store_refusal};

/// Groups whose unread messages are counted for a warning.
const WARNED_GROUPS_MAX: usize = 1000;

impl Shared {
    pub fn describe_retention(&self, spec: &TopicSpec) -> Retention {
        let time = self.policy().time_of(spec);
        Retention { time, is_time_default: spec.retention.is_none(), bytes: spec.retention_bytes }
    }

    pub fn policy(&self) -> Policy {
        crate::server::policy(&self.config.storage)
    }

    /// What an operator who sets this retention should know.
    fn warnings(&self, topic: &Topic, now: Timestamp) -> Vec<String> {
        let mut warnings = Vec::new();
        let time = self.policy().time_of(&topic.spec);
        if topic.spec.retention_bytes.is_some() && !self.config.storage.retention_size_first {
            warnings.push(format!(
                "retention.size takes nothing that is younger than {}, since storage.retention_size_first is false",
                duration::format(time)
            ));
        }
        let oldest = Timestamp(now.0.saturating_sub(ms(time)));
        let below: Vec<_> = topic.queues.iter().map(|queue| (queue.id().queue, queue.offset_at(oldest))).collect();
        let reader = self.store.reader();
        let catalog = reader.catalog();
        for group in catalog.groups().take(WARNED_GROUPS_MAX) {
            let Some(progress) = reader.progress_if_any(group.id, topic.spec.id) else { continue };
            let progress = progress.lock();
            let unread: u64 = below.iter().map(|(queue, below)| progress.unread_below(*queue, *below)).sum();
            if unread > 0 {
                warnings.push(format!(
                    "{unread} messages that group {} has not read are older than {} and go",
                    group.name,
                    duration::format(time)
                ));
            }
        }
        warnings
    }
}

impl Broker {
    pub async fn create_topic(&self, new: NewTopic) -> Result<(Created, TopicDescription), AdminRefusal> {
        let name = TopicName::parse(&new.name).map_err(AdminRefusal::IllegalName)?;
        if name.is_derived() {
            let problem = "starts with %DLQ% or %RETRY%: such topics are made by the server";
            return Err(AdminRefusal::IllegalValue { field: "name", value: new.name, problem });
        }
        check_queues(new.queues)?;
        check_retention(new.retention, new.retention_bytes)?;
        let kind = topic_kind(new.topic_type);
        self.shared().check_place(&name)?;
        self.shared().adopt_topic(&name).await;
        let asked = TopicSpec {
            retention: new.retention,
            retention_bytes: new.retention_bytes,
            ..self.shared().new_topic(name.clone(), kind, new.queues)
        };
        let created = self.shared().create_topic(asked.clone()).await;
        let (spec, is_new) = created.map_err(|error| AdminRefusal::Refused(store_refusal(&error)))?;
        check_same_topic(&new, &asked, &spec)?;
        let pending_on = self.shared().spread_topic(&spec).await;
        let description = TopicDescription { pending_on, ..self.describe_topic(name.as_str())? };
        Ok((if is_new { Created::New } else { Created::Already }, description))
    }

    /// The topic as it is then, and what its operator should know about the change.
    pub async fn change_topic(
        &self,
        name: &str,
        changes: TopicChanges,
    ) -> Result<(TopicDescription, Vec<String>), AdminRefusal> {
        let topic = self.shared().topic_to_operate(name)?;
        if let Some(queues) = changes.queues {
            check_queues(queues)?;
            check_growth(&topic.spec, queues)?;
        }
        check_retention(changes.retention.flatten(), changes.retention_bytes.flatten())?;
        let TopicChanges { queues, retention, retention_bytes } = changes;
        let request = Request::ChangeTopic(topic.spec.id, TopicChange { queues, retention, retention_bytes });
        let spec = match self.shared().submit(Lane::Request, request).await {
            Ok(Done::Topic { spec, .. }) => spec,
            Ok(other) => unreachable!("a topic was changed, not {other:?}"),
            Err(AppendError::QueuesStay { queues, asked, .. }) => {
                // Somebody else was faster.
                check_growth(&TopicSpec { queues, ..topic.spec.clone() }, asked)?;
                return Err(AdminRefusal::TopicNotFound(topic.spec.name.clone()));
            }
            Err(error) => return Err(AdminRefusal::Refused(store_refusal(&error))),
        };
        let topic = self.shared().topic_to_operate(name)?;
        if changes.queues.is_some() {
            self.shared().queues_changed(&spec.name);
        }
        let warnings = self.shared().warnings(&topic, self.shared().clock.now());
        let pending_on = self.shared().spread_topic(&spec).await;
        let copies = self.shared().peers.copies(&topic.spec);
        Ok((TopicDescription { copies, pending_on, ..self.shared().describe_topic(&topic) }, warnings))
    }
}

fn topic_kind(topic_type: TopicType) -> TopicKind {
    match topic_type {
        TopicType::Normal => TopicKind::Normal,
        TopicType::Fifo => TopicKind::Fifo,
        TopicType::Delay => TopicKind::Delay,
        TopicType::Transaction => TopicKind::Transaction,
        TopicType::Lite => TopicKind::Lite,
        TopicType::Priority => TopicKind::Priority,
        TopicType::Mixed => TopicKind::Mixed,
    }
}

fn check_queues(queues: u16) -> Result<(), AdminRefusal> {
    match queues {
        1..=TOPIC_QUEUES_MAX => Ok(()),
        _ => {
            let (value, max) = (queues.into(), TOPIC_QUEUES_MAX.into());
            Err(AdminRefusal::OutOfRange { field: "queues", value, min: 1, max })
        }
    }
}

fn check_growth(spec: &TopicSpec, queues: u16) -> Result<(), AdminRefusal> {
    let (value, max) = (queues.into(), u64::from(TOPIC_QUEUES_MAX));
    if queues < spec.queues {
        return Err(AdminRefusal::OutOfRange { field: "queues", value, min: spec.queues.into(), max });
    }
    if queues > spec.queues && spec.kind.has_fixed_queues() {
        let problem = "cannot be changed on this topic: which queue a message group is in follows from their number";
        return Err(AdminRefusal::IllegalValue { field: "queues", value: queues.to_string(), problem });
    }
    Ok(())
}

fn check_retention(time: Option<Duration>, bytes: Option<u64>) -> Result<(), AdminRefusal> {
    if let Some(time) = time.map(ms).filter(|time| !(RETENTION_MS_MIN..=RETENTION_MS_MAX).contains(time)) {
        let (min, max) = (RETENTION_MS_MIN, RETENTION_MS_MAX);
        return Err(AdminRefusal::OutOfRange { field: "retention.time, in ms,", value: time, min, max });
    }
    if let Some(value) = bytes.filter(|bytes| !(RETENTION_BYTES_MIN..=RETENTION_BYTES_MAX).contains(bytes)) {
        let (min, max) = (RETENTION_BYTES_MIN, RETENTION_BYTES_MAX);
        return Err(AdminRefusal::OutOfRange { field: "retention.size", value, min, max });
    }
    Ok(())
}

/// Creating what exists succeeds when everything that was asked for is as it is.
fn check_same_topic(new: &NewTopic, asked: &TopicSpec, existing: &TopicSpec) -> Result<(), AdminRefusal> {
    let differs = |field, existing: String, asked: String| AdminRefusal::ExistsWithOtherSettings {
        what: "topic",
        name: new.name.clone(),
        field,
        existing,
        asked,
    };
    if existing.kind != asked.kind {
        let word = |kind| format!("{:?}", topic_type(kind)).to_lowercase();
        return Err(differs("type", word(existing.kind), word(asked.kind)));
    }
    if existing.queues != asked.queues {
        return Err(differs("number of queues", existing.queues.to_string(), asked.queues.to_string()));
    }
    if new.retention.is_some() && existing.retention != asked.retention {
        let word = |time: Option<Duration>| time.map_or("the default".into(), duration::format);
        return Err(differs("retention.time", word(existing.retention), word(asked.retention)));
    }
    if new.retention_bytes.is_some() && existing.retention_bytes != asked.retention_bytes {
        let word = |bytes: Option<u64>| bytes.map_or("unlimited".into(), |bytes| ByteSize(bytes).to_string());
        return Err(differs("retention.size", word(existing.retention_bytes), word(asked.retention_bytes)));
    }
    Ok(())
}
