//! What is answered and how much of it waits for its client: large answers are paid for until they are taken.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use base::limits::SMALL_HOLD_BYTES;
use bytes::Bytes;
use http::Method;
use hyper::body::{Body as _, Frame, SizeHint};

use super::bodies::overloaded;
use super::guard::problem_of;
use crate::admission::{Held, Share};

/// Below it everything that is read may be large. Health and metrics are not there: they are what tells of an overload.
pub const API: &str = "/api/";
/// HTTP/1 takes the next piece when less than a few of them wait for the client.
const PIECE_BYTES: usize = 32 * 1024;

/// Runs a request, and has its answer paid for if it reads and the answer is large. What a change says is never refused,
/// as the change is made.
pub async fn answer(request: Request, next: Next) -> Response {
    let is_paid = request.method() == Method::GET && request.uri().path().starts_with(API);
    let share = request.extensions().get::<Share>().filter(|_| is_paid).cloned();
    let response = next.run(request).await;
    let bytes = usize::try_from(response.body().size_hint().lower()).unwrap_or(usize::MAX);
    let Some(share) = share.filter(|_| bytes > SMALL_HOLD_BYTES) else { return response };
    match share.hold(bytes) {
        Ok(held) => response.map(|body| Body::new(Paid { body, piece: Bytes::new(), _held: held })),
        Err(overload) => problem_of(overloaded(overload)),
    }
}

/// A body that is handed out in pieces, so that it is there for as long as most of it waits.
struct Paid {
    body: Body,
    /// Of what the body gave the rest.
    piece: Bytes,
    _held: Held,
}

impl hyper::body::Body for Paid {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        while self.piece.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => self.piece = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let bytes = self.piece.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.piece.split_to(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (piece, rest) = (self.piece.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(piece + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(piece + upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use axum::{Router, middleware};
    use base::ByteSize;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::super::Problem;
    use super::*;
    use crate::admission::Budget;

    const LIMIT: usize = 1 << 20;
    const LARGE: usize = 300 << 10;

    fn budget() -> Budget {
        Budget::new(ByteSize(LIMIT as u64), &prometheus::Registry::new()).unwrap()
    }

    async fn asked(method: Method, path: &str, share: &Share) -> Response {
        let large = async || vec![7_u8; LARGE];
        let small = async || vec![7_u8; SMALL_HOLD_BYTES];
        let app = Router::new()
            .route("/api/large", get(large).post(large))
            .route("/api/small", get(small))
            .route("/metrics", get(large))
            .layer(middleware::from_fn(answer));
        let mut request = http::Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        request.extensions_mut().insert(share.clone());
        app.oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_large_answer_is_paid_for_until_it_is_taken_and_comes_whole() {
        let budget = budget();
        let mut body = asked(Method::GET, "/api/large", &budget.share()).await.into_body();
        assert_eq!((budget.used(), body.size_hint().exact()), (LARGE, Some(LARGE as u64)));
        let mut taken = 0;
        while let Some(frame) = body.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            taken += data.len();
            assert!(data.len() <= PIECE_BYTES && data.iter().all(|byte| *byte == 7));
            assert_eq!((budget.used(), body.size_hint().exact()), (LARGE, Some((LARGE - taken) as u64)));
        }
        assert_eq!((taken, body.is_end_stream()), (LARGE, true));
        drop(body);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn without_room_what_reads_is_refused_and_small_answers_metrics_and_changes_are_not() {
        let budget = budget();
        let others = budget.share();
        let _held = others.hold(LIMIT / 2).unwrap();
        let share = budget.share();
        let first = asked(Method::GET, "/api/large", &share).await;
        let second = asked(Method::GET, "/api/large", &share).await;
        let is_refused = |response: &Response| response.extensions().get::<Problem>().is_some();
        assert!(!is_refused(&first) && is_refused(&second), "half a MiB is free, and half of that for each");
        for (method, path) in [(Method::GET, "/api/small"), (Method::GET, "/metrics"), (Method::POST, "/api/large")] {
            assert!(!is_refused(&asked(method, path, &share).await), "{path}");
        }
        drop(first);
        assert!(!is_refused(&asked(Method::GET, "/api/large", &share).await), "there is room again");
    }
}
