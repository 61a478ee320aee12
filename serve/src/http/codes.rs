//! The codes of problems (operations D2). Programs decide by them: each belongs to one status, and stays.

use http::StatusCode;

/// What kind of problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    pub word: &'static str,
    pub status: StatusCode,
    /// For the description of the API.
    pub meaning: &'static str,
}

macro_rules! codes {
    ($($name:ident = $status:ident, $word:literal, $meaning:literal;)*) => {
        $(pub const $name: Code = Code { word: $word, status: StatusCode::$status, meaning: $meaning };)*
        /// Every code there is.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    INVALID_PARAMETER = BAD_REQUEST, "invalid_parameter", "a parameter is unknown, missing, there twice, or not of its form";
    INVALID_BODY = BAD_REQUEST, "invalid_body", "the body is not JSON, or not of its form";
    UNKNOWN_FIELD = BAD_REQUEST, "unknown_field", "the body has a field that is not known";
    INVALID_CURSOR = BAD_REQUEST, "invalid_cursor", "the cursor is none that this server gave out for this list";
    FORBIDDEN = FORBIDDEN, "forbidden", "a page of another site may not change anything";
    NOT_FOUND = NOT_FOUND, "not_found", "nothing has this path";
    TOPIC_NOT_FOUND = NOT_FOUND, "topic_not_found", "there is no such topic";
    GROUP_NOT_FOUND = NOT_FOUND, "group_not_found", "there is no such group";
    MESSAGE_NOT_FOUND = NOT_FOUND, "message_not_found", "no message with this id is stored";
    CLIENT_NOT_FOUND = NOT_FOUND, "client_not_found", "no such client is connected";
    NODE_NOT_FOUND = NOT_FOUND, "node_not_found", "no broker of this name is known";
    METHOD_NOT_ALLOWED = METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not take the method";
    EXISTS_WITH_OTHER_SETTINGS = CONFLICT, "exists_with_other_settings", "it exists, and not as it was asked for";
    TOPIC_LIVES_ELSEWHERE = CONFLICT, "topic_lives_elsewhere", "a topic in which order is kept is on another broker";
    TOPIC_HAS_BACKLOG = CONFLICT, "topic_has_backlog", "what the topic holds would be lost; force does it";
    GROUP_HAS_CONSUMERS = CONFLICT, "group_has_consumers", "consumers are connected; force does it";
    REQUEST_TIMEOUT = REQUEST_TIMEOUT, "request_timeout", "the body took too long to arrive";
    TOO_LARGE = PAYLOAD_TOO_LARGE, "too_large", "the body is larger than this server reads";
    ILLEGAL_VALUE = UNPROCESSABLE_ENTITY, "illegal_value", "a value is of its form, and not allowed";
    OVERLOADED = TOO_MANY_REQUESTS, "overloaded", "too much at once; try again later";
    MISDIRECTED = MISDIRECTED_REQUEST, "misdirected", "another broker was asked, and this one was reached";
    UNREACHABLE = GATEWAY_TIMEOUT, "unreachable", "another broker, whose answer is needed, cannot be reached";
    INTERNAL = INTERNAL_SERVER_ERROR, "internal", "the server failed; whether anything was done is not known";
    DRAINING = SERVICE_UNAVAILABLE, "draining", "the server is about to stop";
    WRITES_DISABLED = SERVICE_UNAVAILABLE, "writes_disabled", "the log has failed, nothing can be changed";
    LOOK_UP_INCOMPLETE = SERVICE_UNAVAILABLE, "look_up_incomplete", "not everything could be looked through; ask again";
    DISK_FULL = INSUFFICIENT_STORAGE, "disk_full", "the disk has no more than its reserve";
}

/// The code of this word.
pub fn of(word: &str) -> Option<Code> {
    ALL.iter().find(|code| code.word == word).copied()
}

/// What every change of the catalog or of progress may meet.
pub const OF_CHANGES: [Code; 5] = [OVERLOADED, INTERNAL, DRAINING, WRITES_DISABLED, DISK_FULL];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_has_two_meanings() {
        let mut words: Vec<_> = ALL.iter().map(|code| code.word).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), ALL.len());
    }
}
