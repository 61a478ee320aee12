//! The admin API below `/api/v1` (operations D5): topics, groups, and a look at messages.

use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use schemars::JsonSchema;
use serde::Deserialize;
use serve::http::answers::{Gone, Made};
use serve::http::codes::*;
use serve::http::openapi::{changes, says};
use serve::http::parameters::{Flag, Nothing, Number};
use serve::http::{Json, Name, Problem, Query};

use super::Admin;
use super::json::{
    GoneJson, GroupJson, NewGroupJson, NewTopicJson, Page, QueueJson, ResetDoneJson, ResetJson, TopicChangesJson,
    TopicJson,
};
use super::{messages, node};
use crate::admin::{Created, TopicType};

/// Items of one page (H4).
pub(super) type Limit = Number<1, 1000>;
pub(super) const PAGE_DEFAULT: usize = 100;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Topics {
    /// How names begin.
    prefix: Option<String>,
    r#type: Option<TopicType>,
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Groups {
    /// How names begin.
    prefix: Option<String>,
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Delete {
    /// Although something is lost.
    #[serde(default)]
    force: Flag,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Change {
    /// Only say what would be done.
    #[serde(default)]
    dry_run: Flag,
}

pub(super) fn routes() -> ApiRouter<Admin> {
    ApiRouter::new()
        .api_route(
            "/topics",
            get_with(topics, says("Topics, by name.", &[INVALID_CURSOR])).post_with(
                create_topic,
                changes(
                    "Creates a topic.",
                    &[ILLEGAL_VALUE, EXISTS_WITH_OTHER_SETTINGS, TOPIC_LIVES_ELSEWHERE, TOPIC_NOT_FOUND],
                ),
            ),
        )
        .api_route(
            "/topics/{name}",
            get_with(topic, says("One topic.", &[TOPIC_NOT_FOUND, ILLEGAL_VALUE]))
                .patch_with(change_topic, changes("Changes a topic.", &[TOPIC_NOT_FOUND, ILLEGAL_VALUE]))
                .delete_with(
                    delete_topic,
                    changes("Deletes a topic.", &[TOPIC_NOT_FOUND, ILLEGAL_VALUE, TOPIC_HAS_BACKLOG]),
                ),
        )
        .api_route("/topics/{name}/queues", get_with(queues, says("Queues.", &[TOPIC_NOT_FOUND, ILLEGAL_VALUE])))
        .api_route(
            "/groups",
            get_with(groups, says("Consumer groups, by name.", &[INVALID_CURSOR])).post_with(
                create_group,
                changes("Creates a consumer group.", &[ILLEGAL_VALUE, EXISTS_WITH_OTHER_SETTINGS, GROUP_NOT_FOUND]),
            ),
        )
        .api_route(
            "/groups/{name}",
            get_with(group, says("One consumer group.", &[GROUP_NOT_FOUND, ILLEGAL_VALUE])).delete_with(
                delete_group,
                changes("Deletes a consumer group.", &[GROUP_NOT_FOUND, ILLEGAL_VALUE, GROUP_HAS_CONSUMERS]),
            ),
        )
        .api_route(
            "/groups/{name}/reset",
            post_with(
                reset_group,
                changes(
                    "Lets a group go on at another place of a topic, with consumers online too.",
                    &[GROUP_NOT_FOUND, TOPIC_NOT_FOUND, ILLEGAL_VALUE],
                ),
            ),
        )
        .merge(messages::routes())
        .merge(node::routes())
}

pub(super) type Answer<T> = Result<axum::Json<T>, Problem>;

async fn topics(State(admin): State<Admin>, Query(asked): Query<Topics>) -> Answer<Page<TopicJson>> {
    let (prefix, wanted) = (asked.prefix.unwrap_or_default(), asked.r#type);
    let (limit, cursor) = paging(asked.limit, asked.cursor)?;
    let mut topics = admin.broker.topics();
    topics.retain(|topic| {
        topic.name.as_str().starts_with(&prefix) && wanted.is_none_or(|wanted| topic.topic_type == wanted)
    });
    topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(axum::Json(page(topics, |topic| topic.name.as_str(), limit, cursor)))
}

async fn create_topic(
    State(admin): State<Admin>,
    Query(Nothing {}): Query<Nothing>,
    Json(new): Json<NewTopicJson>,
) -> Result<Made<TopicJson>, Problem> {
    let (created, topic) = admin.broker.create_topic(new.into()).await?;
    Ok(made(created, "topics", topic.name.as_str().to_owned(), topic.into()))
}

async fn topic(State(admin): State<Admin>, Name(name): Name, Query(Nothing {}): Query<Nothing>) -> Answer<TopicJson> {
    Ok(axum::Json(admin.broker.describe_topic(&name)?.into()))
}

async fn change_topic(
    State(admin): State<Admin>,
    Name(name): Name,
    Query(Nothing {}): Query<Nothing>,
    Json(changes): Json<TopicChangesJson>,
) -> Answer<TopicJson> {
    let (topic, warnings) = admin.broker.change_topic(&name, changes.into()).await?;
    Ok(axum::Json(TopicJson { warnings, ..topic.into() }))
}

async fn delete_topic(
    State(admin): State<Admin>,
    Name(name): Name,
    Query(asked): Query<Delete>,
) -> Result<Gone<GoneJson>, Problem> {
    Ok(gone(admin.broker.delete_topic(&name, asked.force.0).await?))
}

async fn queues(
    State(admin): State<Admin>,
    Name(name): Name,
    Query(Nothing {}): Query<Nothing>,
) -> Answer<Page<QueueJson>> {
    let items = admin.broker.describe_topic(&name)?.queues.into_iter().map(QueueJson::from).collect();
    Ok(axum::Json(Page::new(items, None)))
}

async fn groups(State(admin): State<Admin>, Query(asked): Query<Groups>) -> Answer<Page<GroupJson>> {
    let prefix = asked.prefix.unwrap_or_default();
    let (limit, cursor) = paging(asked.limit, asked.cursor)?;
    let mut groups = admin.broker.groups();
    groups.retain(|group| group.name.as_str().starts_with(&prefix));
    groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(axum::Json(page(groups, |group| group.name.as_str(), limit, cursor)))
}

async fn create_group(
    State(admin): State<Admin>,
    Query(Nothing {}): Query<Nothing>,
    Json(new): Json<NewGroupJson>,
) -> Result<Made<GroupJson>, Problem> {
    let (created, group) = admin.broker.create_group(new.into()).await?;
    Ok(made(created, "groups", group.name.as_str().to_owned(), group.into()))
}

async fn group(State(admin): State<Admin>, Name(name): Name, Query(Nothing {}): Query<Nothing>) -> Answer<GroupJson> {
    Ok(axum::Json(admin.broker.describe_group(&name)?.into()))
}

async fn delete_group(
    State(admin): State<Admin>,
    Name(name): Name,
    Query(asked): Query<Delete>,
) -> Result<Gone<GoneJson>, Problem> {
    Ok(gone(admin.broker.delete_group(&name, asked.force.0).await?))
}

async fn reset_group(
    State(admin): State<Admin>,
    Name(name): Name,
    Query(asked): Query<Change>,
    Json(reset): Json<ResetJson>,
) -> Answer<ResetDoneJson> {
    let (topic, is_dry) = (reset.topic.clone(), asked.dry_run.0);
    let plan = admin.broker.reset(&name, &reset.into(), is_dry).await?;
    let here = admin.broker.shared().peers.name();
    Ok(axum::Json(ResetDoneJson::new(&name, &topic, is_dry).on(here, plan)))
}

/// When it is not gone everywhere, where it is not yet.
fn gone(pending_on: Vec<Arc<str>>) -> Gone<GoneJson> {
    let pending_on: Vec<_> = pending_on.iter().map(|broker| broker.to_string()).collect();
    Gone((!pending_on.is_empty()).then_some(GoneJson { pending_on }))
}

fn made<T>(created: Created, what: &str, name: String, json: T) -> Made<T> {
    let place = (created == Created::New).then(|| format!("/api/v1/{what}/{}", in_path(&name)));
    Made { json, place }
}

/// A legal name as a segment of a path: of its characters only two need care.
fn in_path(name: &str) -> String {
    name.replace('%', "%25").replace('|', "%7C")
}

/// `limit` and `cursor`.
pub(super) fn paging(limit: Option<Limit>, cursor: Option<String>) -> Result<(Option<usize>, Option<String>), Problem> {
    let limit = limit.map(|limit| usize::try_from(limit.0).expect("at most 1,000"));
    let Some(cursor) = cursor else { return Ok((limit, None)) };
    let decoded = BASE64_URL_SAFE_NO_PAD.decode(&cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    decoded.map(|decoded| (limit, Some(decoded))).ok_or_else(|| invalid_cursor(&cursor))
}

pub(super) fn invalid_cursor(cursor: &str) -> Problem {
    let detail = "the cursor is none that this server gave out";
    Problem::new(INVALID_CURSOR, detail).field("cursor").value(cursor)
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
