//! The records of a batch that was found in the log.

use base::LogPosition;

use super::{Framed, decode};
use crate::codec::Malformed;
use crate::log::batch::HEADER_BYTES;
use crate::log::recovery::Found;

/// Gives each record of a batch, as far as they can be read; then the place and cause that ended it.
pub fn each(
    batch: &Found<'_>,
    visit: &mut dyn FnMut(LogPosition, &Framed<'_>),
) -> Result<(), (LogPosition, Malformed)> {
    let mut rest = batch.records;
    let first = batch.header.position.plus(HEADER_BYTES as u64);
    let at = |rest: &[u8]| first.plus((batch.records.len() - rest.len()) as u64);
    for _ in 0..batch.header.records {
        let framed = decode(rest).map_err(|cause| (at(rest), cause))?;
        visit(at(rest), &framed);
        rest = &rest[framed.length as usize..];
    }
    match rest.is_empty() {
        true => Ok(()),
        false => Err((at(rest), Malformed { what: "batch with bytes behind its records" })),
    }
}
