//! A telemetry stream: settings in, settings and commands out.
//!
//! One state machine polls both directions, so an idle stream costs no task beyond the call itself. Nothing here is
//! keyed by stream: a client may have several (§2, D3), and what they say outlives them.
//!
//! T1. Every settings element gets exactly one answer, in order; the next one is read after it.
//! T2. An element without a command is never sent (D16).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use prost::Message as _;
use proto::v2;
use proto::v2::telemetry_command::Command as Element;
use serve::admission::{Held, Share};
use tokio::sync::mpsc;

use super::metrics::{Call, Metrics, Rpc};
use super::status::{self, Denial};
use super::{Gateway, encode, settings};
use crate::api::{Caller, Command, ServerSettings};
use crate::refusal::Refusal;

/// Many short texts take several times as much when they are decoded.
const DECODED_TIMES: usize = 4;

type Answer = Pin<Box<dyn Future<Output = Result<ServerSettings, Refusal>> + Send>>;
type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One stream, from its opening to its end.
pub(super) struct Stage {
    gateway: Arc<Gateway>,
    caller: Caller,
    store_host: Arc<str>,
    inbound: tonic::Streaming<v2::TelemetryCommand>,
    commands: Option<mpsc::Receiver<Command>>,
    /// The broker is deciding about the last settings.
    answering: Option<(Answer, Call<Arc<Metrics>>)>,
    /// What the client said last on this stream.
    last: Option<v2::Settings>,
    share: Share,
    /// What pays for that.
    held: Option<Held>,
    /// The server stops: the stream ends once nothing is owed.
    ending: Ending,
    is_over: bool,
}

impl Stage {
    pub(super) fn open(
        gateway: Arc<Gateway>,
        caller: Caller,
        store_host: Arc<str>,
        inbound: tonic::Streaming<v2::TelemetryCommand>,
        share: Share,
    ) -> Self {
        let commands = Some(gateway.broker.commands(&caller));
        let ending = Box::pin(gateway.draining.begins());
        Self {
            gateway,
            caller,
            store_host,
            inbound,
            commands,
            answering: None,
            last: None,
            share,
            held: None,
            ending,
            is_over: false,
        }
    }

    fn refuse(&mut self, denial: &Denial) -> Poll<Option<<Self as Stream>::Item>> {
        let call = Call::begin(&*self.gateway.metrics, Rpc::Telemetry);
        call.refused(denial);
        call.answered(denial.code());
        self.end(denial.end_of_stream())
    }

    fn end(&mut self, status: tonic::Status) -> Poll<Option<<Self as Stream>::Item>> {
        self.is_over = true;
        Poll::Ready(Some(Err(status)))
    }

    /// Remembers what the client said last, for as long as the stream lasts.
    fn keep(&mut self, settings: v2::Settings) -> Result<(), Denial> {
        (self.last, self.held) = (None, None);
        let held = self.share.hold(settings.encoded_len() * DECODED_TIMES);
        self.held = Some(held.map_err(|full| Refusal::Overloaded { limit: full.limit() })?);
        self.last = Some(settings);
        Ok(())
    }

    /// Asks the broker about the last settings.
    fn ask(&mut self) -> Result<(), Denial> {
        let Some(last) = &self.last else { return Ok(()) };
        let asked = settings::of_client(last)?;
        if let Some(agent) = settings::user_agent(last) {
            self.gateway.agents.learn(&self.caller, agent.clone());
            (self.caller.language, self.caller.version) = (agent.language, agent.version);
        }
        let (broker, caller) = (self.gateway.broker.clone(), self.caller.clone());
        let call = Call::begin(self.gateway.metrics.clone(), Rpc::Telemetry);
        self.answering = Some((Box::pin(async move { broker.settings(&caller, asked).await }), call));
        Ok(())
    }

