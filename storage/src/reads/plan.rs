//! Which reads bring a job's records: sorted by position, neighbours together.
//!
//! P1. Every record is in exactly one span, whole.
//! P2. A span lies in one segment, and is at most `READ_BYTES_MAX` long unless it is a single record.

use base::LogPosition;
use base::limits::{READ_BYTES_MAX, READ_GAP_BYTES_MAX};

use crate::record::Pointer;

/// One read, and what it brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The bytes to read.
    pub pointer: Pointer,
    /// The records in it, each with its number in the job.
    pub records: Vec<(usize, Pointer)>,
}

impl Span {
    /// Whether most of what is read was asked for.
    pub fn is_dense(&self) -> bool {
        let wanted: u64 = self.records.iter().map(|(_, pointer)| u64::from(pointer.length)).sum();
        wanted * 2 >= u64::from(self.pointer.length)
    }
}

/// Plans the reads of `pointers`. `end_of`: where the segment that holds a position ends.
pub fn plan(pointers: &[Pointer], end_of: impl Fn(LogPosition) -> LogPosition) -> Vec<Span> {
    let mut sorted: Vec<(usize, Pointer)> = pointers.iter().copied().enumerate().collect();
    sorted.sort_by_key(|(_, pointer)| pointer.position);
    let mut spans: Vec<Span> = Vec::new();
    let mut segment_end = LogPosition(0);
    for (number, pointer) in sorted {
        if let Some(span) = spans.last_mut().filter(|_| pointer.position < segment_end)
            && let Some(longer) = join(span.pointer, pointer)
        {
            span.pointer = longer;
            span.records.push((number, pointer));
            continue;
        }
        if pointer.position >= segment_end {
            segment_end = end_of(pointer.position);
        }
        spans.push(Span { pointer, records: vec![(number, pointer)] });
    }
    spans
}

/// Both in one read, if that is worth it. `next` does not begin before `span`.
fn join(span: Pointer, next: Pointer) -> Option<Pointer> {
    let end = |pointer: Pointer| pointer.position.plus(pointer.length.into());
    let gap = next.position.0.saturating_sub(end(span).0);
    let length = end(span).max(end(next)).since(span.position);
    let is_worth_it = gap <= READ_GAP_BYTES_MAX && length <= READ_BYTES_MAX;
    is_worth_it.then(|| Pointer { position: span.position, length: u32::try_from(length).expect("a span is short") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn at(position: u64, length: u32) -> Pointer {
        Pointer { position: LogPosition(position), length }
    }

    /// Where each read begins, its length, and the numbers of what it brings.
    fn planned(pointers: &[Pointer]) -> Vec<(u64, u32, Vec<usize>)> {
        let spans = plan(pointers, |position| LogPosition(position.0 / (4096 * KIB) * (4096 * KIB) + 4096 * KIB));
        let numbers = |span: &Span| span.records.iter().map(|(number, _)| *number).collect();
        spans.iter().map(|span| (span.pointer.position.0, span.pointer.length, numbers(span))).collect()
    }

    #[test]
    fn neighbours_are_read_together_in_order_of_position() {
        assert_eq!(planned(&[at(300, 100), at(0, 100), at(100, 150)]), [(0, 400, vec![1, 2, 0])]);
        assert_eq!(planned(&[at(0, 10), at(0, 10)]), [(0, 10, vec![0, 1])], "asked for twice, read once");
        assert_eq!(planned(&[]), []);
    }

    #[test]
    fn a_gap_of_64_kib_is_read_over_and_a_larger_one_is_not() {
        assert_eq!(planned(&[at(0, 100), at(100 + 64 * KIB, 100)]), [(0, 200 + 65_536, vec![0, 1])]);
        assert_eq!(planned(&[at(0, 100), at(101 + 64 * KIB, 100)]), [(0, 100, vec![0]), (101 + 65_536, 100, vec![1])]);
    }

    #[test]
    fn a_read_is_at_most_1_mib_unless_one_record_is_larger() {
        let kib = 1 << 10;
        let sizes = [at(0, 600 * kib), at(600 * KIB, 424 * kib), at(1024 * KIB, 1)];
        assert_eq!(planned(&sizes), [(0, 1024 * kib, vec![0, 1]), (1024 * KIB, 1, vec![2])]);
        assert_eq!(
            planned(&[at(0, 2048 * kib), at(2048 * KIB, 9)]),
            [(0, 2048 * kib, vec![0]), (2048 * KIB, 9, vec![1])]
        );
    }

    #[test]
    fn no_read_crosses_from_one_segment_into_the_next() {
        let end = 4096 * KIB;
        assert_eq!(planned(&[at(end - 50, 50), at(end + 50, 50)]), [(end - 50, 50, vec![0]), (end + 50, 50, vec![1])]);
    }
}
