//! What lies beside the log: index files and checkpoints, and what is left when no checkpoint is.

use storage::disk::Disk;
use storage::salvage::{self, KeyRemains, Remains};
use storage::verify::{self, Files};

use super::{Finding, Level, Remedy};

pub fn look(disk: &dyn Disk) -> Result<Files, storage::log::recovery::OpenError> {
    verify::beside(disk)
}

pub fn finding(beside: &Files) -> Finding {
    const CHECK: &str = "checkpoints";
    if let Some(refusal) = &beside.refusal {
        return Finding::new(CHECK, Level::Critical, format!("a server does not start with it: {refusal}"));
    }
    let is_damaged = |file: &&verify::File| file.finding.is_damage();
    let damaged: Vec<&str> = beside.files.iter().filter(is_damaged).map(|file| file.name.as_str()).collect();
    let strays = beside.strays();
    let sound = match beside.checkpoint {
        Some(number) => format!("checkpoint {number}, {} files beside the log", beside.files.len()),
        None => "no checkpoint; a start reads the whole log".into(),
    };
    let mut detail = sound;
    if !damaged.is_empty() {
        detail += &format!("; damaged, and can be made anew without a loss: {}", damaged.join(", "));
    }
    if !strays.is_empty() {
        detail += &format!("; no checkpoint names: {}", strays.join(", "));
    }
    let is_well = damaged.is_empty() && strays.is_empty();
    let level = if damaged.is_empty() { Level::Ok } else { Level::Warning };
    Finding { remedy: (!is_well).then_some(Remedy::Tend), ..Finding::new(CHECK, level, detail) }
}

/// A store that does not start, and with what it could.
pub fn remains(disk: &dyn Disk, beside: &Files) -> Finding {
    let refusal = beside.refusal.clone().unwrap_or_default();
    let refusal = format!("a server does not start with it: {refusal}");
    match salvage::look(disk) {
        Ok(remains) => {
            let detail = format!("{refusal}; {}", text(&remains));
            let remedy = Some(Remedy::BeginAnew(Box::new(remains)));
            Finding { remedy, ..Finding::new("store", Level::Critical, detail) }
        }
        Err(error) => Finding::new("store", Level::Critical, format!("{refusal}; nothing can be made of it: {error}")),
    }
}

fn text(remains: &Remains) -> String {
    let mut parts = Vec::new();
    let end = remains.segments.last().map_or(remains.begins(), |last| last.end());
    parts.push(format!(
        "left: {} segments from {} to {end} with {} batches and {} messages",
        remains.segments.len(),
        remains.begins(),
        remains.batches,
        remains.messages
    ));
    if remains.without_body > 0 {
        parts.push(format!("{} of the messages have no body any more", remains.without_body));
    }
    let missing: Vec<_> = remains.missing.iter().map(|gone| format!("{}..{}", gone.start, gone.end)).collect();
    parts.push(format!("expired or lost: {}", missing.join(", ")));
    let (known, orphaned): (Vec<_>, Vec<_>) = remains.topics.iter().partition(|(_, topic)| topic.spec.is_some());
    let messages =
        |(id, topic): &(_, &salvage::TopicRemains)| format!("{} ({} messages)", remains.name_of(*id), topic.messages);
    parts.push(format!("topics: {}", listed(known.iter().map(|(id, topic)| messages(&(**id, topic))))));
    if !orphaned.is_empty() {
        let called = orphaned.iter().map(|(id, topic)| format!("number {id} would be {}", messages(&(**id, topic))));
        parts.push(format!("orphaned topics, of which only the number is known: {}", listed(called)));
    }
    let (known, orphaned): (Vec<_>, Vec<_>) = remains.groups.iter().partition(|(_, group)| group.spec.is_some());
    let names = known.iter().filter_map(|(_, group)| group.spec.as_ref()).map(|spec| spec.name.to_string());
    parts.push(format!("groups: {}", listed(names)));
    if !orphaned.is_empty() {
        let numbers = listed(orphaned.iter().map(|(id, _)| id.to_string()));
        parts.push(format!("orphaned groups, whose progress is lost: numbers {numbers}"));
    }
    if !remains.is_catalog_left {
        parts.push("topics and groups that nothing mentions are forgotten, as are schedules".into());
    }
    parts.push("lost: progress that groups made before the log begins, so that messages come again".into());
    parts.push("lost: timers and transactions of what is gone".into());
    if remains.delayed > 0 {
        parts.push(format!(
            "of {} bodies sent to wait, those that ended in a part that is gone wait again",
            remains.delayed
        ));
    }
    if remains.key == KeyRemains::Lost {
        parts.push(
            "the key of hashes is lost: messages of one message group from before and after may be handled at once"
                .into(),
        );
    }
    parts.join("; ")
}

fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
