//! Messages, looked at and looked up (operations D5): nothing is consumed, leased or counted.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base::{LogPosition, QueueIndex, QueueOffset, Timestamp};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderValue, StatusCode, header};

use super::Admin;
use super::admin::{Answer, PAGE_DEFAULT, invalid_cursor, paging};
use super::json::{FoundJson, MessageJson, Page};
use crate::admin::{Find, FindBy, FoundMessage, PeekFilter, PeekFrom};
use serve::http::fields::parse_time;
use serve::http::{Name, Parameters, Problem};

/// A page of a topic's messages: by queue and offset; by key, newest first.
pub(super) async fn of_topic(
    State(admin): State<Admin>,
    Name(name): Name,
    mut parameters: Parameters,
) -> Answer<Page<MessageJson>> {
    let queue = parameters.parsed::<u16>("queue", "the number of a queue")?;
    let from = parameters.text("from")?.map_or(Ok(PeekFrom::Earliest), |text| peek_from(&text))?;
    let key = named(&mut parameters, "key")?;
    let filter =
        PeekFilter { message_group: named(&mut parameters, "message_group")?, tag: named(&mut parameters, "tag")? };
    let (limit, cursor) = paging(&mut parameters)?;
    parameters.finish()?;
    let queues = admin.broker.describe_topic(&name)?.queues.len();
    let last = u16::try_from(queues.saturating_sub(1)).unwrap_or(u16::MAX);
    if queue.is_none() && last > 0 && matches!(from, PeekFrom::Offset(_)) {
        let detail = "an offset counts within one queue: name it by the parameter queue";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail).field("queue"));
    }
    let limit = limit.unwrap_or(PAGE_DEFAULT);
    if let Some(key) = key {
        if from == PeekFrom::Latest {
            let detail =
                "from is \"latest\": with a key, messages that are stored are looked up, and none is behind the last";
            return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail).field("from"));
        }
        let (by, below) = (FindBy::Key(key), cursor.map(|cursor| position(&cursor)).transpose()?);
        let find = Find { by, topic: Some(name), from: None, to: None, limit, below };
        let page = admin.broker.find_visible(find, filter, queue, from).await?;
        let items = page.messages.into_iter().map(MessageJson::from).collect();
        return Ok(axum::Json(Page::new(items, page.next.map(position_cursor)).with_warnings(page.warnings)));
    }
    let start = cursor.map(|cursor| place(&cursor).ok_or_else(|| invalid_cursor(&cursor))).transpose()?;
    let page = admin.broker.peek(&name, queue, from, start, filter, limit).await?;
    let items = page.messages.into_iter().map(MessageJson::from).collect();
    let next = page.next.map(|(queue, offset)| place_cursor(queue, offset));
    Ok(axum::Json(Page::new(items, next).with_warnings(page.warnings)))
}

/// Messages with a key, newest first, wherever they are: envelopes without bodies.
pub(super) async fn find(State(admin): State<Admin>, mut parameters: Parameters) -> Answer<Page<FoundJson>> {
    let Some(key) = named(&mut parameters, "key")? else {
        let detail = "parameter key is missing: messages are found by it, and by their id below /messages/{id}";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail).field("key"));
    };
    let topic = parameters.text("topic")?;
    let (from, to) = (instant(&mut parameters, "from")?, instant(&mut parameters, "to")?);
    let (limit, cursor) = paging(&mut parameters)?;
    parameters.finish()?;
    if let (Some(from), Some(to)) = (from, to)
        && from > to
    {
        let detail = "from is later than to";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_parameter", detail).field("from"));
    }
    let below = cursor.map(|cursor| position(&cursor)).transpose()?;
    let find = Find { by: FindBy::Key(key), topic, from, to, limit: limit.unwrap_or(PAGE_DEFAULT), below };
    let page = admin.broker.find(find).await?;
    let items = page.messages.into_iter().map(FoundJson::from).collect();
    Ok(axum::Json(Page::new(items, page.next.map(position_cursor)).with_warnings(page.warnings)))
}

/// One message: its envelope, where it is, and how groups stand to it.
pub(super) async fn one(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Answer<FoundJson> {
    Ok(axum::Json(found(&admin, &id, parameters).await?.into()))
}

/// The body as it is stored.
pub(super) async fn body(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let found = found(&admin, &id, parameters).await?;
    let content_type = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, content_type)], found.message.body).into_response())
}

async fn found(admin: &Admin, id: &str, mut parameters: Parameters) -> Result<FoundMessage, Problem> {
    let topic = parameters.text("topic")?;
    parameters.finish()?;
    Ok(admin.broker.find_one(id, topic.as_deref()).await?)
}

/// A parameter that, if it is there, says something.
fn named(parameters: &mut Parameters, name: &str) -> Result<Option<String>, Problem> {
    let text = parameters.text(name)?;
    match text.as_deref() {
        Some("") => Err(Problem::parameter(name, "", "at least one character long")),
        _ => Ok(text),
    }
}

fn instant(parameters: &mut Parameters, name: &str) -> Result<Option<Timestamp>, Problem> {
    let Some(text) = parameters.text(name)? else { return Ok(None) };
    let expected = "a time such as 2026-01-31T12:00:00Z";
    parse_time(&text).map(Some).ok_or_else(|| Problem::parameter(name, &text, expected))
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
