//! Nonsense, made from the description of the API: whatever is asked, the server answers in the form that is described,
//! fails never, and says which field is wrong.
//!
//! `CARILLON_ADMIN_FUZZ` says how many requests are made of one seed, `CARILLON_ADMIN_FUZZ_SEED` of which.

use base::Chance;
use serde_json::Map;
use tests::description::Operation;

use super::*;

const REQUESTS: u64 = 1_500;
const SEED: u64 = 1;

/// Parts of a path or query that are hard to read.
const ODD: [&str; 22] = [
    "%00",
    "%FF",
    "%C3%28",
    "%25DLQ%25g",
    "%2E%2E%2F",
    "a%2Fb",
    "%E2%80%AE",
    "%F0%9F%94%94",
    "%",
    "%zz",
    "+",
    "-1",
    "0",
    "1.5",
    "1e400",
    "18446744073709551616",
    "null",
    "true",
    "[]",
    "{}",
    "%22%27%3B--",
    "offset:18446744073709551615",
];
/// Values of a body that are hard to take.
const ODD_JSON: [&str; 20] = [
    "null",
    "true",
    "-1",
    "0",
    "1.5",
    "1e400",
    "65536",
    "18446744073709551616",
    "-9223372036854775809",
    "\"\"",
    "\" \"",
    "\"\\u0000\"",
    "\"\\ud83d\\udd14\"",
    "\"\\udc00\"",
    "\"99999999999999999999d\"",
    "\"1.5GiB\"",
    "[]",
    "{}",
    "[[[[]]]]",
    "{\"kind\":\"steps\"}",
];

struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
}

struct Maker<'a> {
    chance: Chance,
    description: &'a Description,
    scene: &'a Scene,
}

