//! The messages of a stream that lasts: each is small, and paid for while it arrives.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tonic::Status;

use super::body::PREFIX_BYTES;
use super::{Held, Share};

/// The body of a stream.
#[derive(Debug)]
pub struct Commands<B> {
    inner: B,
    share: Share,
    bytes_max: usize,
    /// What is there of the next prefix.
    prefix: [u8; PREFIX_BYTES],
    prefix_bytes: usize,
    /// What is still to come of a message, and what pays for it.
    left: usize,
    held: Option<Held>,
    is_over: bool,
}

impl<B> Commands<B> {
    pub fn new(inner: B, share: Share, bytes_max: usize) -> Self {
        Self {
            inner,
            share,
            bytes_max,
            prefix: [0; PREFIX_BYTES],
            prefix_bytes: 0,
            left: 0,
            held: None,
            is_over: false,
        }
    }

    /// Follows the messages through a frame.
    fn follow(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            let content = self.left.min(data.len());
            self.left -= content;
            data = &data[content..];
            if self.left > 0 {
                return Ok(());
            }
            self.held = None;
            let more = (PREFIX_BYTES - self.prefix_bytes).min(data.len());
            self.prefix[self.prefix_bytes..self.prefix_bytes + more].copy_from_slice(&data[..more]);
            self.prefix_bytes += more;
            data = &data[more..];
            if self.prefix_bytes == PREFIX_BYTES {
                self.begin()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Status> {
        self.prefix_bytes = 0;
        let [_, a, b, c, d] = self.prefix;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > self.bytes_max {
            let max = self.bytes_max;
            return Err(Status::invalid_argument(format!("an element has {length} bytes, the limit is {max}")));
        }
        self.held = Some(self.share.hold(length).map_err(|full| Status::resource_exhausted(full.to_string()))?);
        self.left = length;
        Ok(())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Commands<B>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(Status::from_error(error.into())))),
            None => return Poll::Ready(None),
        };
        if let Err(status) = self.follow(frame.data_ref().map_or(&[][..], |data| &data[..])) {
            self.is_over = true;
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use base::ByteSize;

    use super::*;
    use crate::admission::Budget;

    fn element(length: usize) -> Vec<u8> {
        let announced = u32::try_from(length).unwrap().to_be_bytes();
        [&[0][..], &announced, &vec![7; length]].concat()
    }

    #[test]
    fn elements_are_paid_for_while_they_arrive_however_they_are_cut_and_long_ones_end_the_stream() {
        let budget = Budget::new(ByteSize(1 << 20), &prometheus::Registry::new()).unwrap();
        for size in [1, 3, 5, 7, 1000] {
            let mut commands = Commands::new((), budget.share(), 300);
            let both = [element(300), element(0), element(20)].concat();
            let mut most = 0;
            for piece in both.chunks(size) {
                commands.follow(piece).unwrap();
                most = most.max(budget.used());
            }
            assert_eq!((most, budget.used()), (if size > 300 { 0 } else { 300 }, 0), "pieces of {size}");
            commands.follow(&element(300)[..100]).unwrap();
            assert_eq!(budget.used(), 300);
            drop(commands);
            assert_eq!(budget.used(), 0);
        }
        let mut commands = Commands::new((), budget.share(), 300);
        let status = commands.follow(&element(301)[..5]).unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::InvalidArgument, "an element has 301 bytes, the limit is 300")
        );
    }
}
