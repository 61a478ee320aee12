//! The admin API below `/api/v1` (operations D5): topics, groups, and a look at messages.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::Admin;
use super::json::{GoneJson, GroupJson, NewGroupJson, NewTopicJson, Page, QueueJson, TopicChangesJson, TopicJson};
use super::{messages, node};
use crate::admin::{Created, TopicType};
use serve::http::{Json, Name, Parameters, Problem};

/// Items of one page (H4).
const PAGE_MAX: usize = 1000;
pub(super) const PAGE_DEFAULT: usize = 100;

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/topics", get(topics).post(create_topic))
        .route("/topics/{name}", get(topic).patch(change_topic).delete(delete_topic))
        .route("/topics/{name}/queues", get(queues))
        .route("/topics/{name}/claim", post(claim_topic))
        .route("/topics/{name}/messages", get(messages::of_topic))
        .route("/messages", get(messages::find))
        .route("/messages/{id}", get(messages::one))
        .route("/messages/{id}/body", get(messages::body))
        .route("/groups", get(groups).post(create_group))
        .route("/groups/{name}", get(group).delete(delete_group))
        .merge(node::routes())
}

pub(super) type Answer<T> = Result<axum::Json<T>, Problem>;

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
) -> Result<Response, Problem> {
    let is_forced = parameters.flag("force")?;
    parameters.finish()?;
    Ok(gone(admin.broker.delete_topic(&name, is_forced).await?))
}

/// For a topic in which order is kept, whose broker is away for good.
async fn claim_topic(
    State(admin): State<Admin>,
    Name(name): Name,
    parameters: Parameters,
) -> Result<StatusCode, Problem> {
    parameters.finish()?;
    admin.broker.claim_topic(&name)?;
    Ok(StatusCode::NO_CONTENT)
}

async fn queues(State(admin): State<Admin>, Name(name): Name, parameters: Parameters) -> Answer<Page<QueueJson>> {
    parameters.finish()?;
    let items = admin.broker.describe_topic(&name)?.queues.into_iter().map(QueueJson::from).collect();
    Ok(axum::Json(Page::new(items, None)))
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
) -> Result<Response, Problem> {
    let is_forced = parameters.flag("force")?;
    parameters.finish()?;
    Ok(gone(admin.broker.delete_group(&name, is_forced).await?))
}

/// 204 when it is gone everywhere, else 200 and where it is not yet.
fn gone(pending_on: Vec<Arc<str>>) -> Response {
    if pending_on.is_empty() {
        return StatusCode::NO_CONTENT.into_response();
    }
    axum::Json(GoneJson { pending_on: pending_on.iter().map(|broker| broker.to_string()).collect() }).into_response()
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

/// `limit` and `cursor`.
pub(super) fn paging(parameters: &mut Parameters) -> Result<(Option<usize>, Option<String>), Problem> {
    let limit = parameters.parsed::<usize>("limit", "a number from 1 to 1000")?;
    if let Some(limit) = limit.filter(|limit| !(1..=PAGE_MAX).contains(limit)) {
        return Err(Problem::parameter("limit", &limit.to_string(), "a number from 1 to 1000").limit(PAGE_MAX));
    }
    let Some(cursor) = parameters.text("cursor")? else { return Ok((limit, None)) };
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(&cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    decoded.map(|decoded| (limit, Some(decoded))).ok_or_else(|| invalid_cursor(&cursor))
}

pub(super) fn invalid_cursor(cursor: &str) -> Problem {
    let detail = "the cursor is none that this server gave out";
    Problem::new(StatusCode::BAD_REQUEST, "invalid_cursor", detail).field("cursor").value(cursor)
}

/// What comes after the name `cursor`, at most `limit` of it; everything without a limit.
pub(super) fn page<T, J: From<T>>(
    sorted: Vec<T>,
    name: fn(&T) -> &str,
    limit: Option<usize>,
    cursor: Option<String>,
) -> Page<J> {
    let start = cursor.map_or(0, |cursor| sorted.partition_point(|item| name(item) <= cursor.as_str()));
    let end = limit.map_or(sorted.len(), |limit| (start + limit).min(sorted.len()));
    let next_cursor = (end < sorted.len()).then(|| BASE64_URL_SAFE_NO_PAD.encode(name(&sorted[end - 1])));
    Page::new(sorted.into_iter().take(end).skip(start).map(J::from).collect(), next_cursor)
}

#[cfg(test)]
mod tests {
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
    fn names_in_paths_are_encoded() {
        assert_eq!(in_path("%DLQ%a|b_c-d"), "%25DLQ%25a%7Cb_c-d");
    }
}
