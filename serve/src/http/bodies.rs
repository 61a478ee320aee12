//! Bodies of requests: received whole before anybody looks at them, within a time, and paid for.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use base::limits::{REQUEST_BYTES_PER_SECOND_MIN, REQUEST_MS_MAX};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use super::codes::*;
use super::guard::problem_of;
use super::problem::Problem;
use super::server::BODY_BYTES_MAX;
use crate::admission::{Held, Overload, Share};

/// Runs a request once its body is there.
pub async fn receive(request: Request, next: Next) -> Response {
    let share = request.extensions().get::<Share>().cloned();
    let Some(share) = share.filter(|_| !request.body().is_end_stream()) else { return next.run(request).await };
    let (head, body) = request.into_parts();
    match collect(body, &share).await {
        Ok((body, _held)) => next.run(Request::from_parts(head, Body::from(body))).await,
        Err(problem) => problem_of(problem),
    }
}

async fn collect(mut body: Body, share: &Share) -> Result<(Bytes, Held), Problem> {
    let hint = body.size_hint();
    let announced = usize::try_from(hint.lower()).unwrap_or(usize::MAX);
    if announced > BODY_BYTES_MAX {
        return Err(too_large());
    }
    let longest = hint.upper().map_or(BODY_BYTES_MAX, |_| announced);
    let within =
        Duration::from_millis(REQUEST_MS_MAX) + Duration::from_secs((longest / REQUEST_BYTES_PER_SECOND_MIN) as u64);
    let mut held = share.hold(announced).map_err(overloaded)?;
    let received = async {
        let mut received = BytesMut::with_capacity(announced);
        while let Some(frame) = body.frame().await {
            let detail = |error| Problem::new(INVALID_BODY, format!("{error}")).field("body");
            let Ok(data) = frame.map_err(detail)?.into_data() else { continue };
            let length = received.len() + data.len();
            if length > BODY_BYTES_MAX {
                return Err(too_large());
            }
            if length > received.capacity() {
                // Twice as much each time, as buffers grow, and no more than is paid for.
                let capacity = length.max(received.capacity() * 2).min(BODY_BYTES_MAX);
                held.grow(capacity.saturating_sub(held.bytes())).map_err(overloaded)?;
                received.reserve(capacity - received.len());
            }
            received.extend_from_slice(&data);
        }
        Ok(received.freeze())
    };
    let slow = || {
        let detail = format!("the body did not arrive within {} s", within.as_secs());
        Problem::new(REQUEST_TIMEOUT, detail).field("body").limit(within.as_secs())
    };
    let received = tokio::time::timeout(within, received).await.unwrap_or_else(|_| Err(slow()))?;
    Ok((received, held))
}

pub(super) fn too_large() -> Problem {
    let detail = format!("the body has more than {BODY_BYTES_MAX} bytes");
    Problem::new(TOO_LARGE, detail).field("body").limit(BODY_BYTES_MAX)
}

pub(super) fn overloaded(overload: Overload) -> Problem {
    let detail = format!("the server is at its limit: {overload}");
    Problem::new(OVERLOADED, detail)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use base::ByteSize;
    use tokio_stream::StreamExt as _;

    use super::*;
    use crate::admission::Budget;

    const LIMIT: usize = 1 << 20;

    fn budget() -> Budget {
        Budget::new(ByteSize(LIMIT as u64), &prometheus::Registry::new()).unwrap()
    }

    /// A body of which nobody knows how long it is.
    fn pieces(count: usize) -> impl tokio_stream::Stream<Item = Result<Bytes, Infallible>> + Send {
        tokio_stream::iter((0..count).map(|_| Ok(Bytes::from_static(&[b' '; 1024]))))
    }

    #[tokio::test]
    async fn a_body_is_paid_for_whether_its_length_is_announced_or_not() {
        let budget = budget();
        let share = budget.share();
        let announced = |bytes: usize| Body::from(vec![b' '; bytes]);
        for (body, bytes) in [(announced(400 << 10), 400 << 10), (Body::from_stream(pieces(400)), 400 << 10)] {
            let (whole, held) = collect(body, &share).await.unwrap();
            assert_eq!(whole.len(), bytes);
            assert!(held.bytes() >= bytes && budget.used() == held.bytes(), "{} for {bytes}", held.bytes());
        }
        assert_eq!(budget.used(), 0);
        for body in [announced(LIMIT + 1), Body::from_stream(pieces(LIMIT / 1024))] {
            assert_eq!(collect(body, &share).await.unwrap_err().code, OVERLOADED.word);
        }
        assert_eq!(collect(announced(BODY_BYTES_MAX + 1), &share).await.unwrap_err().code, TOO_LARGE.word);
        assert_eq!(budget.used(), 0);
    }

    /// By the clock of the runtime, which goes on to the next deadline when there is nothing else to do.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_is_given_up() {
        let began = tokio::time::Instant::now();
        let stops = Body::from_stream(pieces(3).chain(tokio_stream::pending()));
        let problem = collect(stops, &budget().share()).await.unwrap_err();
        // As long as the longest may take, as nobody said how long it is.
        let within = Duration::from_secs(30 + (BODY_BYTES_MAX / REQUEST_BYTES_PER_SECOND_MIN) as u64);
        assert_eq!((problem.code, problem.limit), (REQUEST_TIMEOUT.word, Some(within.as_secs().into())));
        assert_eq!(began.elapsed(), within);
    }
}
