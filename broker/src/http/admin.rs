//! The admin API below `/api/v1` (operations D5): topics, groups, and a look at messages.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base::{QueueIndex, QueueOffset};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::fields::{Json, Name, Parameters, parse_time};
use super::json::{GroupJson, MessageJson, NewGroupJson, NewTopicJson, Page, QueueJson, TopicChangesJson, TopicJson};
use super::problem::Problem;
use super::server::Admin;
use crate::Broker;
use crate::admin::{Created, PeekFrom, Peeked, TopicType};

/// Items of one page (H4).
const PAGE_MAX: usize = 1000;
const PAGE_DEFAULT: usize = 100;
/// Messages are fetched in steps, so that a page of large ones ends before it fills the memory.
const PEEK_STEP: usize = 32;
const PEEK_BYTES_MAX: usize = 8 * 1024 * 1024;

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/topics", get(topics).post(create_topic))
        .route("/topics/{name}", get(topic).patch(change_topic).delete(delete_topic))
        .route("/topics/{name}/queues", get(queues))
        .route("/topics/{name}/messages", get(messages))
        .route("/groups", get(groups).post(create_group))
        .route("/groups/{name}", get(group).delete(delete_group))
}

type Answer<T> = Result<axum::Json<T>, Problem>;

async fn topics(State(admin): State<Admin>, mut parameters: Parameters) -> Answer<Page<TopicJson>> {
    let prefix = parameters.text("prefix")?.unwrap_or_default();
    let wanted = parameters.text("type")?.map(|word| topic_type(&word)).transpose()?;
    let (limit, cursor) = paging(&mut parameters)?;
    parameters.finish()?;
    let mut topics = admin.broker.topics();
    topics.retain(|topic| {
        topic.name.as_str().starts_with(&prefix) && wanted.is_none_or(|wanted| topic.topic_type == wanted)
    });
    topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(axum::Json(page(topics, |topic| topic.name.as_str(), limit, cursor)))
}

async fn create_topic(
    State(admin): State<Admin>,
    parameters: Parameters,
    Json(new): Json<NewTopicJson>,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let (created, topic) = admin.broker.create_topic(new.into()).await?;
    let place = format!("/api/v1/topics/{}", in_path(topic.name.as_str()));
    Ok(made(created, &place, TopicJson::from(topic)))
}

async fn topic(State(admin): State<Admin>, Name(name): Name, parameters: Parameters) -> Answer<TopicJson> {
    parameters.finish()?;
    Ok(axum::Json(admin.broker.describe_topic(&name)?.into()))
}

async fn change_topic(
    State(admin): State<Admin>,
    Name(name): Name,
    parameters: Parameters,
    Json(changes): Json<TopicChangesJson>,
) -> Answer<TopicJson> {
    parameters.finish()?;
    let (topic, warnings) = admin.broker.change_topic(&name, changes.into()).await?;
    Ok(axum::Json(TopicJson { warnings, ..topic.into() }))
}

async fn delete_topic(
    State(admin): State<Admin>,
    Name(name): Name,
    mut parameters: Parameters,
) -> Result<StatusCode, Problem> {
    let is_forced = parameters.flag("force")?;
    parameters.finish()?;
    admin.broker.delete_topic(&name, is_forced).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn queues(State(admin): State<Admin>, Name(name): Name, parameters: Parameters) -> Answer<Page<QueueJson>> {
    parameters.finish()?;
    let items = admin.broker.describe_topic(&name)?.queues.into_iter().map(QueueJson::from).collect();
    Ok(axum::Json(Page { items, next_cursor: None }))
}

async fn messages(
    State(admin): State<Admin>,
    Name(name): Name,
    mut parameters: Parameters,
) -> Answer<Page<MessageJson>> {
    let queue = parameters.parsed::<u16>("queue", "the number of a queue")?;
    let from = parameters.text("from")?.map_or(Ok(PeekFrom::Earliest), |text| peek_from(&text))?;
    let (limit, cursor) = paging(&mut parameters)?;
    parameters.finish()?;
    let queues = admin.broker.describe_topic(&name)?.queues.len();
    let last = u16::try_from(queues.saturating_sub(1)).unwrap_or(u16::MAX);
    if queue.is_none() && last > 0 && matches!(from, PeekFrom::Offset(_)) {
        let detail = "an offset counts within one queue: name it by the parameter queue";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail).field("queue"));
    }
    // Later queues begin at `from`, the first one where the last page ended.
    let mut place = match cursor {
        Some(cursor) => Place::parse(&cursor).ok_or_else(|| invalid_cursor(&cursor))?,
        None => Place { queue: queue.unwrap_or(0), from },
    };
    let mut looked = Looked { limit: limit.unwrap_or(PAGE_DEFAULT), bytes_left: PEEK_BYTES_MAX, found: Vec::new() };
    loop {
        if let Some(next) = looked.look(&admin.broker, &name, place).await? {
            return Ok(axum::Json(looked.page(Some(next))));
        }
        if queue.is_some() || place.queue >= last {
            return Ok(axum::Json(looked.page(None)));
        }
        place = Place { queue: place.queue + 1, from };
    }
}

