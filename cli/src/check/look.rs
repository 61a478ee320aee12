//! What a broker says, and how good that is.

use std::time::Duration;

use base::ByteSize;
use serde::Deserialize;
use serde_json::Value;

use super::threshold::{Figure, Threshold, above, below};
use super::{Answer, Options, What};
use crate::admin::api::{Api, ApiError, encode};
use crate::admin::group::about;
use crate::admin::unreachable;
use crate::args::Target;
use crate::doctor::Level;
use crate::ready::Ready;
use crate::series::sum;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// As in the alert rules: a disk that is so close to its reserve needs somebody now.
const RESERVES_CRITICAL: f64 = 1.5;

pub async fn look(options: &Options, target: &Target) -> Answer {
    let mut api = Api::new(&target.http);
    let answer = match options.what {
        What::Ready => return ready(target).await,
        What::Lag => groups(&mut api, options).await.map(|(groups, without)| lag(options, &groups).without(&without)),
        What::Dlq => {
            groups(&mut api, options).await.map(|(groups, without)| dead_letters(options, &groups).without(&without))
        }
        What::Timers => api.text("/metrics").await.map(|page| timers(options, &page)),
        What::Disk => api.text("/metrics").await.map(|page| disk(options, &page)),
    };
    answer.unwrap_or_else(|error| Answer::unknown(error.to_string()))
}

async fn ready(target: &Target) -> Answer {
    let critical = |text| Answer { level: Level::Critical, text, figures: Vec::new() };
    match Ready::ask(&target.http).await {
        Err(error) => critical(format!("{} cannot be asked: {error}", target.http)),
        Ok(None) => Answer::unknown(format!("{} does not answer as a Carillon server", target.http)),
        Ok(Some(ready)) if ready.is_ready => {
            Answer { level: Level::Ok, text: format!("{} is ready", target.http), figures: Vec::new() }
        }
        Ok(Some(ready)) => {
            let failed = ready.checks.iter().filter(|check| !check.ok);
            let failed: Vec<_> = failed.map(|check| format!("{}: {}", check.name, check.detail)).collect();
            critical(failed.join("; "))
        }
    }
}

/// What is asked of a group.
#[derive(Debug, Deserialize)]
pub(super) struct Group {
    name: String,
    #[serde(default)]
    topics: Vec<GroupTopic>,
    #[serde(default)]
    dead_letters: u64,
}

#[derive(Debug, Deserialize)]
struct GroupTopic {
    topic: String,
    lag_messages: u64,
    oldest_unacked_ms: u64,
}

/// The groups that are meant, and the brokers whose part of them is missing.
async fn groups(api: &mut Api, options: &Options) -> Result<(Vec<Group>, Vec<Value>), ApiError> {
    let path = match &options.group {
        Some(name) => format!("/groups/{}", encode(name)),
        None => "/groups".to_owned(),
    };
    let (found, without) = match &options.group {
        Some(_) => {
            let group = api.get(&path).await?.body;
            let without = unreachable(&group).to_vec();
            (vec![group], without)
        }
        None => {
            let page = api.list(&path).await?;
            (page.items, page.unreachable)
        }
    };
    Ok((api.read(&path, Value::Array(found))?, without))
}

pub(super) fn lag(options: &Options, groups: &[Group]) -> Answer {
    let (warning, critical) =
        (options.warning.unwrap_or(Threshold::Time(10 * MINUTE)), options.critical.unwrap_or(Threshold::Time(HOUR)));
    let time = |threshold| match threshold {
        Threshold::Time(time) => Some(time.as_secs_f64()),
        _ => None,
    };
    let count = |threshold| match threshold {
        Threshold::Count(count) => Some(count as f64),
        _ => None,
    };
    let level_of = |topic: &GroupTopic| {
        let age = topic.oldest_unacked_ms as f64 / 1e3;
        let by_age = above(age, time(warning), time(critical));
        let by_count = above(topic.lag_messages as f64, count(warning), count(critical));
        std::cmp::max_by_key(by_age, by_count, |level| level.weight())
    };
    let pairs = groups.iter().flat_map(|group| group.topics.iter().map(move |topic| (group, topic)));
    let bad = pairs.clone().filter(|(_, topic)| level_of(topic) != Level::Ok).count();
    let all = pairs.clone().count();
    let messages: u64 = pairs.clone().map(|(_, topic)| topic.lag_messages).sum();
    let worst = pairs.max_by_key(|(_, topic)| (level_of(topic).weight(), topic.oldest_unacked_ms, topic.lag_messages));
    let Some((group, topic)) = worst else {
        let text = format!("{} groups, none has read a topic", groups.len());
        return Answer { level: Level::Ok, text, figures: Vec::new() };
    };
    let (age, behind) = (about(topic.oldest_unacked_ms), topic.lag_messages);
    let rest = if bad > 1 { format!("; {bad} of {all} are behind") } else { String::new() };
    let text = format!("{} on {}: {behind} messages, the oldest for {age}{rest}", group.name, topic.topic);
    let oldest = topic.oldest_unacked_ms as f64 / 1e3;
    let figure = |name, value, unit, of: &dyn Fn(Threshold) -> Option<f64>| Figure {
        warning: of(warning),
        critical: of(critical),
        ..Figure::plain(name, value, unit)
    };
    let figures = vec![
        figure("oldest", oldest, "s", &time),
        figure("behind", behind as f64, "", &count),
        Figure::plain("behind_all", messages as f64, ""),
    ];
    Answer { level: level_of(topic), text, figures }
}

