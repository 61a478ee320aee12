//! Replies to calls that were not looked into.

use prost::Message;

use crate::v2;

/// Calls of the messaging service whose reply is a status and what else there is to say.
const METHODS: [&str; 16] = [
    "QueryRoute",
    "Heartbeat",
    "SendMessage",
    "QueryAssignment",
    "ReceiveMessage",
    "AckMessage",
    "ForwardMessageToDeadLetterQueue",
    "PullMessage",
    "UpdateOffset",
    "GetOffset",
    "QueryOffset",
    "EndTransaction",
    "NotifyClientTermination",
    "ChangeInvisibleDuration",
    "RecallMessage",
    "SyncLiteSubscription",
];

/// How much of a request that is refused is looked at, by calls whose reply repeats a part of it: one that changes the
/// time of a delivery is hardly longer than a handle and three names.
const REPEATED_BYTES_MAX: usize = 4 * 1024;

/// Whether every refused call of `method` gets the same reply.
pub fn is_same_for_all(method: &str) -> bool {
    method != "ChangeInvisibleDuration"
}

/// The reply of `method` that says `status` only, framed as gRPC does. `so_far` gives the beginning of the request, as
/// far as it is there; it is not called for what [`is_same_for_all`]. None for Telemetry, and for what is not known.
pub fn reply(method: &str, status: v2::Status, so_far: impl FnOnce(usize) -> Vec<u8>) -> Option<Vec<u8>> {
    if !METHODS.contains(&method) {
        return None;
    }
    let status = Some(status);
    let message = match method {
        // Clients look at the entries or at the top: a failure stands in both.
        "SendMessage" => {
            let entries = vec![v2::SendResultEntry { status: status.clone(), ..Default::default() }];
            v2::SendMessageResponse { status, entries }.encode_to_vec()
        }
        "AckMessage" => {
            let entries = vec![v2::AckMessageResultEntry { status: status.clone(), ..Default::default() }];
            v2::AckMessageResponse { status, entries }.encode_to_vec()
        }
        // Most clients take the handle of a failure over: it has to be the one that they have.
        "ChangeInvisibleDuration" => {
            let mut request = v2::ChangeInvisibleDurationRequest::default();
            // What stands before the end, or before a mistake, is there all the same.
            let _is_whole = request.merge(&*so_far(REPEATED_BYTES_MAX));
            v2::ChangeInvisibleDurationResponse { status, receipt_handle: request.receipt_handle }.encode_to_vec()
        }
        // All others have it as their first field.
        _ => v2::HeartbeatResponse { status }.encode_to_vec(),
    };
    let length = u32::try_from(message.len()).ok()?;
    Some([&[0][..], &length.to_be_bytes(), &message].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reply_says_the_status_where_its_clients_look() {
        let status = v2::Status { code: v2::Code::TooManyRequests.into(), message: "full".into() };
        fn decoded<M: Message + Default>(method: &str, status: &v2::Status) -> M {
            let framed = reply(method, status.clone(), |_| unreachable!("{method} repeats nothing"));
            M::decode(&framed.unwrap()[5..]).unwrap()
        }
        macro_rules! check {
            ($($method:literal = $reply:ident),*) => {
                $(assert_eq!(decoded::<v2::$reply>($method, &status).status.as_ref(), Some(&status), $method);)*
            };
        }
        check!(
            "QueryRoute" = QueryRouteResponse,
            "Heartbeat" = HeartbeatResponse,
            "SendMessage" = SendMessageResponse,
            "QueryAssignment" = QueryAssignmentResponse,
            "AckMessage" = AckMessageResponse,
            "ForwardMessageToDeadLetterQueue" = ForwardMessageToDeadLetterQueueResponse,
            "UpdateOffset" = UpdateOffsetResponse,
            "GetOffset" = GetOffsetResponse,
            "QueryOffset" = QueryOffsetResponse,
            "EndTransaction" = EndTransactionResponse,
            "NotifyClientTermination" = NotifyClientTerminationResponse,
            "RecallMessage" = RecallMessageResponse,
            "SyncLiteSubscription" = SyncLiteSubscriptionResponse
        );
        let received: v2::ReceiveMessageResponse = decoded("ReceiveMessage", &status);
        assert_eq!(received.content, Some(v2::receive_message_response::Content::Status(status.clone())));
        let pulled: v2::PullMessageResponse = decoded("PullMessage", &status);
        assert_eq!(pulled.content, Some(v2::pull_message_response::Content::Status(status.clone())));
        let sent: v2::SendMessageResponse = decoded("SendMessage", &status);
        assert_eq!(sent.entries[0].status.as_ref(), Some(&status));
        let acked: v2::AckMessageResponse = decoded("AckMessage", &status);
        assert_eq!(acked.entries[0].status.as_ref(), Some(&status));
        assert_eq!(reply("Telemetry", status.clone(), |_| Vec::new()), None);
        let framed = reply("Heartbeat", status, |_| Vec::new()).unwrap();
        assert_eq!(framed[..5], [0, 0, 0, 0, u8::try_from(framed.len() - 5).unwrap()]);
    }

    #[test]
    fn a_refused_change_of_a_delivery_repeats_the_handle_as_soon_as_it_is_there() {
        let status = v2::Status { code: v2::Code::TooManyRequests.into(), message: "full".into() };
        let named = |name: &str| Some(v2::Resource { name: name.into(), ..Default::default() });
        let mut request = v2::ChangeInvisibleDurationRequest {
            group: named("group"),
            topic: named("topic"),
            receipt_handle: "handle".into(),
            ..Default::default()
        };
        let handle_ends = request.encoded_len();
        request.message_id = "id".into();
        let whole = request.encode_to_vec();
        assert!(is_same_for_all("AckMessage") && !is_same_for_all("ChangeInvisibleDuration"));
        for length in 0..=whole.len() {
            let framed = reply("ChangeInvisibleDuration", status.clone(), |max| {
                assert!(max >= whole.len());
                whole[..length].to_vec()
            });
            let changed = v2::ChangeInvisibleDurationResponse::decode(&framed.unwrap()[5..]).unwrap();
            let expected = if length < handle_ends { "" } else { "handle" };
            assert_eq!(
                (&*changed.receipt_handle, changed.status.as_ref()),
                (expected, Some(&status)),
                "{length} bytes"
            );
        }
    }
}