    /// The answer to the last settings, once the broker has it.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<v2::TelemetryCommand, Denial>> {
        let Some((answer, _)) = &mut self.answering else { return Poll::Pending };
        let result = ready!(answer.as_mut().poll(context));
        let call = self.answering.take().map(|(_, call)| call);
        let server = result?;
        if let Some(call) = call {
            call.answered(v2::Code::Ok);
        }
        let last = self.last.clone().unwrap_or_default();
        Poll::Ready(Ok(element(Element::Settings(settings::answer(last, self.caller.language, &server)))))
    }

    /// The next thing that the client says, if it has to be acted on.
    fn poll_inbound(&mut self, context: &mut Context<'_>) -> Poll<Inbound> {
        loop {
            let element = match ready!(Pin::new(&mut self.inbound).poll_next(context)) {
                Some(Ok(element)) => element,
                Some(Err(status)) => return Poll::Ready(Inbound::Broken(status)),
                None => return Poll::Ready(Inbound::Closed),
            };
            // The rest are answers to questions that this server does not ask, and commands that only a server gives.
            if let Some(Element::Settings(settings)) = element.command {
                return Poll::Ready(Inbound::Settings(settings));
            }
        }
    }

    fn poll_command(&mut self, context: &mut Context<'_>) -> Poll<Command> {
        let Some(commands) = &mut self.commands else { return Poll::Pending };
        match ready!(commands.poll_recv(context)) {
            Some(command) => Poll::Ready(command),
            None => {
                // The broker has nothing more to say to this client; settings are answered all the same.
                self.commands = None;
                Poll::Pending
            }
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "taken apart where it is returned")]
enum Inbound {
    Settings(v2::Settings),
    /// The client has said all it will.
    Closed,
    /// What it says cannot be read, or the connection has gone.
    Broken(tonic::Status),
}

impl Stream for Stage {
    type Item = Result<v2::TelemetryCommand, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let stage = &mut *self;
        loop {
            if stage.is_over {
                return Poll::Ready(None);
            }
            if stage.answering.is_some() {
                match stage.poll_answer(context) {
                    Poll::Ready(Ok(answer)) => return Poll::Ready(Some(Ok(answer))),
                    Poll::Ready(Err(denial)) => return stage.refuse(&denial),
                    Poll::Pending => {}
                }
            } else {
                // T1: not before the answer is out. Unread elements stay in the peer's flow-control window.
                match stage.poll_inbound(context) {
                    Poll::Ready(Inbound::Settings(settings)) => {
                        if let Err(denial) = stage.keep(settings).and_then(|()| stage.ask()) {
                            return stage.refuse(&denial);
                        }
                        continue;
                    }
                    Poll::Ready(Inbound::Closed) => {
                        stage.is_over = true;
                        continue;
                    }
                    Poll::Ready(Inbound::Broken(status)) => {
                        return stage.end(tonic::Status::invalid_argument(status.message()));
                    }
                    Poll::Pending => {}
                }
                if stage.ending.as_mut().poll(context).is_ready() {
                    stage.is_over = true;
                    continue;
                }
            }
            match ready!(stage.poll_command(context)) {
                Command::CheckTransaction { message, transaction_id } => {
                    let message = encode::delivery(*message, &stage.store_host);
                    let check = v2::RecoverOrphanedTransactionCommand { message: Some(message), transaction_id };
                    return Poll::Ready(Some(Ok(element(Element::RecoverOrphanedTransactionCommand(check)))));
                }
                Command::CheckOfOther(check) => {
                    // What cannot be read was not taken in the first place.
                    let Ok(mut check) = v2::RecoverOrphanedTransactionCommand::decode(check) else { continue };
                    if let Some(system) = check.message.as_mut().and_then(|message| message.system_properties.as_mut())
                    {
                        system.store_host = stage.store_host.to_string();
                    }
                    return Poll::Ready(Some(Ok(element(Element::RecoverOrphanedTransactionCommand(check)))));
                }
                Command::Disconnect => return stage.end(tonic::Status::unavailable("disconnected by an operator")),
                // Whatever is being answered now may be the older state: it is asked again. Before the first settings
                // there is nothing to repeat, and what was accepted once cannot be refused for its form.
                Command::SettingsChanged => {
                    if let Err(denial) = stage.ask() {
                        return stage.refuse(&denial);
                    }
                }
            }
        }
    }
}

fn element(command: Element) -> v2::TelemetryCommand {
    // Python ignores settings without a status beside them (§5.2).
    v2::TelemetryCommand { status: Some(status::ok()), command: Some(command) }
}
