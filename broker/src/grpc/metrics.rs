//! Metrics of calls and connections (operations page A2, A4).
//!
//! A call touches resolved handles only: they are looked up by label once for each rpc and code, when it is first seen.

use std::ops::Deref;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use proto::v2::Code;

use super::status::Denial;

/// LAT of the operations page, seconds.
const SECONDS: [f64; 16] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
/// The bounds of RocketMQ's own family, milliseconds.
const MILLISECONDS: [f64; 9] = [1.0, 3.0, 5.0, 7.0, 10.0, 100.0, 1000.0, 2000.0, 3000.0];

/// Codes that are counted by their name, the frequent ones first: they are searched in this order.
const CODES: [Code; 42] = [
    Code::Ok,
    Code::MessageNotFound,
    Code::TooManyRequests,
    Code::MultipleResults,
    Code::InvalidReceiptHandle,
    Code::TopicNotFound,
    Code::Forbidden,
    Code::BadRequest,
    Code::IllegalAccessPoint,
    Code::IllegalTopic,
    Code::IllegalConsumerGroup,
    Code::IllegalMessageTag,
    Code::IllegalMessageKey,
    Code::IllegalMessageGroup,
    Code::IllegalMessagePropertyKey,
    Code::InvalidTransactionId,
    Code::IllegalMessageId,
    Code::IllegalFilterExpression,
    Code::IllegalInvisibleTime,
    Code::IllegalDeliveryTime,
    Code::MessagePropertyConflictWithType,
    Code::UnrecognizedClientType,
    Code::MessageCorrupted,
    Code::ClientIdRequired,
    Code::IllegalPollingTime,
    Code::IllegalOffset,
    Code::IllegalLiteTopic,
    Code::Unauthorized,
    Code::NotFound,
    Code::ConsumerGroupNotFound,
    Code::OffsetNotFound,
    Code::RequestTimeout,
    Code::PayloadTooLarge,
    Code::MessageBodyTooLarge,
    Code::MessageBodyEmpty,
    Code::MessagePropertiesTooLarge,
    Code::NotImplemented,
    Code::ProxyTimeout,
    Code::MasterPersistenceTimeout,
    Code::Unsupported,
    Code::InternalError,
    // Last: what is not in the list is counted as this.
    Code::InternalServerError,
];

