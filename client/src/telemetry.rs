//! The Telemetry stream: tells the server who is there, and hears what the server asks.
//!
//! Owns one stream at a time and opens it again, a second after it ended, for as long as its owner lives.

use std::sync::Arc;
use std::time::Duration;

use proto::v2;
use proto::v2::telemetry_command::Command;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::connection::Caller;
use crate::error::{Error, check};
use crate::producer::Orphan;
use crate::runtime::{Task, start, wait, within};

/// Answers of this client on their way; the server sends few commands.
const ANSWERS_MAX: usize = 16;
const REOPEN_AFTER: Duration = Duration::from_secs(1);

/// Announces `settings` and returns when the server has accepted them. The stream lives as long as the task.
pub(crate) async fn announce(
    caller: Arc<Caller>,
    settings: v2::Settings,
    orphans: Option<mpsc::Sender<Orphan>>,
) -> Result<Task, Error> {
    let mut stream = Stream::open(&caller, &settings).await?;
    Ok(start(async move {
        loop {
            stream.serve(orphans.as_ref()).await;
            stream = loop {
                wait(REOPEN_AFTER).await;
                // Nobody can be told that this failed; calls of the owner fail for the same reason and say so.
                if let Ok(stream) = Stream::open(&caller, &settings).await {
                    break stream;
                }
            };
        }
    }))
}

struct Stream {
    answers: mpsc::Sender<v2::TelemetryCommand>,
    commands: Streaming<v2::TelemetryCommand>,
}

impl Stream {
    async fn open(caller: &Caller, settings: &v2::Settings) -> Result<Self, Error> {
        let timeout = caller.options().request_timeout;
        within(timeout, Self::open_unhurried(caller, settings))
            .await
            .unwrap_or_else(|| Err(tonic::Status::deadline_exceeded("no answer to the settings").into()))
    }

    async fn open_unhurried(caller: &Caller, settings: &v2::Settings) -> Result<Self, Error> {
        let (answers, outgoing) = mpsc::channel(ANSWERS_MAX);
        // The settings are in the stream before it is opened: some servers send no headers before they have them.
        answers.try_send(command(None, Command::Settings(settings.clone()))).expect("the channel is new and empty");
        let request = caller.long_request(ReceiverStream::new(outgoing), None);
        let mut commands = caller.rpc().telemetry(request).await?.into_inner();
        loop {
            let Some(first) = commands.message().await? else {
                return Err(Error::Answer { call: "Telemetry", problem: "it ended before the settings" });
            };
            if let Some(Command::Settings(_)) = first.command {
                // Older servers leave the status out when all is well.
                first.status.map_or(Ok(()), |status| check("Telemetry", Some(status)))?;
                return Ok(Self { answers, commands });
            }
        }
    }

    /// Answers commands until the stream ends or the server wants a new one.
    async fn serve(&mut self, orphans: Option<&mpsc::Sender<Orphan>>) {
        while let Ok(Some(received)) = self.commands.message().await {
            let answer = match received.command {
                Some(Command::RecoverOrphanedTransactionCommand(recover)) => {
                    if let (Some(orphans), Some(orphan)) = (orphans, Orphan::from_wire(recover)) {
                        // Waiting here would hold up other commands, and the server asks again.
                        let _is_dropped_when_full = orphans.try_send(orphan);
                    }
                    None
                }
                Some(Command::VerifyMessageCommand(verify)) => Some(command(
                    Some(v2::Code::NotImplemented),
                    Command::VerifyMessageResult(v2::VerifyMessageResult { nonce: verify.nonce }),
                )),
                Some(Command::PrintThreadStackTraceCommand(print)) => Some(command(
                    Some(v2::Code::Unsupported),
                    Command::ThreadStackTrace(v2::ThreadStackTrace { nonce: print.nonce, thread_stack_trace: None }),
                )),
                Some(Command::ReconnectEndpointsCommand(_)) => return,
                Some(
                    Command::Settings(_)
                    | Command::ThreadStackTrace(_)
                    | Command::VerifyMessageResult(_)
                    | Command::NotifyUnsubscribeLiteCommand(_),
                )
                | None => None,
            };
            if let Some(answer) = answer
                && self.answers.send(answer).await.is_err()
            {
                return;
            }
        }
    }
}

fn command(code: Option<v2::Code>, command: Command) -> v2::TelemetryCommand {
    let status = code.map(|code| v2::Status { code: code as i32, message: "not done by this client".into() });
    v2::TelemetryCommand { status, command: Some(command) }
}
