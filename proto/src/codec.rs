//! The codec of the generated code: prost's, behind a look at how many fields a message has.
//!
//! Two bytes can announce an entry of a repeated field that takes hundreds once it is decoded, so a small request could
//! take gigabytes of memory before anybody can refuse it.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic::codegen::http;
use tonic::{Code, Status};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Fields of a message itself, each entry of a repeated field counted; those of the messages in it are not. The largest
/// that anybody means, a request of many messages or the route of a large topic, has a few thousand.
pub const FIELDS_MAX: usize = 64 * 1024;

/// What a call begins with; larger messages take more. A Telemetry stream keeps two for as long as its client is there.
const BUFFER_BYTES: usize = 2 * 1024;
/// As tonic has it.
const YIELD_BYTES: usize = 32 * 1024;

fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

/// As prost's codec, for messages of at most [`FIELDS_MAX`] fields.
pub struct Bounded<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Bounded<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for Bounded<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstCodec::<T, U>::raw_decoder(buffers()))
    }
}

/// Decodes what has few enough fields.
pub struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // tonic hands a message over in one piece; one in several would be counted in part and decoded all the same.
        let fields = count_fields(buffer.chunk());
        if fields > FIELDS_MAX {
            let text =
                format!("the message has {fields} fields, each entry of a list counted; the limit is {FIELDS_MAX}");
            return Err(Status::resource_exhausted(text));
        }
        // Who sent it is at fault, and not who reads it.
        self.0.decode(buffer).map_err(|error| Status::invalid_argument(error.message()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// What a server says of a request that cannot be read, before any of its own code has seen it: tonic calls that an internal
/// error, as if somebody had to look at the server. For services whose methods never end so themselves.
pub fn blame_caller<B>(mut response: http::Response<B>) -> http::Response<B> {
    let headers = response.headers_mut();
    let is_internal = |status: &http::HeaderValue| *status == i32::from(Code::Internal).to_string();
    if headers.get(Status::GRPC_STATUS).is_some_and(is_internal) {
        headers.insert(Status::GRPC_STATUS, i32::from(Code::InvalidArgument).into());
    }
    response
}

/// The same of what a stream says after it was taken.
pub fn fault_of_caller(status: Status) -> Status {
    match status.code() {
        Code::Internal => Status::invalid_argument(status.message()),
        _ => status,
    }
}

/// Fields up to the end or to something malformed, which decoding will name.
fn count_fields(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while bytes.has_remaining() {
        let Ok((tag, wire_type)) = decode_key(&mut bytes) else { break };
        if skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).is_err() {
            break;
        }
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v2::{Message as Sent, SendMessageRequest};

    #[test]
    fn both_sides_of_a_call_begin_with_small_buffers() {
        use tonic::codec::Encoder as _;
        let mut codec = Bounded::<(), ()>::default();
        let shown = [codec.decoder().buffer_settings(), codec.encoder().buffer_settings()]
            .map(|settings| format!("{settings:?}"));
        assert_eq!(shown, [buffers(), buffers()].map(|settings| format!("{settings:?}")));
    }

    #[test]
    fn an_internal_error_before_the_call_is_the_callers_and_other_ends_stay_as_they_are() {
        let end = |status: Status| {
            let headers = blame_caller(status.into_http::<()>()).into_parts().0.headers;
            headers.get(Status::GRPC_STATUS).and_then(|status| status.to_str().ok()).map(str::to_owned)
        };
        assert_eq!(end(Status::internal("cut")).as_deref(), Some("3"));
        assert_eq!(end(Status::unimplemented("x")).as_deref(), Some("12"));
        assert_eq!(end(Status::unavailable("x")).as_deref(), Some("14"));
        assert_eq!(fault_of_caller(Status::internal("cut")).code(), Code::InvalidArgument);
        assert_eq!(fault_of_caller(Status::cancelled("x")).code(), Code::Cancelled);
    }

    #[test]
    fn entries_of_a_list_are_counted_and_what_is_in_them_is_not() {
        let message = Sent { user_properties: [("a".into(), "b".into())].into(), ..Sent::default() };
        let request = SendMessageRequest { messages: vec![message; 1000] };
        assert_eq!(count_fields(&request.encode_to_vec()), 1000);
        let empty = SendMessageRequest { messages: vec![Sent::default(); FIELDS_MAX + 1] };
        assert_eq!(count_fields(&empty.encode_to_vec()), FIELDS_MAX + 1);
        assert_eq!(count_fields(b"\x0a\x00\x0a\xff"), 1, "the second is cut");
    }
}
