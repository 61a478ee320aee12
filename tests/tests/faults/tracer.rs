//! Faults of system calls in a running process, by `strace`.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(20);

/// While it is attached, system calls of the process behave as was asked. Dropped, it lets go.
pub struct Tracer {
    child: Child,
    /// Held, or what it says later would end it.
    _said: Lines<BufReader<ChildStderr>>,
}

impl Tracer {
    /// Returns when all threads are traced. `fault` as in `strace -e inject=`. Gives why it cannot be had.
    pub async fn attach(pid: u32, fault: &str) -> Result<Self, String> {
        let mut command = Command::new("strace");
        command.args(["-f", "-p", &pid.to_string(), "-e", "trace=fdatasync", "-o", "/dev/null"]);
        command.args(["-e", &format!("inject={fault}")]).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("strace cannot be started: {error}"))?;
        let mut said = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        match timeout(WITHIN, said.next_line()).await {
            Ok(Ok(Some(line))) if line.contains(" attached") => Ok(Self { child, _said: said }),
            other => Err(format!("strace does not attach: {other:?}")),
        }
    }

    /// Lets the process go on as it is.
    pub async fn detach(mut self) {
        let pid = self.child.id().expect("it runs").to_string();
        // Asked to end, it waits for calls in progress and detaches; killed, it might leave a thread stopped.
        let asked = Command::new("kill").args(["-TERM", &pid]).status().await;
        assert!(asked.expect("kill is everywhere").success(), "the tracer has ended by itself");
        let ended = timeout(WITHIN, self.child.wait()).await;
        ended.expect("it ends when asked").expect("it can be waited for");
    }
}
