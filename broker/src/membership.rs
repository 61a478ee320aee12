//! Who is connected: client ids, what they are, when they were last heard of.

/// What a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientKind {
    Producer,
    PushConsumer,
    SimpleConsumer,
    PullConsumer,
    LitePushConsumer,
    LiteSimpleConsumer,
}
