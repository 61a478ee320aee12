//! What a refusal is called in the protocol. The only file that knows status codes.
//!
//! Every failure of a call is an ordinary reply with a status of its own; only Telemetry ends with an error of gRPC
//! itself (specification §3).

use proto::v2;
use proto::v2::Code;

use crate::refusal::Refusal;

/// A status text is for people who read logs: what a client sent is not repeated to it at length.
const TEXT_BYTES_MAX: usize = 512;

/// Why the gateway does not answer a call with OK.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denial {
    #[error("the header x-mq-client-id is missing or blank")]
    ClientIdRequired,
    #[error("the header x-mq-client-id has {size} bytes, the limit is {max}")]
    ClientIdTooLong { size: usize, max: usize },
    #[error("client type {0} is not known")]
    UnknownClientType(i32),
    #[error("{0} is not implemented by this server")]
    NotImplemented(&'static str),
    #[error("there is no message")]
    NoMessage,
    #[error("the request did not arrive within {seconds} s")]
    TooSlow { seconds: u64 },
    #[error("{0}")]
    Refused(Refusal),
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Denial {
    pub(super) fn code(&self) -> Code {
        match self {
            Self::ClientIdRequired | Self::ClientIdTooLong { .. } => Code::ClientIdRequired,
            Self::UnknownClientType(_) => Code::UnrecognizedClientType,
            Self::NotImplemented(_) => Code::NotImplemented,
            Self::NoMessage => Code::MessageNotFound,
            Self::TooSlow { .. } => Code::RequestTimeout,
            Self::Refused(refusal) => code(refusal),
        }
    }

    /// Why the call was not admitted, as `carillon_requests_refused_total` counts it. None where the call was admitted
    /// and merely found nothing to do.
    pub(super) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::ClientIdRequired | Self::UnknownClientType(_) => Some("invalid"),
            Self::ClientIdTooLong { .. } | Self::TooSlow { .. } => Some("limit"),
            Self::NotImplemented(_) | Self::NoMessage => None,
            Self::Refused(refusal) => reason(refusal),
        }
    }

    /// The status inside a reply.
    pub(super) fn status(&self) -> v2::Status {
        let text = match self {
            // Clients show the code FORBIDDEN for all of these: which one it is stands at the head of the text.
            Self::Refused(Refusal::DiskFull { .. } | Refusal::WritesDisabled { .. } | Refusal::Draining) => {
                format!("{}: {self}", self.reason().unwrap_or_default())
            }
            _ => self.to_string(),
        };
        v2::Status { code: self.code().into(), message: cut(text) }
    }

    /// The end of a Telemetry stream: the client's fault or ours.
    pub(super) fn end_of_stream(&self) -> tonic::Status {
        let status = self.status();
        match status.code {
            40_000..50_000 => tonic::Status::invalid_argument(status.message),
            _ => tonic::Status::internal(status.message),
        }
    }
}

pub(super) fn ok() -> v2::Status {
    v2::Status { code: Code::Ok.into(), message: "OK".into() }
}

/// The status over several results: theirs when they agree.
pub(super) fn common<'a>(statuses: impl Iterator<Item = &'a v2::Status>) -> v2::Status {
    let mut statuses = statuses.peekable();
    let Some(first) = statuses.peek().cloned().cloned() else { return ok() };
    if statuses.all(|status| status.code == first.code) {
        return first;
    }
    v2::Status { code: Code::MultipleResults.into(), message: "the entries differ".into() }
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text.push('…');
    }
    text
}

fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::IllegalTopic(_) => Code::IllegalTopic,
        Refusal::IllegalGroup(_) | Refusal::SettingsWithoutGroup => Code::IllegalConsumerGroup,
        Refusal::TopicNotFound(_) | Refusal::TopicElsewhere { .. } | Refusal::Gone => Code::TopicNotFound,
        Refusal::GroupNotFound(_) => Code::ConsumerGroupNotFound,
        Refusal::NoMessages | Refusal::TwoTopics { .. } | Refusal::BodyCorrupted { .. } => Code::MessageCorrupted,
        Refusal::BodyEmpty => Code::MessageBodyEmpty,
        Refusal::BodyTooLarge { .. } => Code::MessageBodyTooLarge,
        Refusal::TooManyProperties { .. } | Refusal::PropertiesTooLarge { .. } => Code::MessagePropertiesTooLarge,
        Refusal::IllegalProperty { .. } => Code::IllegalMessagePropertyKey,
        Refusal::IllegalTag { .. } => Code::IllegalMessageTag,
        Refusal::IllegalKey { .. } => Code::IllegalMessageKey,
        Refusal::IllegalMessageId { .. } => Code::IllegalMessageId,
        Refusal::IllegalMessageGroup { .. } => Code::IllegalMessageGroup,
        Refusal::DeliveryTooFar { .. } => Code::IllegalDeliveryTime,
        Refusal::WrongMessageType { .. } => Code::MessagePropertyConflictWithType,
        // A client that filters by SQL learns that its filter is the problem, not the call.
        Refusal::Unsupported { feature } if feature.starts_with("SQL") => Code::IllegalFilterExpression,
        Refusal::Unsupported { .. } => Code::NotImplemented,
        Refusal::IllegalFilter { .. } => Code::IllegalFilterExpression,
        Refusal::IllegalInvisibleTime { .. } => Code::IllegalInvisibleTime,
        Refusal::InvalidHandle { .. } => Code::InvalidReceiptHandle,
        Refusal::InvalidTransaction { .. } => Code::InvalidTransactionId,
        Refusal::NothingToRecall { .. } => Code::MessageNotFound,
        Refusal::TooManyMessages { .. } | Refusal::FieldTooLarge { .. } => Code::BadRequest,
        Refusal::CheckAfterTooLong { .. } | Refusal::SettingsWithoutSide => Code::BadRequest,
        Refusal::NoEntries | Refusal::TooManyEntries { .. } | Refusal::IllegalRecallHandle { .. } => Code::BadRequest,
        Refusal::Overloaded { .. } => Code::TooManyRequests,
        Refusal::DiskFull { .. } | Refusal::WritesDisabled { .. } | Refusal::Draining => Code::Forbidden,
        Refusal::TopicNotWritable(_) => Code::Forbidden,
        Refusal::HolderAway { .. } => Code::HaNotAvailable,
        Refusal::OutcomeUnknown { .. } | Refusal::Unreadable { .. } => Code::InternalServerError,
    }
}

