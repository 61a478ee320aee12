//! Why a call failed.

use proto::v2;

/// Why a call failed. Only [`Error::Refused`] is the server's word that nothing happened: after every other error of a
/// send the message may be stored all the same.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{endpoint:?} is not an endpoint; write host:port, such as \"127.0.0.1:8081\"")]
    Endpoint { endpoint: String },
    #[error("{endpoint} cannot be reached")]
    Unreachable {
        endpoint: String,
        #[source]
        source: tonic::transport::Error,
    },
    /// The server answered, and the answer is no.
    #[error("{}: {text}", code_name(*.code))]
    Refused { code: i32, text: String },
    /// The call broke below the protocol: connection lost, deadline over, or a server that does not know the call.
    #[error("call failed: {}: {}", .status.code(), .status.message())]
    Call { status: Box<tonic::Status> },
    /// An answer that the protocol does not allow.
    #[error("the server's answer to {call} breaks the protocol: {problem}")]
    Answer { call: &'static str, problem: &'static str },
}

impl Error {
    /// The protocol's code, when the server gave one that is known.
    pub fn code(&self) -> Option<v2::Code> {
        match self {
            Self::Refused { code, .. } => v2::Code::try_from(*code).ok(),
            Self::Endpoint { .. } | Self::Unreachable { .. } | Self::Call { .. } | Self::Answer { .. } => None,
        }
    }

    /// True when the same call may work later, unchanged.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { code, .. } => is_retryable_code(*code),
            Self::Call { status } => matches!(
                status.code(),
                tonic::Code::Unavailable
                    | tonic::Code::DeadlineExceeded
                    | tonic::Code::Cancelled
                    | tonic::Code::ResourceExhausted
                    | tonic::Code::Aborted
                    | tonic::Code::Unknown
                    | tonic::Code::Internal
            ),
            Self::Endpoint { .. } | Self::Answer { .. } => false,
        }
    }

    /// True when no server answered, whatever the reason.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Call { status } => {
                matches!(status.code(), tonic::Code::Unavailable | tonic::Code::DeadlineExceeded)
            }
            Self::Endpoint { .. } | Self::Refused { .. } | Self::Answer { .. } => false,
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Call { status: Box::new(status) }
    }
}

/// `Ok` for OK; MULTIPLE_RESULTS counts as OK where entries carry the results.
pub(crate) fn check(call: &'static str, status: Option<v2::Status>) -> Result<(), Error> {
    let status = status.ok_or(Error::Answer { call, problem: "it has no status" })?;
    if status.code == v2::Code::Ok as i32 {
        return Ok(());
    }
    Err(Error::Refused { code: status.code, text: status.message })
}

fn is_retryable_code(code: i32) -> bool {
    use v2::Code;
    matches!(
        Code::try_from(code),
        Ok(Code::TooManyRequests
            | Code::RequestTimeout
            | Code::InternalError
            | Code::InternalServerError
            | Code::HaNotAvailable
            | Code::ProxyTimeout
            | Code::MasterPersistenceTimeout
            | Code::SlavePersistenceTimeout)
    )
}

fn code_name(code: i32) -> String {
    match v2::Code::try_from(code) {
        Ok(known) => known.as_str_name().to_owned(),
        Err(_) => format!("code {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: v2::Code) -> Error {
        Error::Refused { code: code as i32, text: "why".into() }
    }

    #[test]
    fn overload_and_server_faults_may_be_tried_again_and_mistakes_may_not() {
        for code in [v2::Code::TooManyRequests, v2::Code::InternalServerError, v2::Code::ProxyTimeout] {
            assert!(refused(code).is_retryable(), "{code:?}");
        }
        for code in [v2::Code::IllegalTopic, v2::Code::TopicNotFound, v2::Code::InvalidReceiptHandle] {
            assert!(!refused(code).is_retryable(), "{code:?}");
        }
        assert!(Error::from(tonic::Status::unavailable("gone")).is_retryable());
        assert!(!Error::from(tonic::Status::unimplemented("what")).is_retryable());
    }

    #[test]
    fn an_error_names_its_code_even_when_it_is_not_known() {
        assert_eq!(refused(v2::Code::IllegalTopic).to_string(), "ILLEGAL_TOPIC: why");
        let unknown = Error::Refused { code: 49_999, text: "why".into() };
        assert_eq!((unknown.to_string().as_str(), unknown.code()), ("code 49999: why", None));
    }

    #[test]
    fn an_answer_without_status_breaks_the_protocol() {
        assert!(matches!(check("SendMessage", None), Err(Error::Answer { call: "SendMessage", .. })));
    }
}
