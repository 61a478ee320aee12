//! Replies to calls that were not looked into.

use prost::Message;

use crate::v2;

/// A request to change the time of one delivery is hardly longer than a handle of 1 KiB and three names.
const CHANGE_BYTES_MAX: usize = 4 * 1024;

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

/// The reply of `method` that says `status` only, framed as gRPC does. `handle`: of a delivery, when the call was about one.
/// None for Telemetry, and for what is not known.
pub fn reply(method: &str, status: v2::Status, handle: &str) -> Option<Vec<u8>> {
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
        "ChangeInvisibleDuration" => {
            v2::ChangeInvisibleDurationResponse { status, receipt_handle: handle.into() }.encode_to_vec()
        }
        // All others have it as their first field.
        _ => v2::HeartbeatResponse { status }.encode_to_vec(),
    };
    let length = u32::try_from(message.len()).ok()?;
    Some([&[0][..], &length.to_be_bytes(), &message].concat())
}

/// The handle that a reply has to repeat: most clients take the handle of a failed `ChangeInvisibleDuration` over, so it
/// has to be the one that they have (§3 rule 4). `beginning` gives so many bytes of the request. Empty for all other methods.
pub fn handle_of(method: &str, beginning: impl FnOnce(usize) -> Vec<u8>) -> String {
    if method != "ChangeInvisibleDuration" {
        return String::new();
    }
    let request = v2::ChangeInvisibleDurationRequest::decode(&*beginning(CHANGE_BYTES_MAX));
    request.unwrap_or_default().receipt_handle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reply_says_the_status_where_its_clients_look() {
        let status = v2::Status { code: v2::Code::TooManyRequests.into(), message: "full".into() };
        fn decoded<M: Message + Default>(method: &str, status: &v2::Status) -> M {
            M::decode(&reply(method, status.clone(), "h").unwrap()[5..]).unwrap()
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
            "ChangeInvisibleDuration" = ChangeInvisibleDurationResponse,
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
        let changed: v2::ChangeInvisibleDurationResponse = decoded("ChangeInvisibleDuration", &status);
        assert_eq!(changed.receipt_handle, "h");
        let request = v2::ChangeInvisibleDurationRequest { receipt_handle: "h".into(), ..Default::default() };
        let beginning = |max: usize| request.encode_to_vec().into_iter().take(max).collect();
        assert_eq!(handle_of("ChangeInvisibleDuration", beginning), "h");
        assert_eq!(handle_of("AckMessage", |_| panic!("its reply repeats nothing")), "");
        assert_eq!(reply("Telemetry", status.clone(), ""), None);
        let framed = reply("Heartbeat", status, "").unwrap();
        assert_eq!(framed[..5], [0, 0, 0, 0, u8::try_from(framed.len() - 5).unwrap()]);
    }
}
