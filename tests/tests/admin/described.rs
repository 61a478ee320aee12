//! The description of the API is true: what is described is there and answers so, and what is there is described.

use super::*;

/// As much of a request as a test says; the rest is made from the description.
fn body_of(path: &str, method: &str) -> Value {
    match (method, path) {
        ("POST", "/api/v1/topics") => {
            json!({"name": "new", "type": "normal", "queues": 1, "retention": {"time": "1d"}})
        }
        ("POST", "/api/v1/groups") => {
            let backoff = json!({"kind": "exponential", "first": "1s", "factor": 2, "max": "1m"});
            json!({"name": "new", "order": "always", "backoff": backoff, "attempts_max": 3, "invisible": "30s"})
        }
        ("PATCH", "/api/v1/topics/{name}") => json!({"queues": 3, "retention": {"time": null, "size": "1GiB"}}),
        ("POST", "/api/v1/groups/{name}/reset") => json!({"topic": "orders", "queue": 0, "to": {"offset": 0}}),
        ("POST", "/api/v1/node/drain") => json!({"timeout": "0s", "grace": "0s"}),
        other => panic!("the test has no body for {other:?}"),
    }
}

fn query_of(path: &str, method: &str) -> &'static str {
    match (method, path) {
        ("GET", "/api/v1/messages") => "?key=k",
        ("DELETE", _) if path.contains("{name}") => "?force=true",
        _ => "",
    }
}

/// What is changed first, and what is gone last: each call finds what it needs.
fn turn(method: &str) -> usize {
    ["GET", "PATCH", "POST", "DELETE"].iter().position(|known| *known == method).expect("a method of ours")
}

async fn is_as_described(scene: &Scene, node: &Node) {
    let description = Description::read(&node.http()).await;
    let mut operations = description.operations.clone();
    operations.sort_by_key(|operation| turn(&operation.method));
    assert!(operations.len() >= 7, "{operations:?}");
    for operation in &operations {
        let names: Vec<_> = operation.parameters("path").map(|(name, ..)| name).collect();
        let with = |wanted: &dyn Fn(&str) -> String| {
            let replace = |path: String, name: &&str| path.replace(&format!("{{{name}}}"), &wanted(name));
            names.iter().fold(operation.path.clone(), replace)
        };
        let (method, path) = (operation.method.as_str(), with(&|name| scene.known(&operation.path, name)));
        let what = format!("{method} {path} of {}", node.name());
        assert!(operation.summary().ends_with('.'), "{what} says nothing of itself");

        let body = operation.body().map(|_| body_of(&operation.path, method).to_string()).unwrap_or_default();
        let query = query_of(&operation.path, method);
        let answer =
            http::call(&node.http(), method, &format!("{path}{query}"), body.as_bytes()).await.expect("an answer");
        assert!((200..300).contains(&answer.status), "{what}: {answer:?}");
        assert_eq!(description.objection(operation, &answer), None, "{what}");

        // The other methods are not there, and the server says which are.
        let other = http::call(&node.http(), "PUT", &path, b"").await.expect("an answer");
        assert_eq!(other.status, 405, "PUT {path}");
        let mut allowed: Vec<_> = other.header("allow").unwrap_or_default().split(',').map(str::to_owned).collect();
        allowed.sort_unstable();
        assert_eq!(allowed, description.methods(&operation.path), "{path}");

        let unknown = http::call(&node.http(), method, &format!("{path}?nonsense=1"), body.as_bytes()).await;
        let unknown = unknown.expect("an answer");
        let problem = unknown.json().unwrap_or_default();
        assert_eq!((unknown.status, &problem["field"]), (400, &json!("nonsense")), "{what}: {problem}");
        assert_eq!(description.objection(operation, &unknown), None, "{what}");

        if !names.is_empty() {
            let path = format!("{}{query}", with(&|_| "nobody".into()));
            let nobody = http::call(&node.http(), method, &path, body.as_bytes()).await.expect("an answer");
            assert_eq!(nobody.status, 404, "{what}: {nobody:?}");
            assert_eq!(description.objection(operation, &nobody), None, "{what}");
        }
    }
}

#[tokio::test]
async fn every_operation_answers_as_it_is_described() {
    let scene = Scene::start().await;
    // The name server hears of topics a moment later.
    let names = &scene.cluster.nameservers[0];
    super::until("the route is known", async || names.get("/api/v1/routes/orders").await.status == 200).await;
    is_as_described(&scene, names).await;
    is_as_described(&scene, scene.broker()).await;
}

/// A route that is added in another way is not in the description.
#[test]
fn routes_are_only_made_in_ways_that_describe_them() {
    let ways = [".route(", ".route_service(", ".nest_service(", ".hidden("];
    let mut found = Vec::new();
    for source in tests::sources::all() {
        let path = source.path.to_str().expect("names of sources are ASCII");
        if path.starts_with("broker/src/http") || path == "nameserver/src/http.rs" {
            found.extend(ways.iter().flat_map(|way| source.lines_with(way)));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
