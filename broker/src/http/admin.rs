//! The admin API below `/api/v1` (operations D5): topics, groups, and a look at messages.

use std::iter;
use std::sync::Arc;
use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{Method, Uri};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serve::http::answers::{Done, Gone, Made};
use serve::http::codes::*;
use serve::http::fields::encode;
use serve::http::openapi::{changes, says};
use serve::http::parameters::{Flag, Nothing, Number};
use serve::http::{Json, Name, Problem, Query};

use super::Admin;
use super::json::{
    GoneJson, GroupJson, NewGroupJson, NewTopicJson, Page, QueueJson, ResetDoneJson, ResetJson, ResetToJson,
    TopicChangesJson, TopicJson, UnreachableJson,
};
use super::merge::Merge;
use super::others::{ANSWER_MAX, Scope, with_query};
use super::{merge, messages, node, others};
use crate::admin::{AdminRefusal, Created, TopicType};

/// Items of one page (H4).
pub(super) type Limit = Number<1, 1000>;
pub(super) const PAGE_DEFAULT: usize = 100;
/// For another broker to make a change and see it spread.
const CHANGE_MAX: Duration = Duration::from_secs(8);

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
                .patch_with(change_topic, changes("Changes a topic.", &[TOPIC_NOT_FOUND, ILLEGAL_VALUE, UNREACHABLE]))
                .delete_with(
                    delete_topic,
                    changes("Deletes a topic.", &[TOPIC_NOT_FOUND, ILLEGAL_VALUE, TOPIC_HAS_BACKLOG, UNREACHABLE]),
                ),
        )
        .api_route("/topics/{name}/queues", get_with(queues, says("Queues.", &[TOPIC_NOT_FOUND, ILLEGAL_VALUE])))
        .api_route(
            "/topics/{name}/claim",
            post_with(
                claim_topic,
                says(
                    "Lets a topic in which order is kept live on this broker, when the one that it lives on is away for good.",
                    &[TOPIC_NOT_FOUND, ILLEGAL_VALUE, TOPIC_LIVES_ELSEWHERE, INTERNAL],
                ),
            ),
        )
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