impl Maker<'_> {
    fn request(&mut self) -> (Operation, Request) {
        let operation = self.chance.pick(&self.description.operations).clone();
        let mut path = operation.path.clone();
        for (name, ..) in operation.parameters("path") {
            let known = self.scene.known(&operation.path, name);
            let known = known.replace('%', "%25").replace('|', "%7C");
            let value = if self.chance.one_in(2) { known } else { self.odd() };
            path = path.replace(&format!("{{{name}}}"), &value);
        }
        let query = self.query(&operation);
        let body = operation.body().map(|schema| self.body(schema)).unwrap_or_default();
        // Few take a body, and the others do not look at it.
        let body = if body.is_empty() && self.chance.one_in(20) { b"{\"x\":1}".to_vec() } else { body };
        let method = operation.method.clone();
        (operation, Request { method, path: format!("{path}{query}"), body })
    }

    fn odd(&mut self) -> String {
        match self.chance.below(12) {
            0 => "a".repeat(1 + self.chance.below(5_000) as usize),
            1 => "%C3%BC".repeat(200),
            _ => (*self.chance.pick(&ODD)).into(),
        }
    }

    fn query(&mut self, operation: &Operation) -> String {
        let mut pairs = Vec::new();
        for (name, is_needed, schema) in operation.parameters("query") {
            match self.chance.below(6) {
                0 | 1 if !is_needed => {}
                2 => pairs.push(format!("{name}={}", self.odd())),
                3 => pairs.push((*self.chance.pick(&[name.to_owned(), format!("{name}=")])).clone()),
                _ => pairs.push(format!("{name}={}", self.plain(schema))),
            }
            if self.chance.one_in(30) {
                pairs.push(format!("{name}=twice"));
            }
        }
        if self.chance.one_in(6) {
            let odd = self.odd();
            let more = ["nonsense=1".into(), "&&".into(), "=".into(), odd.clone(), format!("{odd}={odd}")];
            pairs.push(self.chance.pick(&more).clone());
        }
        if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
    }

    /// A value that a parameter may have.
    fn plain(&mut self, schema: &Value) -> String {
        let schema = self.description.resolve(schema);
        match self.value(schema, 0) {
            Value::String(text) => text.replace(['%', ' ', '&', '#', '+'], ""),
            other => other.to_string(),
        }
    }

    /// A body that is right, and mostly one that is not.
    fn body(&mut self, schema: &Value) -> Vec<u8> {
        let mut value = self.value(schema, 0);
        let changes = self.chance.below(3);
        (0..changes).for_each(|_| self.spoil(&mut value));
        let mut text = value.to_string().into_bytes();
        match self.chance.below(12) {
            0 => text.truncate(self.chance.below(text.len() as u64 + 1) as usize),
            1 => {
                let at = self.chance.below(text.len() as u64 + 1) as usize;
                text.insert(at, self.chance.below(256) as u8);
            }
            2 => text = format!("{{\"x\":{}", "[".repeat(100_000)).into_bytes(),
            3 => text.extend_from_slice(b" {}"),
            _ => {}
        }
        text
    }

    /// One node becomes something else, goes, or gets a neighbour.
    fn spoil(&mut self, value: &mut Value) {
        let odd = self.chance.pick(&ODD_JSON);
        // Numbers that are none of JSON's, and halves of characters, are text.
        let odd: Value = serde_json::from_str(odd).unwrap_or_else(|_| (*odd).into());
        match value {
            Value::Object(members) if !members.is_empty() && self.chance.below(4) > 0 => {
                let names: Vec<_> = members.keys().cloned().collect();
                let name = self.chance.pick(&names);
                match self.chance.below(4) {
                    0 => drop(members.remove(name)),
                    1 => drop(members.insert(format!("{name}s"), odd)),
                    _ => self.spoil(&mut members[name]),
                }
            }
            Value::Array(items) if !items.is_empty() && self.chance.one_in(2) => {
                let at = self.chance.below(items.len() as u64) as usize;
                self.spoil(&mut items[at]);
            }
            Value::Array(items) if self.chance.one_in(2) => items.extend((0..100).map(|_| odd.clone())),
            other => *other = odd,
        }
    }

    /// A value as it is described.
    fn value(&mut self, schema: &Value, depth: u32) -> Value {
        let schema = self.description.resolve(schema);
        let described = [&schema["anyOf"], &schema["oneOf"], &schema["enum"]].into_iter().find_map(Value::as_array);
        if let Some(choices) = described.filter(|choices| !choices.is_empty()) {
            let choice = self.chance.pick(choices).clone();
            return if schema["enum"].is_array() { choice } else { self.value(&choice, depth + 1) };
        }
        if !schema["const"].is_null() {
            return schema["const"].clone();
        }
        let kinds: Vec<_> = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            kind => kind.as_str().into_iter().collect(),
        };
        let kind = if kinds.is_empty() { "null" } else { *self.chance.pick(&kinds) };
        match kind {
            "boolean" => self.chance.one_in(2).into(),
            "integer" | "number" => {
                let (least, most) = (schema["minimum"].as_u64().unwrap_or(0), schema["maximum"].as_u64().unwrap_or(16));
                (*self.chance.pick(&[least, most, least + 1, 3.clamp(least, most)])).into()
            }
            "string" if schema["format"] == "date-time" => {
                (*self.chance.pick(&["2026-01-31T12:00:00Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])).into()
            }
            // Nobody waits for longer.
            "string" if schema["pattern"].as_str().is_some_and(|pattern| pattern.contains("ms|s")) => {
                (*self.chance.pick(&["0s", "5ms", "1s", "366d"])).into()
            }
            "string" if schema["pattern"].is_string() => (*self.chance.pick(&["0", "1GiB", "4096"])).into(),
            "string" => {
                let made = format!("made-{}", self.chance.below(40));
                let texts = ["orders", GROUP, "steps", "earliest", "latest", "offset:0", "a b", "%DLQ%x", "k", &made];
                (*self.chance.pick(&texts)).into()
            }
            "array" if depth < 6 => {
                (0..self.chance.below(3)).map(|_| self.value(&schema["items"], depth + 1)).collect()
            }
            "object" if depth < 6 => {
                let mut members = Map::new();
                for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                    let is_needed = schema["required"].as_array().is_some_and(|needed| needed.contains(&json!(name)));
                    if is_needed || self.chance.one_in(2) {
                        members.insert(name.clone(), self.value(property, depth + 1));
                    }
                }
                members.into()
            }
            _ => Value::Null,
        }
    }
}

