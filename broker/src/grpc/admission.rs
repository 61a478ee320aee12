//! What a call passes before anything of it is decoded: memory for it, and for sends how much work there is.
//!
//! A refusal costs little: the head and at most the first bytes of the message are looked at, and the answer was
//! encoded before. It is an ordinary reply with its status (§3); only Telemetry ends with an error of gRPC itself.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};

use base::limits::{CALL_BYTES, REQUEST_BYTES_MAX, TELEMETRY_BYTES_MAX};
use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use proto::codec::blame_caller;
use proto::v2::messaging_service_server::MessagingServiceServer;
use serve::admission::body::{Begun, Message, Received, Unread};
use serve::admission::commands::Commands;
use serve::admission::{Answered, Held, Overload, Share};
use tonic::Status;
use tower::Service as _;

use super::Gateway;
use super::load::{OfOne, Send};
use super::metrics::{self, Call, RPCS, Rpc};
use super::producers;
use super::service::Peer;
use super::status::Denial;
use crate::refusal::Refusal;

/// The service behind the gate, as one connection sees it.
pub(super) struct Gate {
    gateway: Arc<Gateway>,
    service: MessagingServiceServer<Peer>,
    share: Share,
    sends: Arc<OfOne>,
}

/// Refusals for overload, encoded once.
#[derive(Debug, Default)]
pub(super) struct Replies {
    overload: [[OnceLock<Option<Bytes>>; Overload::ALL.len()]; RPCS.len()],
}

type Reply = Response<Answered>;

impl Gate {
    pub(super) fn new(gateway: Arc<Gateway>, service: MessagingServiceServer<Peer>, share: Share) -> Self {
        let sends = gateway.load.of_one(share.clone());
        Self { gateway, service, share, sends }
    }

    /// Called when the head of a request is there; what it returns is run in the call's turn.
    pub(super) fn call(&self, request: Request<Incoming>) -> impl Future<Output = Result<Reply, Infallible>> + use<> {
        let rpc = Rpc::of_path(request.uri().path());
        let held = self.share.hold_call(&request);
        let send = (rpc == Some(Rpc::SendMessage)).then(|| self.sends.send(metrics::now()));
        let (gateway, mut service, share) = (self.gateway.clone(), self.service.clone(), self.share.clone());
        // Thousands of these wait at a time: what is rare, or not needed while waiting, has its room elsewhere.
        let (head, body) = request.into_parts();
        let mut begun = Begun::new(body);
        async move {
            let Some(rpc) = rpc else { return Ok(Box::pin(gateway.serve_broker(head, begun, held)).await) };
            let admitted = match (held, send.transpose()) {
                (Err(overload), _) => Err(overload.into()),
                (Ok(_), Err(overload)) => Err(overload.into()),
                (Ok(held), Ok(_)) if rpc == Rpc::Telemetry => {
                    let commands = Commands::new(begun.into_rest(), share, TELEMETRY_BYTES_MAX);
                    let request = Request::from_parts(head, Received::Commands(Box::new(commands)));
                    let Ok(response) = service.call(request).await;
                    return Ok(Answered::served(blame_caller(response), Some(held)));
                }
                (Ok(held), Ok(send)) => gateway.receive(&mut begun, held, send).await,
            };
            let (message, mut held, send) = match admitted {
                Ok(admitted) => admitted,
                Err(unread) => {
                    let reply = gateway.refuse(rpc, &unread, &mut begun);
                    begun.leave();
                    return Ok(reply);
                }
            };
            drop(begun);
            let began = metrics::now();
            let Ok(response) = service.call(Request::from_parts(head, Received::<Incoming>::Message(message))).await;
            if let Some(send) = send {
                send.ends(began, metrics::now());
            }
            // The request has gone; the answer has not.
            held.shrink(CALL_BYTES);
            Ok(Answered::served(blame_caller(response), Some(held)))
        }
    }
}

impl Gateway {
    /// A call that another broker makes.
    async fn serve_broker(&self, head: Parts, mut begun: Begun<Incoming>, held: Result<Held, Overload>) -> Reply {
        if !head.uri.path().starts_with(producers::PATH) {
            return Answered::status(Status::unimplemented("the service has no such method"));
        }
        let admitted = match held {
            Ok(held) => self.receive(&mut begun, held, None).await,
            Err(overload) => Err(overload.into()),
        };
        match admitted {
            Ok((message, mut held, _)) => {
                let request = Request::from_parts(head, Received::<Incoming>::Message(message));
                let Ok(response) = producers::Here(self.broker.clone()).service().call(request).await;
                held.shrink(CALL_BYTES);
                Answered::served(blame_caller(response), Some(held))
            }
            Err(unread) => {
                begun.leave();
                Answered::status(Status::resource_exhausted(unread.to_string()))
            }
        }
    }

    /// Reads a message as far as it is admitted.
    async fn receive(
        &self,
        begun: &mut Begun<Incoming>,
        mut held: Held,
        mut send: Option<Send>,
    ) -> Result<(Message, Held, Option<Send>), Unread> {
        if let Some(send) = &mut send {
            send.begins(metrics::now())?;
        }
        let length = begun.length().await?;
        if let Some(send) = &mut send {
            send.weighs(length, metrics::now)?;
        }
        let message = begun.receive(&mut held, REQUEST_BYTES_MAX).await?;
        Ok((message, held, send))
    }

    /// An ordinary reply, or the end of a stream that has none.
    fn refuse(&self, rpc: Rpc, unread: &Unread, begun: &mut Begun<Incoming>) -> Reply {
        let call = Call::begin(&*self.metrics, rpc);
        let (denial, overload) = match unread {
            Unread::Overload(overload) => (Refusal::Overloaded { limit: overload.limit() }.into(), Some(*overload)),
            Unread::TooSlow { within } => (Denial::TooSlow { seconds: within.as_secs() }, None),
            // Nobody is there to be told.
            Unread::Left => return Answered::status(Status::cancelled("the request did not arrive")),
        };
        call.refused(&denial);
        call.answered(denial.code());
        let mut reply =
            || proto::refused::reply(rpc.method(), denial.status(), |max| begun.so_far(max)).map(Bytes::from);
        let reply = match overload.filter(|_| proto::refused::is_same_for_all(rpc.method())) {
            Some(overload) => self.replies.overload[rpc as usize][overload as usize].get_or_init(reply).clone(),
            None => reply(),
        };
        match reply {
            Some(reply) => Answered::encoded(reply),
            None => Answered::status(denial.end_of_stream()),
        }
    }
}
