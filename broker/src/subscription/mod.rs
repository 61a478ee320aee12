//! Deliveries of one group from one topic.

/// Says whether a reply was written to its end. Dropped without [`Receipt::written`], every message of it is taken back.
#[derive(Debug)]
pub struct Receipt {}

impl Receipt {
    /// The whole reply, end of stream included, was handed to the transport before the caller's deadline.
    pub fn written(self) {}
}
