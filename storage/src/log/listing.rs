//! Which files a log consists of.

use std::ops::Range;
use std::sync::Arc;

use base::limits::LOG_BLOCK_BYTES;
use base::{BatchIndex, LogPosition, Term, Timestamp};

use super::recovery::OpenError;
use super::segment::{self, HeaderError, PREPARED_PREFIX, Segment};
use super::thin::{self, Thin};
use crate::disk::Disk;

/// Where the reading of a log begins that is older than what has to be read.
#[derive(Debug, Clone)]
pub struct Start {
    /// The first segment that is read.
    pub from: LogPosition,
    /// Everything below was durable.
    pub durable: LogPosition,
    /// What the log had reached there, at the least.
    pub next_index: BatchIndex,
    pub term: Term,
    pub stored_at: Timestamp,
    /// Segments that there were, oldest first.
    pub segments: Vec<segment::Header>,
}

/// The files of a log. Nothing was changed to find them.
pub(super) struct Listing {
    /// Those that can be read, oldest first.
    pub segments: Vec<Arc<Segment>>,
    /// What was prepared and never used.
    pub prepared: Vec<String>,
    /// Those whose header a checkpoint knew, and the file did not.
    pub headless: Vec<segment::Header>,
    /// What a checkpoint knows and is not there.
    pub missing: Vec<Range<LogPosition>>,
    /// Why the log cannot be opened, however much of it can be read.
    pub refusal: Option<OpenError>,
}

/// Opens every segment that belongs to the store.
pub(super) fn list(disk: &dyn Disk, start: Option<&Start>) -> Result<Listing, OpenError> {
    let io = |operation, name: &str| {
        let name = name.to_owned();
        move |source| OpenError::Io { operation, name, source }
    };
    let names = disk.list().map_err(io("listing", "the data directory"))?;
    let mut bases: Vec<LogPosition> = names.iter().filter_map(|name| segment::parse_name(name)).collect();
    bases.sort_unstable();
    let known = start.map_or(&[][..], |start| &start.segments);
    let thinned = open_thinned(disk, &names, start);
    let mut missing = Vec::new();
    if let Some(start) = start {
        // Older ones that are not known are on their way out.
        bases.retain(|base| *base >= start.from || known.iter().any(|header| header.base == *base));
        let is_there =
            |base: &LogPosition| bases.contains(base) || thinned.iter().any(|segment| segment.header.base == *base);
        for header in known.iter().filter(|header| header.base < start.from && !is_there(&header.base)) {
            tracing::error!(segment = segment::name(header.base), "a segment is missing; all of it is quarantined");
            missing.push(header.base..header.end());
        }
    }
    bases.retain(|base| !thinned.iter().any(|segment| segment.header.base == *base));
    let newest = bases.last().copied();
    let prepared = names.into_iter().filter(|name| name.starts_with(PREPARED_PREFIX)).collect();
    let mut listing =
        Listing { segments: Vec::with_capacity(bases.len()), prepared, missing, headless: Vec::new(), refusal: None };
    for base in bases {
        let name = segment::name(base);
        let is_old = start.is_some_and(|start| base < start.from);
        let file = if is_old { disk.open_to_read(&name) } else { disk.open(&name) }.map_err(io("opening", &name))?;
        let mut block = vec![0; LOG_BLOCK_BYTES as usize];
        file.read_at(&mut block, 0).map_err(io("reading", &name))?;
        let noted = known.iter().find(|header| header.base == base);
        let decoded = match (segment::Header::decode(&block), noted) {
            (Err(HeaderError::Damaged), Some(noted)) => {
                tracing::error!(segment = name, "the segment's header is damaged; a checkpoint knows what it was");
                listing.headless.push(*noted);
                Ok(*noted)
            }
            (decoded, _) => decoded,
        };
        let refusal = match decoded {
            Ok(header) if header.base == base => {
                let first = listing.segments.first().map_or(header.cluster, |first| first.header.cluster);
                if first == header.cluster {
                    listing.segments.push(Arc::new(Segment { header, seed: header.seed(), file, thin: None }));
                    continue;
                }
                OpenError::Cluster { name }
            }
            // Without its header a segment's batches cannot be told from rubbish: all of it is quarantined by the scan,
            // which finds the next segment's first index further on than it should be.
            Ok(_) | Err(HeaderError::Damaged) if Some(base) != newest => {
                tracing::error!(segment = name, "the segment's header is damaged; all of the segment is quarantined");
                continue;
            }
            // The log cannot go on behind a segment whose extent is unknown, and must not go on over it.
            Ok(_) | Err(HeaderError::Damaged) => OpenError::NewestDamaged { name },
            Err(source) => OpenError::Version { name, source },
        };
        listing.refusal.get_or_insert(refusal);
    }
    listing.segments.extend(thinned.into_iter().map(Arc::new));
    listing.segments.sort_by_key(|segment| segment.header.base);
    Ok(listing)
}

/// What is left of segments that a checkpoint lies behind. One that is damaged is no use where the whole segment is there.
fn open_thinned(disk: &dyn Disk, names: &[String], start: Option<&Start>) -> Vec<Segment> {
    let Some(start) = start else { return Vec::new() };
    let bases = names.iter().filter_map(|name| thin::parse_name(name)).filter(|base| *base < start.from);
    let known = bases.filter(|base| start.segments.iter().any(|header| header.base == *base));
    let opened = known.filter_map(|base| match Thin::open(disk, base) {
        Ok(segment) => Some(segment),
        Err(error) => {
            tracing::error!(%error, "what is left of a segment cannot be used");
            None
        }
    });
    opened.collect()
}