async fn topics(
    State(admin): State<Admin>,
    scope: Scope,
    uri: Uri,
    Query(asked): Query<Topics>,
) -> Answer<Page<TopicJson>> {
    let (prefix, wanted) = (asked.prefix.unwrap_or_default(), asked.r#type);
    let (limit, cursor) = paging(asked.limit, asked.cursor)?;
    let mut topics = admin.broker.topics();
    topics.retain(|topic| {
        topic.name.as_str().starts_with(&prefix) && wanted.is_none_or(|wanted| topic.topic_type == wanted)
    });
    topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut here: Page<TopicJson> = page(topics, |topic| topic.name.as_str(), limit, cursor);
    here.items = here.items.into_iter().map(|topic| topic.on(admin.broker.name())).collect();
    Ok(axum::Json(of_all(&admin, scope, &with_query("/topics", &uri), here, limit).await))
}

async fn create_topic(
    State(admin): State<Admin>,
    Query(Nothing {}): Query<Nothing>,
    Json(new): Json<NewTopicJson>,
) -> Result<Made<TopicJson>, Problem> {
    let (created, topic) = admin.broker.create_topic(new.into()).await?;
    Ok(made(created, "topics", topic.name.as_str().to_owned(), TopicJson::from(topic).on(admin.broker.name())))
}

async fn topic(
    State(admin): State<Admin>,
    Name(name): Name,
    scope: Scope,
    Query(Nothing {}): Query<Nothing>,
) -> Answer<TopicJson> {
    let here = admin.broker.describe_topic(&name).map(|topic| TopicJson::from(topic).on(admin.broker.name()));
    let path = format!("/topics/{}", encode(&name));
    let holders = admin.broker.to_ask(scope, Some(&name));
    let all = admin.broker.ask_all(&holders, Method::GET, &path, &(), ANSWER_MAX).await.named();
    let answers = all.answers.into_iter().map(|(_, topic)| topic);
    let whole = merge::whole(here, answers)?;
    Ok(axum::Json(TopicJson { unreachable: all.unreachable, ..whole }))
}

async fn change_topic(
    State(admin): State<Admin>,
    Name(name): Name,
    scope: Scope,
    Query(Nothing {}): Query<Nothing>,
    Json(changes): Json<TopicChangesJson>,
) -> Answer<TopicJson> {
    if let Some(holder) = admin.broker.holder(&name, scope) {
        let path = format!("/topics/{}", encode(&name));
        let asked = others::ask(&holder, Method::PATCH, &path, &changes, CHANGE_MAX).await;
        return asked.or_problem(&holder.name).map(axum::Json);
    }
    let (topic, warnings) = admin.broker.change_topic(&name, changes.into()).await?;
    Ok(axum::Json(TopicJson { warnings, ..TopicJson::from(topic).on(admin.broker.name()) }))
}

async fn delete_topic(
    State(admin): State<Admin>,
    Name(name): Name,
    scope: Scope,
    Query(asked): Query<Delete>,
) -> Result<Gone<GoneJson>, Problem> {
    if let Some(holder) = admin.broker.holder(&name, scope) {
        let path = format!("/topics/{}?force={}", encode(&name), asked.force.0);
        let asked = others::ask(&holder, Method::DELETE, &path, &(), CHANGE_MAX).await;
        return asked.or_problem(&holder.name).map(Gone);
    }
    Ok(gone(admin.broker.delete_topic(&name, asked.force.0).await?))
}

/// For a topic in which order is kept, whose broker is away for good.
async fn claim_topic(State(admin): State<Admin>, Name(name): Name, _: Query<Nothing>) -> Result<Done, Problem> {
    admin.broker.claim_topic(&name)?;
    Ok(Done)
}

async fn queues(
    State(admin): State<Admin>,
    name: Name,
    scope: Scope,
    asked: Query<Nothing>,
) -> Answer<Page<QueueJson>> {
    let axum::Json(topic) = topic(State(admin), name, scope, asked).await?;
    Ok(axum::Json(Page { unreachable: topic.unreachable, ..Page::new(topic.queues, None) }))
}

async fn groups(
    State(admin): State<Admin>,
    scope: Scope,
    uri: Uri,
    Query(asked): Query<Groups>,
) -> Answer<Page<GroupJson>> {
    let prefix = asked.prefix.unwrap_or_default();
    let (limit, cursor) = paging(asked.limit, asked.cursor)?;
    let mut groups = admin.broker.groups();
    groups.retain(|group| group.name.as_str().starts_with(&prefix));
    groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut here: Page<GroupJson> = page(groups, |group| group.name.as_str(), limit, cursor);
    here.items = here.items.into_iter().map(|group| group.on(admin.broker.name())).collect();
    Ok(axum::Json(of_all(&admin, scope, &with_query("/groups", &uri), here, limit).await))
}

async fn create_group(
    State(admin): State<Admin>,
    Query(Nothing {}): Query<Nothing>,
    Json(new): Json<NewGroupJson>,
) -> Result<Made<GroupJson>, Problem> {
    let (created, group) = admin.broker.create_group(new.into()).await?;
    Ok(made(created, "groups", group.name.as_str().to_owned(), GroupJson::from(group).on(admin.broker.name())))
}

async fn group(
    State(admin): State<Admin>,
    Name(name): Name,
    scope: Scope,
    Query(Nothing {}): Query<Nothing>,
) -> Answer<GroupJson> {
    let here = admin.broker.describe_group(&name).map(|group| GroupJson::from(group).on(admin.broker.name()));
    if matches!(here, Err(AdminRefusal::IllegalName(_))) {
        return Ok(axum::Json(here?));
    }
    let path = format!("/groups/{}", encode(&name));
    let others = admin.broker.to_ask(scope, None);
    let all = admin.broker.ask_all(&others, Method::GET, &path, &(), ANSWER_MAX).await.named();
    let answers = all.answers.into_iter().map(|(_, group)| group);
    let whole = merge::whole(here, answers)?;
    Ok(axum::Json(GroupJson { unreachable: all.unreachable, ..whole }))
}

async fn delete_group(
    State(admin): State<Admin>,
    Name(name): Name,
    Query(asked): Query<Delete>,
) -> Result<Gone<GoneJson>, Problem> {
    Ok(gone(admin.broker.delete_group(&name, asked.force.0).await?))
}

/// On every broker that has the topic: here first, as what is wrong with it is wrong everywhere.
async fn reset_group(
    State(admin): State<Admin>,
    Name(name): Name,
    scope: Scope,
    Query(asked): Query<Change>,
    Json(reset): Json<ResetJson>,
) -> Answer<ResetDoneJson> {
    let (topic, is_dry) = (reset.topic.clone(), asked.dry_run.0);
    let here = admin.broker.name().clone();
    let mut holders = admin.broker.to_ask(scope, Some(&topic));
    let is_wanted = |broker: &str| reset.broker.as_deref().is_none_or(|only| only == broker);
    let known: usize = holders.len() + usize::from(admin.broker.describe_topic(&topic).is_ok());
    if matches!(reset.to, ResetToJson::Offset(_)) && reset.broker.is_none() && known > 1 && scope == Scope::Cluster {
        let detail = format!(
            "an offset counts within one queue of one broker, and {known} brokers have topic {topic}: name one"
        );
        return Err(Problem::new(ILLEGAL_VALUE, detail).field("broker").value(serde_json::Value::Null));
    }
    holders.retain(|holder| is_wanted(&holder.name));
    let mut done = ResetDoneJson::new(&name, &topic, is_dry);
    let mut refusal = None;
    if scope == Scope::Here || is_wanted(&here) {
        match admin.broker.reset(&name, &reset.clone().into(), is_dry).await {
            Ok(plan) => done = done.on(&here, plan),
            // It is elsewhere, or nowhere.
            Err(refused @ (AdminRefusal::TopicNotFound(_) | AdminRefusal::TopicNotHere { .. })) => {
                refusal = Some(Problem::from(refused));
            }
            Err(refused) => return Err(refused.into()),
        }
    } else if holders.is_empty() {
        let detail = format!("broker {:?} does not have topic {topic}", reset.broker.as_deref().unwrap_or_default());
        return Err(Problem::new(ILLEGAL_VALUE, detail).field("broker").value(reset.broker));
    }
    let path = format!("/groups/{}/reset?dry_run={is_dry}", encode(&name));
    let all = admin.broker.ask_all::<ResetDoneJson>(&holders, Method::POST, &path, &reset, CHANGE_MAX).await;
    all.answers.into_iter().for_each(|(_, other)| done.add(other.queues));
    done.unreachable = all.unreachable;
    for (broker, problem) in all.refused {
        // What one of them does not have, or does not allow, is no reason to do nothing on the others.
        done.unreachable.push(UnreachableJson { broker: broker.to_string(), reason: problem.detail.to_string() });
        refusal.get_or_insert(problem);
    }
    match refusal.filter(|_| done.queues.is_empty()) {
        Some(problem) => Err(problem),
        None => Ok(axum::Json(done)),
    }
}

/// A page of a list that every broker has a part of; `path` asks the others for theirs.
async fn of_all<T: Merge + DeserializeOwned>(
    admin: &Admin,
    scope: Scope,
    path: &str,
    here: Page<T>,
    limit: Option<usize>,
) -> Page<T> {
    let others = admin.broker.to_ask(scope, None);
    let all = admin.broker.ask_all(&others, Method::GET, path, &(), ANSWER_MAX).await.named();
    let pages = iter::once(here).chain(all.answers.into_iter().map(|(_, page)| page));
    Page { unreachable: all.unreachable, ..merge::pages(pages, limit) }
}

/// When it is not gone everywhere, where it is not yet.
fn gone(pending_on: Vec<Arc<str>>) -> Gone<GoneJson> {
    let pending_on: Vec<_> = pending_on.iter().map(|broker| broker.to_string()).collect();
    Gone((!pending_on.is_empty()).then_some(GoneJson { pending_on }))
}

fn made<T>(created: Created, what: &str, name: String, json: T) -> Made<T> {
    let place = (created == Created::New).then(|| format!("/api/v1/{what}/{}", encode(&name)));
    Made { json, place }
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
    let next_cursor = (end < sorted.len()).then(|| name_cursor(name(&sorted[end - 1])));
    Page::new(sorted.into_iter().take(end).skip(start).map(J::from).collect(), next_cursor)
}

/// Of what comes after this name.
pub(super) fn name_cursor(name: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(name)
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
}