/// What is wrong with an answer to whatever was asked.
fn objection(description: &Description, operation: &Operation, answer: Option<&http::Whole>) -> Option<String> {
    let Some(answer) = answer else { return Some("the connection ended without an answer".into()) };
    // Whether the server is ready is the question there, and it may have been drained.
    if answer.status >= 500 && operation.path != "/readyz" {
        return Some(format!("status {}: {}", answer.status, String::from_utf8_lossy(&answer.body)));
    }
    if let Some(objection) = description.objection(operation, answer) {
        return Some(objection);
    }
    if matches!(answer.status, 400 | 422) {
        let problem = answer.json().unwrap_or_default();
        let has = |name| problem.get(name).is_some();
        if !has("field") || !has("value") {
            return Some(format!("does not say field and value: {problem}"));
        }
    }
    None
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}")))
}

async fn is_well(scene: &Scene) {
    for node in scene.cluster.brokers.iter().chain(&scene.cluster.nameservers) {
        assert_eq!(node.get("/livez").await.status, 200, "{}", node.log());
        assert!(!node.log().contains("panicked"), "{}", node.log());
    }
}

#[tokio::test]
async fn nonsense_is_refused_in_the_described_form() {
    let scene = Scene::start().await;
    let (seed, count) = (number("CARILLON_ADMIN_FUZZ_SEED", SEED), number("CARILLON_ADMIN_FUZZ", REQUESTS));
    for (node, share) in [(scene.broker(), count), (&scene.cluster.nameservers[0], count / 10)] {
        let description = Description::read(&node.http()).await;
        let mut maker = Maker { chance: Chance::new(seed), description: &description, scene: &scene };
        for number in 0..share {
            let (operation, request) = maker.request();
            let Request { method, path, body } = &request;
            let answer = http::call(&node.http(), method, path, body).await;
            if let Some(objection) = objection(&description, &operation, answer.as_ref()) {
                let body = String::from_utf8_lossy(&body[..body.len().min(500)]);
                panic!(
                    "{objection}\nto {method} {path} of {} with {body}\nrequest {number} of CARILLON_ADMIN_FUZZ_SEED={seed}, \
                     CARILLON_ADMIN_FUZZ={count}",
                    node.name()
                );
            }
        }
    }
    is_well(&scene).await;
}

/// What was found once, or is too large to be made at every turn: method, path, body, and what the answer says.
#[tokio::test]
async fn what_was_found_stays_mended() {
    let scene = Scene::start().await;
    let broker = scene.broker();
    let description = Description::read(&broker.http()).await;
    let large = "x".repeat(9 << 20);
    let deep = format!("{{\"name\":{}", "[".repeat(1 << 20));
    for (method, path, body, status, code, field) in [
        ("POST", "/api/v1/topics", large.as_str(), 413, "too_large", Some("body")),
        ("POST", "/api/v1/topics", &deep, 400, "invalid_body", Some("name")),
        ("GET", "/api/v1/topics/%FF", "", 400, "invalid_parameter", Some("name")),
        ("GET", "/api/v1/topics/a%20b", "", 422, "illegal_value", Some("name")),
        ("GET", "/api/v1/topics?limit=0", "", 400, "invalid_parameter", Some("limit")),
        ("GET", "/api/v1/topics?cursor=%FF", "", 400, "invalid_cursor", Some("cursor")),
        ("GET", "/api/v1/messages", "", 400, "invalid_parameter", Some("key")),
        ("GET", "/metrics?x", "", 400, "invalid_parameter", Some("x")),
        ("GET", "/api/v1/topics/", "", 404, "not_found", None),
    ] {
        let answer = http::call(&broker.http(), method, path, body.as_bytes()).await.expect("an answer");
        let problem = answer.json().unwrap_or_default();
        let said = (answer.status, problem["code"].as_str().unwrap_or_default(), problem["field"].as_str());
        assert_eq!(said, (status, code, field), "{method} {path}: {problem}");
        if let Some(operation) =
            description.operations.iter().find(|known| known.path == path && known.method == method)
        {
            assert_eq!(objection(&description, operation, Some(&answer)), None, "{method} {path}");
        }
    }
    is_well(&scene).await;
}
