//! Thresholds as they are written, and figures as monitoring systems read them.

use std::fmt;
use std::time::Duration;

use base::{ByteSize, duration};

use super::{Options, What};
use crate::doctor::Level;

/// A limit of a question. Which kinds a question takes, it says itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    Time(Duration),
    Count(u64),
    Size(u64),
    /// Hundredths.
    Share(u8),
}

pub fn read(text: &str) -> Result<Threshold, String> {
    let share = |text: &str| text.parse().ok().filter(|share| *share <= 100);
    let read = match (text.strip_suffix('%'), text.parse()) {
        (Some(text), _) => share(text).map(Threshold::Share),
        (None, Ok(count)) => Some(Threshold::Count(count)),
        (None, Err(_)) => {
            let time = duration::parse(text).ok().map(Threshold::Time);
            time.or_else(|| text.parse::<ByteSize>().ok().map(|size| Threshold::Size(size.0)))
        }
    };
    read.ok_or_else(|| format!("{text:?} is no threshold; write 10m, 1000, 20% or 50GiB"))
}

/// Why the thresholds do not fit the question.
pub fn misfit(options: &Options) -> Option<String> {
    let what = options.what;
    let (kinds, is_right): (&str, fn(Threshold) -> bool) = match what {
        What::Ready => ("none", |_| false),
        What::Lag => ("an age such as 10m, or messages such as 1000", |it| {
            matches!(it, Threshold::Time(_) | Threshold::Count(_))
        }),
        What::Dlq => ("dead letters such as 100", |it| matches!(it, Threshold::Count(_))),
        What::Timers => ("a time such as 5s", |it| matches!(it, Threshold::Time(_))),
        What::Disk => {
            ("free space such as 10% or 50GiB, or a time such as 6h", |it| !matches!(it, Threshold::Count(_)))
        }
    };
    let mut given = [("--warning", options.warning), ("--critical", options.critical)].into_iter();
    if let Some((flag, _)) = given.find(|(_, given)| given.is_some_and(|given| !is_right(given))) {
        return Some(format!("{flag} of {} takes {kinds}", what.word()));
    }
    let of_groups = matches!(what, What::Lag | What::Dlq);
    (options.group.is_some() && !of_groups).then(|| format!("--group is nothing that {} asks about", what.word()))
}

/// The level of a value that is worse the larger it is. None = it has no threshold.
pub fn above(value: f64, warning: Option<f64>, critical: Option<f64>) -> Level {
    let has_reached = |limit: Option<f64>| limit.is_some_and(|limit| value >= limit);
    level(has_reached(warning), has_reached(critical))
}

/// The same of one that is worse the smaller it is.
pub fn below(value: f64, warning: Option<f64>, critical: Option<f64>) -> Level {
    let is_under = |limit: Option<f64>| limit.is_some_and(|limit| value < limit);
    level(is_under(warning), is_under(critical))
}

fn level(is_warning: bool, is_critical: bool) -> Level {
    match (is_critical, is_warning) {
        (true, _) => Level::Critical,
        (false, true) => Level::Warning,
        (false, false) => Level::Ok,
    }
}

/// `name=value unit;warning;critical;minimum`.
#[derive(Debug)]
pub struct Figure {
    pub name: &'static str,
    pub value: f64,
    pub unit: &'static str,
    pub warning: Option<f64>,
    pub critical: Option<f64>,
    /// Smaller is worse: thresholds are the ends of what is right.
    pub is_floor: bool,
}

impl Figure {
    pub fn plain(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit, warning: None, critical: None, is_floor: false }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.is_floor { ":" } else { "" };
        let limit = |limit: Option<f64>| limit.map(|limit| format!("{limit}{end}")).unwrap_or_default();
        let (warning, critical) = (limit(self.warning), limit(self.critical));
        write!(f, "{}={}{};{warning};{critical};0", self.name, self.value, self.unit)
    }
}
