//! The description of an admin API, as a test holds answers against it.

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use crate::http::{self, Whole};

/// Paths that are no operation's, and methods that a path does not take, are answered so everywhere.
const GENERAL: [&str; 2] = ["not_found", "method_not_allowed"];

/// What a server says of its API.
pub struct Description {
    document: Value,
    pub operations: Vec<Operation>,
}

/// A method on a path.
#[derive(Debug, Clone)]
pub struct Operation {
    pub method: String,
    /// With names in braces.
    pub path: String,
    described: Value,
}

impl Description {
    pub async fn read(address: &str) -> Self {
        let answer = http::get(address, "/api/v1/openapi.json").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let mut document = answer.json();
        assert_eq!(document["openapi"], "3.1.0");
        let schemas = document["components"]["schemas"].as_object_mut().expect("there are types");
        // What an answer has beside what is described is not described.
        schemas.values_mut().for_each(close);
        let paths = document["paths"].as_object().expect("there are paths");
        let operations = paths.iter().flat_map(|(path, methods)| {
            methods.as_object().into_iter().flatten().map(|(method, described)| Operation {
                method: method.to_ascii_uppercase(),
                path: path.clone(),
                described: described.clone(),
            })
        });
        let operations = operations.collect();
        Self { document, operations }
    }

    /// Methods of a path, as the header Allow has them.
    pub fn methods(&self, path: &str) -> Vec<String> {
        let of_path = self.operations.iter().filter(|operation| operation.path == path);
        let mut methods: Vec<_> = of_path.map(|operation| operation.method.clone()).collect();
        if methods.iter().any(|method| method == "GET") {
            methods.push("HEAD".into());
        }
        methods.sort_unstable();
        methods
    }

    /// The problem with an answer, if it is not as described.
    pub fn objection(&self, operation: &Operation, answer: &Whole) -> Option<String> {
        let kind = answer.header("content-type").unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default();
        let body = answer.json();
        let code = body.as_ref().map(|body| body["code"].clone()).unwrap_or_default();
        if kind == "application/problem+json" && GENERAL.iter().any(|general| code == *general) {
            return self.misfit(&json!({"$ref": "#/components/schemas/ProblemJson"}), body.as_ref()?);
        }
        let response = &operation.described["responses"][answer.status.to_string()];
        if response.is_null() {
            return Some(format!("status {} is not described", answer.status));
        }
        let content = response["content"].as_object();
        match (content.filter(|content| !content.is_empty()), answer.body.is_empty()) {
            (None, true) => None,
            (None, false) => Some(format!("status {} has a body", answer.status)),
            // An empty body of a message is one.
            (Some(content), _) => match content.get(kind) {
                None => Some(format!("status {} is of type {kind:?}", answer.status)),
                Some(content) if content["schema"].is_null() => None,
                Some(content) => match body {
                    Some(body) => self.misfit(&content["schema"], &body),
                    None => Some(format!("{} is no JSON", String::from_utf8_lossy(&answer.body))),
                },
            },
        }
    }

    /// What a value may be: all references are followed.
    pub fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str().and_then(|place| place.strip_prefix('#')) {
            Some(place) => self.document.pointer(place).unwrap_or_else(|| panic!("nothing is at {place}")),
            None => schema,
        }
    }

    fn misfit(&self, schema: &Value, value: &Value) -> Option<String> {
        let whole = json!({"components": self.document["components"], "allOf": [schema]});
        let validator: Validator = jsonschema::validator_for(&whole).expect("schemas are valid");
        let errors: Vec<_> = validator.iter_errors(value).map(|e| format!("{} at {}", e, e.instance_path())).collect();
        (!errors.is_empty()).then(|| format!("{value} is not as described: {}", errors.join("; ")))
    }
}

impl Operation {
    /// Name, whether it is needed, and schema of each parameter at `place`: `path` or `query`.
    pub fn parameters<'a>(&'a self, place: &'a str) -> impl Iterator<Item = (&'a str, bool, &'a Value)> {
        let all = self.described["parameters"].as_array().into_iter().flatten();
        all.filter(move |parameter| parameter["in"] == place).map(|parameter| {
            let name = parameter["name"].as_str().expect("parameters have names");
            (name, parameter["required"] == true, &parameter["schema"])
        })
    }

    /// What a body has to be; none without one.
    pub fn body(&self) -> Option<&Value> {
        let schema = &self.described["requestBody"]["content"]["application/json"]["schema"];
        (!schema.is_null()).then_some(schema)
    }

    /// What is said of a status.
    pub fn statuses(&self) -> &Map<String, Value> {
        self.described["responses"].as_object().expect("an operation answers")
    }

    pub fn summary(&self) -> &str {
        self.described["summary"].as_str().unwrap_or_default()
    }
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            members.values_mut().for_each(close);
            if members.get("properties").is_some_and(Value::is_object)
                && members.get("type").is_some_and(|t| t == "object")
            {
                members.entry("additionalProperties").or_insert(false.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
