//! Which messages of a topic a group wants (gRPC specification §6.10). Tag filters never read a body.

use std::sync::Arc;

use storage::hash::HashKey;
use storage::record::FilterSpec;

use crate::api::{FilterKind, FilterText};
use crate::refusal::Refusal;
use base::limits::FILTER_BYTES_MAX;

/// A filter in the form that is applied to every entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    All,
    /// Tags and their hashes, sorted by hash.
    Tags(Arc<[(u32, Arc<str>)]>),
}

impl Filter {
    /// Reads a client's filter. The text that is stored is normalised, so that filters that mean the same are equal.
    pub fn parse(text: &FilterText, key: &HashKey) -> Result<(Self, FilterSpec), Refusal> {
        if text.expression.len() > FILTER_BYTES_MAX {
            let (size, max) = (text.expression.len(), FILTER_BYTES_MAX);
            return Err(Refusal::FieldTooLarge { field: "filter_expression", size, max });
        }
        if text.kind == FilterKind::Sql {
            let problem = "SQL filters are not supported yet; use tags";
            return Err(Refusal::IllegalFilter { expression: text.expression.clone(), problem });
        }
        let mut tags: Vec<&str> = text.expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()).collect();
        tags.sort_unstable();
        tags.dedup();
        let expression = if tags.is_empty() || tags.contains(&"*") { "*".into() } else { tags.join("||") };
        let spec = FilterSpec { is_sql: false, expression: expression.into() };
        Ok((Self::of(&spec, key), spec))
    }

    /// The filter that a store remembers.
    pub fn of(spec: &FilterSpec, key: &HashKey) -> Self {
        if spec.is_sql || &*spec.expression == "*" {
            return Self::All;
        }
        let mut tags: Vec<(u32, Arc<str>)> =
            spec.expression.split("||").map(|tag| (key.tag(tag), Arc::from(tag))).collect();
        tags.sort_unstable();
        Self::Tags(tags.into())
    }

    /// Whether a message with this tag hash may be wanted; hashes may collide.
    pub fn may_match(&self, tag_hash: u32) -> bool {
        match self {
            Self::All => true,
            Self::Tags(tags) => tags.binary_search_by_key(&tag_hash, |(hash, _)| *hash).is_ok(),
        }
    }

    /// Whether a message with this tag is wanted.
    pub fn matches(&self, tag: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::Tags(tags) => tag.is_some_and(|tag| tags.iter().any(|(_, wanted)| &**wanted == tag)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey([1; 16]);

    fn parse(expression: &str) -> Filter {
        let text = FilterText { kind: FilterKind::Tag, expression: expression.into() };
        Filter::parse(&text, &KEY).expect("tags are always legal").0
    }

    #[test]
    fn tags_are_split_trimmed_and_matched_exactly() {
        let cases: [(&str, &[&str]); 6] = [
            ("a || b", &["a", "b"]),
            (" a", &["a"]),
            ("a||c||", &["a", "c"]),
            ("d", &["d"]),
            ("*", &["a", "b", "c", "d", "A"]),
            ("", &["a", "b", "c", "d", "A"]),
        ];
        for (expression, wanted) in cases {
            let filter = parse(expression);
            let got: Vec<&str> =
                ["a", "b", "c", "d", "A"].into_iter().filter(|tag| filter.matches(Some(tag))).collect();
            let mut sorted = wanted.to_vec();
            sorted.sort_unstable();
            let mut got_sorted = got.clone();
            got_sorted.sort_unstable();
            assert_eq!(got_sorted, sorted, "{expression:?}");
            assert!(wanted.iter().all(|tag| filter.may_match(KEY.tag(tag))));
            assert_eq!(filter.matches(None), filter == Filter::All, "{expression:?} without a tag");
        }
    }

    #[test]
    fn filters_that_mean_the_same_are_stored_alike() {
        let spec = |expression: &str| {
            let text = FilterText { kind: FilterKind::Tag, expression: expression.into() };
            Filter::parse(&text, &KEY).expect("legal").1
        };
        assert_eq!(spec("b|| a"), spec("a||b||a"));
        assert_eq!(spec("a||*"), spec(""));
    }
}
