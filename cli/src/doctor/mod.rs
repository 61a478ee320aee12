//! `carillon doctor`: looks at a data directory and its machine, or at a running server, and says what is wrong.
//!
//! Each part gives [`Finding`]s; a finding that can be mended safely brings a [`Remedy`], which is applied with `--fix` only.

mod machine;
mod server;
mod store;
mod store_files;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Chance, Clock, SystemClock};
use clap::Args;
use serde_json::json;
use storage::disk::Disk;
use storage::disk::real::{DirectoryError, RealDisk};
use storage::salvage::{self, Remains, SalvageError};

use crate::args::{Common, Target};
use crate::exit::{Exit, Failure};
use crate::files;
use crate::log;
use crate::output::{Form, Output};
use crate::runtime;

/// Look for what is wrong with a data directory and its machine, or with a running server.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  carillon doctor ./data\n  carillon doctor --server http://127.0.0.1:8080\n  carillon doctor ./data --fix\n\nExit codes: 0 ok, 1 warning, 2 critical, 3 unknown."
)]
pub struct Options {
    /// A data directory; its server is asked when one runs. Default: the server at --server, alone.
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
    /// The space that the server keeps free, storage.disk_reserve.
    #[arg(long, value_name = "SHARE|SIZE", default_value = "5%", value_parser = store::reserve)]
    reserve: storage::threads::ReserveRule,
    /// Mend what can be mended. No server may use the directory. What would be lost by it, and is lost already, is said
    /// without this flag.
    #[arg(long, requires = "directory")]
    fix: bool,
}

/// How bad it is; the exit code of the worst is that of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Ok,
    Warning,
    Critical,
    /// It could not be found out.
    Unknown,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Unknown => "unknown",
        }
    }

    pub fn exit(self) -> Exit {
        match self {
            Self::Ok => Exit::Done,
            Self::Warning => Exit::Warning,
            Self::Critical => Exit::Critical,
            Self::Unknown => Exit::Unknown,
        }
    }

    /// What is known to be wrong counts for more than what is not known.
    pub fn weight(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Unknown => 1,
            Self::Warning => 2,
            Self::Critical => 3,
        }
    }
}

/// What one check came to.
#[derive(Debug)]
pub struct Finding {
    check: &'static str,
    level: Level,
    detail: String,
    remedy: Option<Remedy>,
}

impl Finding {
    pub fn new(check: &'static str, level: Level, detail: impl Into<String>) -> Self {
        Self { check, level, detail: detail.into(), remedy: None }
    }
}

/// What `--fix` does. Only what loses nothing belongs here, or what the finding says is lost.
#[derive(Debug)]
enum Remedy {
    /// Files that were made ready for later segments: a start removes them too, but a full disk needs their room now.
    RemovePrepared(Vec<String>),
    /// Damaged files that can be made anew, and files that nothing names.
    Tend,
    /// Nothing is left to begin from but a part of the log.
    BeginAnew(Box<Remains>),
}

impl Remedy {
    fn text(&self) -> String {
        match self {
            Self::RemovePrepared(names) => format!("removes {} prepared files", names.len()),
            Self::Tend => "makes damaged files anew, removes stray ones, and takes a checkpoint".into(),
            Self::BeginAnew(_) => {
                "opens the store with what is left, and takes a checkpoint; copy the directory first".into()
            }
        }
    }

    fn apply(&self, disk: Arc<dyn Disk>) -> Result<(), SalvageError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        match self {
            // Others may have removed them too, on their way.
            Self::RemovePrepared(names) => {
                let there = disk.list()?;
                names.iter().filter(|name| there.contains(name)).try_for_each(|name| disk.remove(name))?;
                Ok(disk.sync_directory()?)
            }
            Self::Tend => salvage::tend(&disk, &clock, Chance::from_system()),
            Self::BeginAnew(remains) => salvage::begin_anew(&disk, &clock, Chance::from_system(), remains),
        }
    }
}

pub fn run(options: &Options, common: &Common, output: &Output) -> Result<(), Failure> {
    let mut findings = Vec::new();
    match &options.directory {
        Some(directory) => examine(options, directory, &mut findings)?,
        None => findings.extend(runtime::block_on(server::look(&common.target()?))),
    }
    if let (true, Some(directory)) = (options.fix, &options.directory) {
        fix(directory, &mut findings)?;
    }
    say(&findings, output)?;
    let worst =
        findings.iter().map(|finding| finding.level).max_by_key(|level| level.weight()).unwrap_or(Level::Unknown);
    match worst {
        Level::Ok => Ok(()),
        bad => Err(Failure::new(bad.exit(), "")),
    }
}

fn examine(options: &Options, directory: &Path, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let opened = RealDisk::open_to_look(directory);
    // Anything else than a server in it is no directory to examine.
    if !matches!(&opened, Ok(_) | Err(DirectoryError::Locked { .. })) {
        drop(log::open(directory).map_err(|failure| Failure::new(Exit::Unknown, failure.to_string()))?);
    }
    findings.push(machine::open_files());
    findings.push(machine::sync_time(directory));
    findings.push(store::space(directory, options.reserve));
    match opened {
        Ok(disk) => {
            findings.extend(machine::ports());
            findings.extend(store::look(&disk));
        }
        Err(_) => match ports_of(directory) {
            Some(target) => findings.extend(runtime::block_on(server::look(&target))),
            None => {
                findings.push(Finding::new("server", Level::Unknown, "a server uses the directory and says no ports"))
            }
        },
    }
    Ok(())
}

/// Where the server of a directory listens.
fn ports_of(directory: &Path) -> Option<Target> {
    let text = files::read_text(&directory.join("ports.json")).ok()?;
    let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
    let at = |name: &str| Some(format!("127.0.0.1:{}", ports[name].as_u64()?));
    Some(Target { http: at("http")?, grpc: at("grpc")? })
}

fn fix(directory: &Path, findings: &mut [Finding]) -> Result<(), Failure> {
    for finding in findings.iter_mut() {
        let Some(remedy) = finding.remedy.take() else { continue };
        let disk = RealDisk::open(directory).map_err(|error| Failure::new(Exit::Unknown, error.to_string()))?;
        match remedy.apply(Arc::new(disk)) {
            Ok(()) => {
                finding.level = Level::Ok;
                finding.detail += &format!("; mended: {}", remedy.text());
            }
            Err(error) => finding.detail += &format!("; not mended: {error}"),
        }
    }
    Ok(())
}

fn say(findings: &[Finding], output: &Output) -> Result<(), Failure> {
    let remedy = |finding: &Finding| finding.remedy.as_ref().map(|remedy| format!("--fix {}", remedy.text()));
    match output.form {
        Form::Json => {
            let check = |finding: &Finding| {
                json!({"check": finding.check, "state": finding.level.name(), "detail": finding.detail,
                    "fix": remedy(finding)})
            };
            output.document(&json!({"checks": findings.iter().map(check).collect::<Vec<_>>()}))?;
        }
        Form::Quiet => {
            let bad = findings.iter().filter(|finding| finding.level != Level::Ok);
            bad.into_iter().try_for_each(|finding| output.line(finding.check))?;
        }
        Form::People => {
            let row = |finding: &Finding| {
                let advice = remedy(finding).map(|remedy| format!(" ({remedy})")).unwrap_or_default();
                vec![finding.check.into(), finding.level.name().into(), format!("{}{advice}", finding.detail)]
            };
            output.table(&["CHECK", "STATE", "DETAIL"], findings.iter().map(row).collect())?;
        }
    }
    Ok(())
}