fn reason(refusal: &Refusal) -> Option<&'static str> {
    match refusal {
        Refusal::Overloaded { .. } => Some("overload"),
        Refusal::DiskFull { .. } => Some("disk_full"),
        Refusal::WritesDisabled { .. } => Some("writes_disabled"),
        Refusal::Draining => Some("draining"),
        Refusal::BodyTooLarge { .. } | Refusal::TooManyProperties { .. } | Refusal::PropertiesTooLarge { .. } => {
            Some("limit")
        }
        Refusal::TooManyMessages { .. } | Refusal::TooManyEntries { .. } | Refusal::FieldTooLarge { .. } => {
            Some("limit")
        }
        Refusal::DeliveryTooFar { .. } | Refusal::CheckAfterTooLong { .. } => Some("limit"),
        Refusal::IllegalTopic(_) | Refusal::IllegalGroup(_) | Refusal::TopicNotWritable(_) => Some("invalid"),
        Refusal::NoMessages | Refusal::TwoTopics { .. } | Refusal::BodyEmpty | Refusal::BodyCorrupted { .. } => {
            Some("invalid")
        }
        Refusal::IllegalProperty { .. } | Refusal::IllegalTag { .. } | Refusal::IllegalKey { .. } => Some("invalid"),
        Refusal::IllegalMessageId { .. } | Refusal::IllegalMessageGroup { .. } => Some("invalid"),
        Refusal::WrongMessageType { .. } | Refusal::Unsupported { .. } | Refusal::IllegalFilter { .. } => {
            Some("invalid")
        }
        Refusal::IllegalInvisibleTime { .. } | Refusal::NoEntries | Refusal::IllegalRecallHandle { .. } => {
            Some("invalid")
        }
        Refusal::SettingsWithoutSide | Refusal::SettingsWithoutGroup => Some("invalid"),
        Refusal::Gone | Refusal::GroupNotFound(_) => None,
        Refusal::TopicNotFound(_) | Refusal::InvalidHandle { .. } | Refusal::InvalidTransaction { .. } => None,
        Refusal::NothingToRecall { .. } | Refusal::OutcomeUnknown { .. } | Refusal::Unreadable { .. } => None,
        Refusal::HolderAway { .. } | Refusal::TopicElsewhere { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use base::NameError;

    use super::*;

    fn code_of(refusal: Refusal) -> Code {
        Denial::from(refusal).code()
    }

    #[test]
    fn refusals_have_the_codes_of_the_specification() {
        let topic = || base::TopicName::parse("t").unwrap();
        let problem = "x";
        for (refusal, expected) in [
            (Refusal::IllegalTopic(NameError::Empty { what: "topic" }), Code::IllegalTopic),
            (Refusal::IllegalGroup(NameError::Empty { what: "group" }), Code::IllegalConsumerGroup),
            (Refusal::TopicNotFound(topic()), Code::TopicNotFound),
            (Refusal::TopicNotWritable(topic()), Code::Forbidden),
            (Refusal::NoMessages, Code::MessageCorrupted),
            (Refusal::BodyTooLarge { size: 2, max: 1 }, Code::MessageBodyTooLarge),
            (Refusal::TooManyProperties { count: 2, max: 1 }, Code::MessagePropertiesTooLarge),
            (Refusal::CheckAfterTooLong { asked: 2, max: 1 }, Code::BadRequest),
            (Refusal::InvalidHandle { problem }, Code::InvalidReceiptHandle),
            (Refusal::NothingToRecall { problem }, Code::MessageNotFound),
            (Refusal::Overloaded { limit: "inbox" }, Code::TooManyRequests),
            (Refusal::OutcomeUnknown { cause: "x" }, Code::InternalServerError),
            (Refusal::Unsupported { feature: "SQL filters" }, Code::IllegalFilterExpression),
            (Refusal::Unsupported { feature: "lite topics" }, Code::NotImplemented),
        ] {
            assert_eq!(code_of(refusal.clone()), expected, "{refusal:?}");
        }
    }

    #[test]
    fn a_server_that_cannot_write_says_forbidden_and_why() {
        for (refusal, word) in [
            (Refusal::DiskFull { free: 1, reserve: 2 }, "disk_full: "),
            (Refusal::WritesDisabled { cause: "sync".into() }, "writes_disabled: "),
            (Refusal::Draining, "draining: "),
        ] {
            let status = Denial::from(refusal).status();
            assert_eq!(status.code, i32::from(Code::Forbidden));
            assert!(status.message.starts_with(word), "{}", status.message);
        }
    }

    #[test]
    fn telemetry_ends_with_the_clients_fault_or_ours() {
        let theirs = Denial::from(Refusal::SettingsWithoutSide).end_of_stream();
        assert_eq!(theirs.code(), tonic::Code::InvalidArgument);
        assert_eq!(Denial::ClientIdRequired.end_of_stream().code(), tonic::Code::InvalidArgument);
        let ours = Denial::from(Refusal::OutcomeUnknown { cause: "x" }).end_of_stream();
        assert_eq!(ours.code(), tonic::Code::Internal);
    }

    #[test]
    fn a_long_text_of_a_client_is_not_sent_back_whole() {
        let status = Denial::from(Refusal::IllegalKey { key: "ü".repeat(10_000), problem: "is long" }).status();
        assert!(status.message.len() < TEXT_BYTES_MAX + 4 && status.message.ends_with('…'));
    }

    #[test]
    fn entries_that_agree_give_their_status_and_others_multiple_results() {
        let bad = Denial::from(Refusal::NoEntries).status();
        assert_eq!(common([&ok(), &ok()].into_iter()).code, i32::from(Code::Ok));
        assert_eq!(common([&bad, &bad].into_iter()), bad);
        assert_eq!(common([&ok(), &bad].into_iter()).code, i32::from(Code::MultipleResults));
    }
}
