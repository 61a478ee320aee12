//! How values of other crates look in JSON, for the description of the API.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::json::DurationJson;

/// [`base::ByteSize`].
pub struct Size;

/// [`base::GroupOrder`].
#[derive(JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(dead_code, reason = "it is only described")]
pub enum Order {
    /// On every FIFO topic.
    Auto,
    Always,
    Never,
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Bytes, or a text such as 256MiB; answers have the text.",
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^ *[0-9]+ *([KMGT]i)?B? *$"}],
        })
    }
}

impl JsonSchema for DurationJson {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A whole number with its unit, such as 250ms, 30s, 90m, 2h or 7d.",
            "type": "string",
            "pattern": "^ *[0-9]+ *(ms|s|m|h|d) *$",
        })
    }
}
