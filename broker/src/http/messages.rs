//! Messages, looked at and looked up (operations D5): nothing is consumed, leased or counted.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::extract::State;
use base::{LogPosition, QueueIndex, QueueOffset};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::join;
use http::{Method, StatusCode, Uri};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serve::http::answers::Octets;
use serve::http::codes::*;
use serve::http::fields::encode;
use serve::http::fields::parse_time;
use serve::http::openapi::says;
use serve::http::parameters::{Instant, Number, Word};
use serve::http::{Name, Problem, Query};

use super::Admin;
use super::admin::{Answer, Limit, PAGE_DEFAULT, invalid_cursor, paging};
use super::found::{self, Place, Places};
use super::json::{FoundJson, MessageJson, Page};
use super::node::meant;
use super::others::{All, Scope, ask, ask_bytes, with_query};
use crate::admin::{AdminRefusal, Find, FindBy, PeekFilter, PeekFrom};

/// For another broker to look for messages.
const LOOK_UP_MAX: Duration = Duration::from_secs(10);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OfTopic {
    /// Whose queues are looked at; by default those of the broker that is asked, or, where the topic is on others only,
    /// of one of them.
    broker: Option<String>,
    /// Only of this one; needed for an offset.
    queue: Option<Number<0, 65535>>,
    /// `earliest` (default), `latest`, `offset:N` or `time:T`.
    from: Option<String>,
    /// Of messages that are stored, newest first.
    key: Option<Word>,
    message_group: Option<Word>,
    tag: Option<Word>,
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ByKey {
    key: Word,
    /// Needed when there are many.
    topic: Option<String>,
    /// Stored from then on.
    from: Option<Instant>,
    /// Stored until then.
    to: Option<Instant>,
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct One {
    /// Needed when there are many.
    topic: Option<String>,
}

pub(super) fn routes() -> ApiRouter<Admin> {
    const OF_ONE: [Code; 8] = [
        MESSAGE_NOT_FOUND,
        UNREACHABLE,
        TOPIC_NOT_FOUND,
        ILLEGAL_VALUE,
        LOOK_UP_INCOMPLETE,
        OVERLOADED,
        INTERNAL,
        DRAINING,
    ];
    const OF_PAGES: [Code; 9] = [
        NODE_NOT_FOUND,
        UNREACHABLE,
        INVALID_CURSOR,
        TOPIC_NOT_FOUND,
        ILLEGAL_VALUE,
        LOOK_UP_INCOMPLETE,
        OVERLOADED,
        INTERNAL,
        DRAINING,
    ];
    let of_topic = get_with(of_topic, says("A page of a topic's messages; nothing is consumed.", &OF_PAGES));
    let find = get_with(find, says("Messages with a key, newest first, without bodies.", &OF_PAGES[1..]));
    ApiRouter::new()
        .api_route("/topics/{name}/messages", of_topic)
        .api_route("/messages", find)
        .api_route("/messages/{id}", get_with(one, says("A message, and how groups stand to it.", &OF_ONE)))
        .api_route("/messages/{id}/body", get_with(body, says("The body of a message, as it is stored.", &OF_ONE)))
}

/// A page of a topic's messages: by queue and offset; by key, newest first.
async fn of_topic(
    State(admin): State<Admin>,
    Name(name): Name,
    scope: Scope,
    uri: Uri,
    Query(asked): Query<OfTopic>,
) -> Answer<Page<MessageJson>> {
    let other = match asked.broker {
        Some(_) => meant(&admin, "broker", asked.broker)?.filter(|_| scope == Scope::Cluster),
        None => admin.broker.holder(&name, scope),
    };
    if let Some(holder) = other {
        let path = with_query(&format!("/topics/{}/messages", encode(&name)), &uri);
        let asked = ask(&holder, Method::GET, &path, &(), LOOK_UP_MAX).await;
        return asked.or_problem(&holder.name).map(axum::Json);
    }
    let queue = asked.queue.map(|queue| u16::try_from(queue.0).expect("at most 65,535"));
    let from = asked.from.map_or(Ok(PeekFrom::Earliest), |text| peek_from(&text))?;
    let filter =
        PeekFilter { message_group: asked.message_group.map(|word| word.0), tag: asked.tag.map(|word| word.0) };
    let (limit, cursor) = paging(asked.limit, asked.cursor)?;
    let queues = admin.broker.describe_topic(&name)?.queues.len();
    let last = u16::try_from(queues.saturating_sub(1)).unwrap_or(u16::MAX);
    if queue.is_none() && last > 0 && matches!(from, PeekFrom::Offset(_)) {
        let detail = "an offset counts within one queue: name it by the parameter queue";
        return Err(Problem::new(INVALID_PARAMETER, detail).field("queue").value(serde_json::Value::Null));
    }
    let (limit, here) = (limit.unwrap_or(PAGE_DEFAULT), admin.broker.name());
    if let Some(Word(key)) = asked.key {
        if from == PeekFrom::Latest {
            let detail =
                "from is \"latest\": with a key, messages that are stored are looked up, and none is behind the last";
            return Err(Problem::new(INVALID_PARAMETER, detail).field("from").value("latest"));
        }
        let (by, below) = (FindBy::Key(key), cursor.map(|cursor| position(&cursor)).transpose()?);
        let find = Find { by, topic: Some(name), from: None, to: None, limit, below };
        let page = admin.broker.find_visible(find, filter, queue, from).await?;
        let items = page.messages.into_iter().map(|message| MessageJson::from(message).on(here)).collect();
        return Ok(axum::Json(Page::new(items, page.next.map(position_cursor)).with_warnings(page.warnings)));
    }
    let start = cursor.map(|cursor| place(&cursor).ok_or_else(|| invalid_cursor(&cursor))).transpose()?;
    let page = admin.broker.peek(&name, queue, from, start, filter, limit).await?;
    let items = page.messages.into_iter().map(|message| MessageJson::from(message).on(here)).collect();
    let next = page.next.map(|(queue, offset)| place_cursor(queue, offset));
    Ok(axum::Json(Page::new(items, next).with_warnings(page.warnings)))
}

/// Messages with a key, newest first, wherever they are: envelopes without bodies.
async fn find(
    State(admin): State<Admin>,
    scope: Scope,
    uri: Uri,
    Query(asked): Query<ByKey>,
) -> Answer<Page<FoundJson>> {
    let Word(key) = asked.key;
    let (from, to) = (asked.from.map(|from| from.0), asked.to.map(|to| to.0));
    let (limit, cursor) = paging(asked.limit, asked.cursor)?;
    if let (Some(from), Some(to)) = (from, to)
        && from > to
    {
        let detail = "from is later than to";
        return Err(Problem::new(INVALID_PARAMETER, detail).field("from").value(serve::http::fields::time(from)));
    }
    let places = cursor.map(|cursor| Places::parse(&cursor).ok_or_else(|| invalid_cursor(&cursor))).transpose()?;
    let (places, limit) = (places.unwrap_or_default(), limit.unwrap_or(PAGE_DEFAULT));
    let name = admin.broker.name();
    let here = async {
        let below = match places.of(name) {
            Place::Start => None,
            Place::Below(below) => Some(below),
            Place::End => return Ok(Page::new(Vec::new(), None)),
        };
        let topic = asked.topic.clone();
        let page = admin.broker.find(Find { by: FindBy::Key(key), topic, from, to, limit, below }).await?;
        let items = page.messages.into_iter().map(|found| FoundJson::from(found).on(name)).collect();
        Ok(Page::new(items, Places::cursor(name, page.next)).with_warnings(page.warnings))
    };
    let path = with_query("/messages", &uri);
    let mut all = look_up(&admin, (scope, asked.topic.as_deref()), &path, here).await?;
    let gone = places.open().filter(|broker| **broker != **name && admin.broker.other(broker).is_none());
    gone.for_each(|broker| all.leave_out(broker, "it was there for the page before, and is not known any more"));
    Ok(axum::Json(found::merge(all, places, limit)))
}

/// One message: its envelope, where it is, and how groups stand to it.
async fn one(
    State(admin): State<Admin>,
    Name(id): Name,
    scope: Scope,
    uri: Uri,
    Query(asked): Query<One>,
) -> Answer<FoundJson> {
    newest(&admin, scope, &id, &uri, &asked).await.map(axum::Json)
}

/// The body as it is stored.
async fn body(
    State(admin): State<Admin>,
    Name(id): Name,
    scope: Scope,
    uri: Uri,
    Query(asked): Query<One>,
) -> Result<Octets, Problem> {
    if scope == Scope::Cluster {
        let found = newest(&admin, scope, &id, &uri, &asked).await?;
        if let Some(other) = admin.broker.other(&found.broker) {
            let path = with_query(&format!("/messages/{}/body", encode(&id)), &uri);
            let asked = ask_bytes(&other, Method::GET, &path, &(), LOOK_UP_MAX).await;
            return asked.or_problem(&other.name).map(Octets);
        }
    }
    Ok(Octets(admin.broker.find_one(&id, asked.topic.as_deref()).await?.message.body))
}

/// The message with this id; the newest one where several brokers have one, as when it was sent twice.
async fn newest(admin: &Admin, scope: Scope, id: &str, uri: &Uri, asked: &One) -> Result<FoundJson, Problem> {
    let topic = asked.topic.as_deref();
    let here = async { Ok(FoundJson::from(admin.broker.find_one(id, topic).await?).on(admin.broker.name())) };
    let path = with_query(&format!("/messages/{}", encode(id)), uri);
    let all = look_up(admin, (scope, topic), &path, here).await?;
    let found = all.answers.into_iter().map(|(_, found)| found);
    // Times are texts of one length.
    let newest = found.max_by(|a, b| (&a.envelope.stored_at, &b.broker).cmp(&(&b.envelope.stored_at, &a.broker)));
    Ok(FoundJson { unreachable: all.unreachable, ..newest.expect("somebody has it") })
}

/// What all that may have it have found. An error when nobody has: why not; and while somebody is silent, that this is
/// not known.
async fn look_up<T: DeserializeOwned>(
    admin: &Admin,
    (scope, topic): (Scope, Option<&str>),
    path: &str,
    here: impl Future<Output = Result<T, AdminRefusal>>,
) -> Result<All<T>, Problem> {
    let others = admin.broker.to_ask(scope, topic);
    let (here, all) = join(here, admin.broker.ask_all(&others, Method::GET, path, &(), LOOK_UP_MAX)).await;
    let (mut all, name) = (all.named(), admin.broker.name());
    let refused = match here {
        Ok(here) => {
            all.answers.insert(0, (name.clone(), here));
            return Ok(all);
        }
        Err(refusal) => Problem::from(refusal),
    };
    let is_absent = refused.kind == StatusCode::NOT_FOUND;
    let is_callers_fault = matches!(refused.kind, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY);
    if is_callers_fault || (all.answers.is_empty() && !is_absent) {
        return Err(refused);
    }
    if all.answers.is_empty() {
        let Some(silent) = all.unreachable.first() else {
            // Where the topic is not here, those that have it know better what is missing.
            let theirs = all.refused.into_iter().next().filter(|_| refused.code == TOPIC_NOT_FOUND.word);
            return Err(theirs.map_or(refused, |(_, problem)| problem));
        };
        let detail = format!("{}; and broker {} did not say: {}", refused.detail, silent.broker, silent.reason);
        return Err(Problem::new(UNREACHABLE, detail).field("broker").value(&*silent.broker));
    }
    if !is_absent {
        all.leave_out(name, refused.detail);
    }
    Ok(all)
}

fn position_cursor(below: LogPosition) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("<{below}"))
}