pub(super) fn dead_letters(options: &Options, groups: &[Group]) -> Answer {
    let count = |threshold| match threshold {
        Some(Threshold::Count(count)) => Some(count as f64),
        _ => None,
    };
    let (warning, critical) = (
        count(options.warning.or(Some(Threshold::Count(1)))),
        count(options.critical.or(Some(Threshold::Count(1000)))),
    );
    let Some(worst) = groups.iter().max_by_key(|group| group.dead_letters) else {
        return Answer { level: Level::Ok, text: "there are no groups".into(), figures: Vec::new() };
    };
    let all: u64 = groups.iter().map(|group| group.dead_letters).sum();
    let level = above(worst.dead_letters as f64, warning, critical);
    let text = match all {
        0 => "no dead letters".into(),
        _ => format!("{} has {} dead letters, all groups have {all}", worst.name, worst.dead_letters),
    };
    let worst = Figure { warning, critical, ..Figure::plain("worst", worst.dead_letters as f64, "") };
    Answer { level, text, figures: vec![worst, Figure::plain("all", all as f64, "")] }
}

pub(super) fn timers(options: &Options, page: &str) -> Answer {
    let seconds = |threshold: Option<Threshold>, default: Duration| match threshold {
        Some(Threshold::Time(time)) => Some(time.as_secs_f64()),
        _ => Some(default.as_secs_f64()),
    };
    let warning = seconds(options.warning, Duration::from_secs(5));
    let critical = seconds(options.critical, MINUTE);
    let Some(overdue) = sum(page, "carillon_timer_oldest_overdue_seconds") else {
        return Answer::unknown("the server does not say how late timers are; is it a broker?");
    };
    let pending = sum(page, "carillon_timers_pending").unwrap_or(0.0);
    let text = match overdue {
        0.0 => format!("none is overdue, {pending} messages are pending"),
        _ => format!("the oldest is {overdue} s late, {pending} messages are pending"),
    };
    let figures = vec![
        Figure { warning, critical, ..Figure::plain("overdue", overdue, "s") },
        Figure::plain("pending", pending, ""),
    ];
    Answer { level: above(overdue, warning, critical), text, figures }
}

pub(super) fn disk(options: &Options, page: &str) -> Answer {
    let value = |name: &str| sum(page, name);
    let space = (
        value("carillon_disk_free_bytes"),
        value("carillon_disk_total_bytes").filter(|total| *total > 0.0),
        value("carillon_disk_reserve_bytes"),
    );
    let (Some(free), Some(total), Some(reserve)) = space else {
        return Answer::unknown("the server does not say how full its disk is; is it a broker?");
    };
    let time = |threshold: Option<Threshold>, default: Duration| match threshold {
        None => Some(default.as_secs_f64()),
        Some(Threshold::Time(time)) => Some(time.as_secs_f64()),
        Some(_) => None,
    };
    let bytes = |threshold: Option<Threshold>| match threshold {
        Some(Threshold::Size(size)) => Some(size as f64),
        Some(Threshold::Share(share)) => Some(total * f64::from(share) / 100.0),
        _ => None,
    };
    let (warning_s, critical_s) = (time(options.warning, 6 * HOUR), time(options.critical, HOUR));
    // Whatever else is asked: at its reserve the broker refuses messages.
    let floor = if options.critical.is_none() { reserve * RESERVES_CRITICAL } else { reserve };
    let (warning, critical) = (bytes(options.warning), bytes(options.critical).unwrap_or(0.0).max(floor));
    let by_space = below(free, warning, Some(critical));
    // Absent in the first minutes.
    let headroom = value("carillon_disk_headroom_seconds");
    let by_time = headroom.map_or(Level::Ok, |left| below(left, warning_s, critical_s));
    let of = |bytes: f64| size(bytes);
    let soon = headroom.filter(|left| *left < 7.0 * 24.0 * 3600.0).map(|left| {
        format!(", the reserve is reached in {}", about(Duration::from_secs_f64(left.max(0.0)).as_millis() as u64))
    });
    let text = format!(
        "{} of {} free ({:.0}%), {} are reserved{}",
        of(free),
        of(total),
        100.0 * free / total,
        of(reserve),
        soon.unwrap_or_default()
    );
    let mut figures =
        vec![Figure { warning, critical: Some(critical), is_floor: true, ..Figure::plain("free", free, "B") }];
    figures.extend(headroom.map(|left| Figure {
        warning: warning_s,
        critical: critical_s,
        is_floor: true,
        ..Figure::plain("headroom", left.round(), "s")
    }));
    Answer { level: std::cmp::max_by_key(by_space, by_time, |level| level.weight()), text, figures }
}

/// Two digits and a unit are enough for eyes.
fn size(bytes: f64) -> String {
    let units = ["TiB", "GiB", "MiB", "KiB"];
    let sizes = [1u64 << 40, 1 << 30, 1 << 20, 1 << 10];
    let unit = units.iter().zip(sizes).find(|(_, unit)| bytes >= *unit as f64);
    unit.map_or_else(|| ByteSize(bytes as u64).to_string(), |(name, unit)| format!("{:.1} {name}", bytes / unit as f64))
}
