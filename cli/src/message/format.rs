//! How a message is shown: one line, or as a format with letters asks for.

use std::fmt::Write;

use clap::ValueEnum;

/// Letters of a format, for `--help`.
pub const LETTERS: &str = "%b body, %i message id, %t topic, %B broker, %q queue, %o offset, %k keys, \
    %g message group, %T tag, %v visible since, %s size of the body, %% a percent sign; \\n and \\t as usual";

/// How bodies are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BodyForm {
    /// As it is; what is no UTF-8 is replaced.
    Text,
    /// Indented, when it is JSON.
    Json,
    Hex,
}

impl BodyForm {
    pub fn render(self, body: &[u8]) -> String {
        match self {
            Self::Text => String::from_utf8_lossy(body).into_owned(),
            Self::Json => serde_json::from_slice::<serde_json::Value>(body)
                .map_or_else(|_| Self::Text.render(body), |value| format!("{value:#}")),
            Self::Hex => body.iter().fold(String::with_capacity(body.len() * 2), |mut text, byte| {
                write!(text, "{byte:02x}").expect("a string takes what it is given");
                text
            }),
        }
    }
}

/// What of a message can be shown, wherever it came from.
#[derive(Debug, Clone)]
pub struct Shown<'a> {
    pub message_id: &'a str,
    pub topic: &'a str,
    /// Empty where it is not known.
    pub broker: &'a str,
    pub queue: u16,
    pub offset: u64,
    pub tag: Option<&'a str>,
    pub keys: &'a [String],
    pub message_group: Option<&'a str>,
    pub visible_since: Option<String>,
    pub body: &'a [u8],
}

impl Shown<'_> {
    /// Where it is, what it is called, and its body.
    pub fn line(&self, form: BodyForm) -> String {
        let mut line = format!("{}/{}", self.queue, self.offset);
        if let Some(since) = &self.visible_since {
            line += &format!("  {since}");
        }
        if let Some(group) = self.message_group {
            line += &format!("  group={group}");
        }
        if !self.keys.is_empty() {
            line += &format!("  key={}", self.keys.join(","));
        }
        if let Some(tag) = self.tag {
            line += &format!("  tag={tag}");
        }
        let separator = if form == BodyForm::Json { "\n" } else { "  " };
        line + separator + &form.render(self.body)
    }

    /// What `format` asks for; a letter that means nothing stays as it is.
    pub fn by_format(&self, format: &str, form: BodyForm) -> String {
        let mut text = String::new();
        let mut rest = format.chars();
        while let Some(character) = rest.next() {
            match character {
                '%' => self.field(rest.next(), form, &mut text),
                '\\' => match rest.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('\\') | None => text.push('\\'),
                    Some(other) => text.extend(['\\', other]),
                },
                other => text.push(other),
            }
        }
        text
    }

    fn field(&self, letter: Option<char>, form: BodyForm, text: &mut String) {
        match letter {
            Some('b') => *text += &form.render(self.body),
            Some('i') => *text += self.message_id,
            Some('t') => *text += self.topic,
            Some('B') => *text += self.broker,
            Some('q') => *text += &self.queue.to_string(),
            Some('o') => *text += &self.offset.to_string(),
            Some('k') => *text += &self.keys.join(","),
            Some('g') => *text += self.message_group.unwrap_or_default(),
            Some('T') => *text += self.tag.unwrap_or_default(),
            Some('v') => *text += self.visible_since.as_deref().unwrap_or_default(),
            Some('s') => *text += &self.body.len().to_string(),
            Some('%') | None => text.push('%'),
            Some(other) => text.extend(['%', other]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown<'a>(keys: &'a [String], body: &'a [u8]) -> Shown<'a> {
        Shown {
            message_id: "01AB",
            topic: "orders",
            broker: "b",
            queue: 3,
            offset: 7,
            tag: Some("paid"),
            keys,
            message_group: None,
            visible_since: None,
            body,
        }
    }

    #[test]
    fn a_format_is_filled_in_and_what_it_does_not_know_stays() {
        let keys = ["a".to_owned(), "b".to_owned()];
        let message = shown(&keys, b"body");
        let text = message.by_format("%i %t/%B/%q/%o [%k] %T g=%g %s %b%%\\n\\x%z%", BodyForm::Text);
        assert_eq!(text, "01AB orders/b/3/7 [a,b] paid g= 4 body%\n\\x%z%");
    }

    #[test]
    fn bodies_are_text_json_or_hex() {
        assert_eq!(BodyForm::Text.render(b"a\xff"), "a\u{fffd}");
        assert_eq!(BodyForm::Json.render(br#"{"a":1}"#), "{\n  \"a\": 1\n}");
        assert_eq!(BodyForm::Json.render(b"no json"), "no json");
        assert_eq!(BodyForm::Hex.render(&[0, 255]), "00ff");
    }

    #[test]
    fn a_line_leaves_out_what_is_not_there() {
        assert_eq!(shown(&[], b"x").line(BodyForm::Text), "3/7  tag=paid  x");
    }
}