macro_rules! rpcs {
    ($($name:ident = $word:literal),* $(,)?) => {
        /// The calls of the service.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Rpc { $($name),* }

        pub(super) const RPCS: &[(Rpc, &str)] = &[$((Rpc::$name, $word)),*];

        impl Rpc {
            /// As the protocol calls it.
            pub(super) fn method(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name)),*
                }
            }

            fn of_method(method: &str) -> Option<Self> {
                match method {
                    $(stringify!($name) => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

rpcs! {
    QueryRoute = "query_route",
    Heartbeat = "heartbeat",
    SendMessage = "send_message",
    QueryAssignment = "query_assignment",
    ReceiveMessage = "receive_message",
    AckMessage = "ack_message",
    ForwardMessageToDeadLetterQueue = "forward_message_to_dead_letter_queue",
    PullMessage = "pull_message",
    UpdateOffset = "update_offset",
    GetOffset = "get_offset",
    QueryOffset = "query_offset",
    EndTransaction = "end_transaction",
    Telemetry = "telemetry",
    NotifyClientTermination = "notify_client_termination",
    ChangeInvisibleDuration = "change_invisible_duration",
    RecallMessage = "recall_message",
    SyncLiteSubscription = "sync_lite_subscription",
}

impl Rpc {
    /// The call that a path is of.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        Self::of_method(path.strip_prefix("/apache.rocketmq.v2.MessagingService/")?)
    }
}

/// Metrics of calls.
#[derive(Debug)]
pub(super) struct Metrics {
    /// In the order of [`RPCS`].
    rpcs: Vec<OfRpc>,
    requests: IntCounterVec,
    latencies: HistogramVec,
    refused: IntCounterVec,
}

#[derive(Debug)]
struct OfRpc {
    word: &'static str,
    seconds: Histogram,
    inflight: IntGauge,
    /// In the order of [`CODES`].
    codes: [OnceLock<OfCode>; CODES.len()],
}

#[derive(Debug)]
struct OfCode {
    requests: IntCounter,
    milliseconds: Histogram,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let requests = Opts::new("carillon_requests_total", "gRPC calls answered, by the protocol's code");
        let requests = IntCounterVec::new(requests, &["rpc", "code"])?;
        let seconds = HistogramOpts::new(
            "carillon_request_duration_seconds",
            "Seconds from a gRPC request's arrival to its answer, without the time a poll was parked",
        );
        let seconds = HistogramVec::new(seconds.buckets(SECONDS.into()), &["rpc"])?;
        let inflight =
            Opts::new("carillon_requests_inflight", "gRPC calls that are not answered yet, streams included");
        let inflight = IntGaugeVec::new(inflight, &["rpc"])?;
        let refused = Opts::new("carillon_requests_refused_total", "gRPC calls not admitted, by reason");
        let refused = IntCounterVec::new(refused, &["rpc", "reason"])?;
        let latencies = HistogramOpts::new(
            "rocketmq_rpc_latency_milliseconds",
            "Milliseconds of a request in the server, by request and response code; the time a poll was parked included",
        );
        let labels = ["protocol_type", "request_code", "response_code", "is_long_polling", "result"];
        let latencies = HistogramVec::new(latencies.buckets(MILLISECONDS.into()), &labels)?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(inflight.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        registry.register(Box::new(latencies.clone()))?;

        let rpcs = RPCS.iter().map(|&(_, word)| OfRpc {
            word,
            seconds: seconds.with_label_values(&[word]),
            inflight: inflight.with_label_values(&[word]),
            codes: std::array::from_fn(|_| OnceLock::new()),
        });
        let metrics = Self { rpcs: rpcs.collect(), requests, latencies, refused };
        // The first error of an rpc has a rate only when its successes were there before.
        for &(rpc, _) in RPCS {
            metrics.of(rpc, Code::Ok);
        }
        Ok(metrics)
    }

    fn of(&self, rpc: Rpc, code: Code) -> &OfCode {
        let place = CODES.iter().position(|&known| known == code).unwrap_or(CODES.len() - 1);
        let of_rpc = &self.rpcs[rpc as usize];
        of_rpc.codes[place].get_or_init(|| {
            let code = CODES[place];
            let name = code.as_str_name();
            let response = if code == Code::Ok { "success".into() } else { name.to_ascii_lowercase() };
            let is_long_polling = if rpc == Rpc::ReceiveMessage { "true" } else { "false" };
            let result = if i32::from(code) >= 50_000 { "process_request_failed" } else { "success" };
            OfCode {
                requests: self.requests.with_label_values(&[of_rpc.word, name]),
                milliseconds: self.latencies.with_label_values(&[
                    "grpc",
                    of_rpc.word,
                    &response,
                    is_long_polling,
                    result,
                ]),
            }
        })
    }
}

/// A call in progress. One that is dropped unanswered (its client left) stops being in flight and is not counted.
#[derive(Debug)]
pub(super) struct Call<M: Deref<Target = Metrics>> {
    metrics: M,
    rpc: Rpc,
    began: Instant,
    parked: Duration,
}

impl<M: Deref<Target = Metrics>> Call<M> {
    pub(super) fn begin(metrics: M, rpc: Rpc) -> Self {
        metrics.rpcs[rpc as usize].inflight.inc();
        Self { metrics, rpc, began: now(), parked: Duration::ZERO }
    }

    /// Leaves the time since `since` out of the call's duration.
    pub(super) fn was_parked_since(&mut self, since: Instant) {
        self.parked += now().saturating_duration_since(since);
    }

    pub(super) fn refused(&self, denial: &Denial) {
        if let Some(reason) = denial.reason() {
            self.metrics.refused.with_label_values(&[self.metrics.rpcs[self.rpc as usize].word, reason]).inc();
        }
    }

    pub(super) fn answered(self, code: Code) {
        let took = now().saturating_duration_since(self.began);
        let of_code = self.metrics.of(self.rpc, code);
        of_code.requests.inc();
        of_code.milliseconds.observe(took.as_secs_f64() * 1e3);
        self.metrics.rpcs[self.rpc as usize].seconds.observe(took.saturating_sub(self.parked).as_secs_f64());
    }
}

impl<M: Deref<Target = Metrics>> Drop for Call<M> {
    fn drop(&mut self) {
        self.metrics.rpcs[self.rpc as usize].inflight.dec();
    }
}

/// Measures, and decides nothing.
#[expect(clippy::disallowed_methods, reason = "durations of calls are finer than the clock of the broker")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;
    use crate::refusal::Refusal;

    #[test]
    fn calls_are_counted_by_rpc_and_code_under_the_documented_names() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        for &(rpc, word) in RPCS {
            assert_eq!(metrics.rpcs[rpc as usize].word, word);
        }
        Call::begin(&metrics, Rpc::SendMessage).answered(Code::Ok);
        let denied = Call::begin(&metrics, Rpc::ReceiveMessage);
        denied.refused(&Denial::from(Refusal::Overloaded { limit: "polls" }));
        denied.answered(Code::TooManyRequests);
        drop(Call::begin(&metrics, Rpc::AckMessage));
        let _open = Call::begin(&metrics, Rpc::Telemetry);

        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            r#"carillon_requests_total{code="OK",rpc="send_message"} 1"#,
            r#"carillon_requests_total{code="OK",rpc="ack_message"} 0"#,
            r#"carillon_requests_total{code="TOO_MANY_REQUESTS",rpc="receive_message"} 1"#,
            r#"carillon_requests_refused_total{reason="overload",rpc="receive_message"} 1"#,
            r#"carillon_requests_inflight{rpc="telemetry"} 1"#,
            r#"carillon_requests_inflight{rpc="send_message"} 0"#,
            r#"carillon_request_duration_seconds_count{rpc="send_message"} 1"#,
            r#"rocketmq_rpc_latency_milliseconds_count{is_long_polling="false",protocol_type="grpc",request_code="send_message",response_code="success",result="success"} 1"#,
            r#"rocketmq_rpc_latency_milliseconds_count{is_long_polling="true",protocol_type="grpc",request_code="receive_message",response_code="too_many_requests",result="success"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn parked_time_is_no_work() {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let mut call = Call::begin(&metrics, Rpc::ReceiveMessage);
        call.was_parked_since(call.began);
        call.answered(Code::MessageNotFound);
        let seconds = &metrics.rpcs[Rpc::ReceiveMessage as usize].seconds;
        assert_eq!(seconds.get_sample_count(), 1);
    }
}