async fn groups(State(admin): State<Admin>, mut parameters: Parameters) -> Answer<Page<GroupJson>> {
    let prefix = parameters.text("prefix")?.unwrap_or_default();
    let (limit, cursor) = paging(&mut parameters)?;
    parameters.finish()?;
    let mut groups = admin.broker.groups();
    groups.retain(|group| group.name.as_str().starts_with(&prefix));
    groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(axum::Json(page(groups, |group| group.name.as_str(), limit, cursor)))
}

async fn create_group(
    State(admin): State<Admin>,
    parameters: Parameters,
    Json(new): Json<NewGroupJson>,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let (created, group) = admin.broker.create_group(new.into()).await?;
    let place = format!("/api/v1/groups/{}", in_path(group.name.as_str()));
    Ok(made(created, &place, GroupJson::from(group)))
}

async fn group(State(admin): State<Admin>, Name(name): Name, parameters: Parameters) -> Answer<GroupJson> {
    parameters.finish()?;
    Ok(axum::Json(admin.broker.describe_group(&name)?.into()))
}

async fn delete_group(
    State(admin): State<Admin>,
    Name(name): Name,
    mut parameters: Parameters,
) -> Result<StatusCode, Problem> {
    let is_forced = parameters.flag("force")?;
    parameters.finish()?;
    admin.broker.delete_group(&name, is_forced).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// 201 and where it is, or 200 when it was there with the same settings.
fn made(created: Created, place: &str, json: impl Serialize) -> Response {
    match created {
        Created::Already => axum::Json(json).into_response(),
        Created::New => {
            let mut response = (StatusCode::CREATED, axum::Json(json)).into_response();
            if let Ok(place) = HeaderValue::from_str(place) {
                response.headers_mut().insert(header::LOCATION, place);
            }
            response
        }
    }
}

/// A legal name as a segment of a path: of its characters only two need care.
fn in_path(name: &str) -> String {
    name.replace('%', "%25").replace('|', "%7C")
}

fn topic_type(word: &str) -> Result<TopicType, Problem> {
    serde_json::from_value(word.into())
        .map_err(|_| Problem::parameter("type", word, "normal, fifo, delay, transaction or mixed"))
}

fn peek_from(text: &str) -> Result<PeekFrom, Problem> {
    let parsed = match text.split_once(':') {
        None if text == "earliest" => Some(PeekFrom::Earliest),
        None if text == "latest" => Some(PeekFrom::Latest),
        Some(("offset", number)) => number.parse().ok().map(|offset| PeekFrom::Offset(QueueOffset(offset))),
        Some(("time", time)) => parse_time(time).map(PeekFrom::Time),
        _ => None,
    };
    parsed.ok_or_else(|| {
        Problem::parameter("from", text, "earliest, latest, offset:N or time:T with T such as 2026-01-31T12:00:00Z")
    })
}

/// `limit` and `cursor`.
fn paging(parameters: &mut Parameters) -> Result<(Option<usize>, Option<String>), Problem> {
    let limit = parameters.parsed::<usize>("limit", "a number from 1 to 1000")?;
    if let Some(limit) = limit.filter(|limit| !(1..=PAGE_MAX).contains(limit)) {
        return Err(Problem::parameter("limit", &limit.to_string(), "a number from 1 to 1000").limit(PAGE_MAX));
    }
    let Some(cursor) = parameters.text("cursor")? else { return Ok((limit, None)) };
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(&cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    decoded.map(|decoded| (limit, Some(decoded))).ok_or_else(|| invalid_cursor(&cursor))
}

fn invalid_cursor(cursor: &str) -> Problem {
    let detail = "the cursor is none that this server gave out";
    Problem::new(StatusCode::BAD_REQUEST, "invalid_cursor", detail).field("cursor").value(cursor)
}

/// What comes after the name `cursor`, at most `limit` of it; everything without a limit.
fn page<T, J: From<T>>(sorted: Vec<T>, name: fn(&T) -> &str, limit: Option<usize>, cursor: Option<String>) -> Page<J> {
    let start = cursor.map_or(0, |cursor| sorted.partition_point(|item| name(item) <= cursor.as_str()));
    let end = limit.map_or(sorted.len(), |limit| (start + limit).min(sorted.len()));
    let next_cursor = (end < sorted.len()).then(|| BASE64_URL_SAFE_NO_PAD.encode(name(&sorted[end - 1])));
    Page { items: sorted.into_iter().take(end).skip(start).map(J::from).collect(), next_cursor }
}

/// Where a look at messages goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    queue: u16,
    from: PeekFrom,
}

impl Place {
    fn at(queue: QueueIndex, offset: QueueOffset) -> Self {
        Self { queue: queue.0, from: PeekFrom::Offset(offset) }
    }

    fn parse(text: &str) -> Option<Self> {
        let (queue, offset) = text.split_once(':')?;
        Some(Self { queue: queue.parse().ok()?, from: PeekFrom::Offset(QueueOffset(offset.parse().ok()?)) })
    }
}

/// What was found so far.
struct Looked {
    limit: usize,
    bytes_left: usize,
    found: Vec<Peeked>,
}

impl Looked {
    /// Reads one queue to its end: none, or until the page is full: where it goes on.
    async fn look(&mut self, broker: &Broker, topic: &str, mut place: Place) -> Result<Option<Place>, Problem> {
        loop {
            let max = PEEK_STEP.min(self.limit - self.found.len());
            let step = broker.peek(topic, place.queue, place.from, max).await?;
            let is_last = step.len() < max;
            for peeked in step {
                let message = &peeked.message;
                // At least one message is shown, however large.
                if !self.found.is_empty() && message.body.len() > self.bytes_left {
                    return Ok(Some(Place::at(message.queue, message.offset)));
                }
                self.bytes_left = self.bytes_left.saturating_sub(message.body.len());
                place = Place::at(message.queue, message.offset.next());
                self.found.push(peeked);
            }
            if is_last {
                return Ok(None);
            }
            if self.found.len() == self.limit {
                return Ok(Some(place));
            }
        }
    }

    fn page(self, next: Option<Place>) -> Page<MessageJson> {
        let next_cursor = next.and_then(|place| match place.from {
            PeekFrom::Offset(offset) => Some(BASE64_URL_SAFE_NO_PAD.encode(format!("{}:{offset}", place.queue))),
            PeekFrom::Earliest | PeekFrom::Latest | PeekFrom::Time(_) => None,
        });
        Page { items: self.found.into_iter().map(MessageJson::from).collect(), next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use base::Timestamp;

    use super::*;

    #[test]
    fn pages_follow_each_other_without_gap_or_repetition() {
        let all: Vec<String> = ["a", "b", "c", "d", "e"].map(String::from).to_vec();
        let (mut cursor, mut seen) = (None, Vec::new());
        loop {
            let page: Page<String> = page(all.clone(), |name| name, Some(2), cursor);
            seen.extend(page.items);
            let Some(next) = page.next_cursor else { break };
            cursor = Some(String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(next).unwrap()).unwrap());
        }
        assert_eq!(seen, all);
        let whole: Page<String> = page(all.clone(), |name| name, None, None);
        assert_eq!((whole.items, whole.next_cursor), (all, None));
        let empty: Page<String> = page(Vec::<String>::new(), |name| name, Some(1), Some("x".into()));
        assert_eq!((empty.items.len(), empty.next_cursor), (0, None));
    }

    #[test]
    fn a_look_starts_where_it_is_told() {
        assert_eq!(peek_from("earliest").unwrap(), PeekFrom::Earliest);
        assert_eq!(peek_from("latest").unwrap(), PeekFrom::Latest);
        assert_eq!(peek_from("offset:7").unwrap(), PeekFrom::Offset(QueueOffset(7)));
        assert_eq!(peek_from("time:1970-01-01T00:00:01Z").unwrap(), PeekFrom::Time(Timestamp(1000)));
        for bad in ["", "first", "offset:", "offset:-1", "time:now"] {
            assert_eq!(peek_from(bad).unwrap_err().field.as_deref(), Some("from"), "{bad}");
        }
        assert_eq!(Place::parse("3:9"), Some(Place::at(QueueIndex(3), QueueOffset(9))));
        assert_eq!(Place::parse("3"), None);
    }

    #[test]
    fn names_in_paths_are_encoded() {
        assert_eq!(in_path("%DLQ%a|b_c-d"), "%25DLQ%25a%7Cb_c-d");
    }
}