fn position(cursor: &str) -> Result<LogPosition, Problem> {
    let number = cursor.strip_prefix('<').and_then(|number| number.parse().ok());
    number.map(LogPosition).ok_or_else(|| invalid_cursor(cursor))
}

fn place_cursor(queue: QueueIndex, offset: QueueOffset) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{queue}:{offset}"))
}

fn place(cursor: &str) -> Option<(QueueIndex, QueueOffset)> {
    let (queue, offset) = cursor.split_once(':')?;
    Some((QueueIndex(queue.parse().ok()?), QueueOffset(offset.parse().ok()?)))
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

#[cfg(test)]
mod tests {
    use base::Timestamp;

    use super::*;

    #[test]
    fn a_look_starts_where_it_is_told() {
        assert_eq!(peek_from("earliest").unwrap(), PeekFrom::Earliest);
        assert_eq!(peek_from("latest").unwrap(), PeekFrom::Latest);
        assert_eq!(peek_from("offset:7").unwrap(), PeekFrom::Offset(QueueOffset(7)));
        assert_eq!(peek_from("time:1970-01-01T00:00:01Z").unwrap(), PeekFrom::Time(Timestamp(1000)));
        for bad in ["", "first", "offset:", "offset:-1", "time:now"] {
            assert_eq!(peek_from(bad).unwrap_err().field.as_deref(), Some("from"), "{bad}");
        }
        assert_eq!(place("3:9"), Some((QueueIndex(3), QueueOffset(9))));
        assert_eq!(place("3"), None);
    }

    #[test]
    fn a_cursor_of_one_kind_is_none_of_the_other() {
        let decoded = |cursor: String| String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(cursor).unwrap()).unwrap();
        let (by_key, by_queue) =
            (decoded(position_cursor(LogPosition(77))), decoded(place_cursor(QueueIndex(3), QueueOffset(9))));
        assert_eq!(position(&by_key).unwrap(), LogPosition(77));
        assert_eq!(place(&by_queue), Some((QueueIndex(3), QueueOffset(9))));
        assert_eq!(position(&by_queue).unwrap_err().code, "invalid_cursor");
        assert_eq!(place(&by_key), None);
    }
}
