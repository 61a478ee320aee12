use proptest::prelude::*;

use super::*;
use crate::disk::sim::SimDisk;
use base::{BatchIndex, Term};

const SIZE: u64 = 64 << 10;

fn header() -> Header {
    Header {
        compatible: 0,
        incompatible: 0,
        cluster: [5; 16],
        group: 0,
        random: 9,
        base: LogPosition(2 * SIZE),
        base_index: BatchIndex(7),
        base_term: Term(1),
        size: SIZE,
    }
}

/// Records at these offsets, each filled with a byte of its own.
fn thinned(disk: &SimDisk, records: &[(u64, usize)]) {
    let summary = Summary { base: header().base, size: SIZE, ..Summary::default() };
    let mut writer = ThinWriter::create(disk, &header(), &summary, 77, 3).expect("space");
    for (number, (offset, length)) in records.iter().enumerate() {
        let bytes = vec![number as u8 + 1; *length];
        let position = header().base.plus(*offset);
        writer.keep(&Kept { position, stored_at: Timestamp(number as u64), bytes: &bytes }).expect("power");
    }
    writer.finish(disk).expect("power");
}

proptest! {
    #[test]
    fn what_was_kept_reads_as_before_and_the_rest_as_zeros(
        steps in proptest::collection::vec((0u64..3_000, 1usize..2_000), 0..20),
        reads in proptest::collection::vec((0u64..60_000, 1usize..5_000), 1..10),
    ) {
        let mut expected = vec![0u8; SIZE as usize];
        let mut records = Vec::new();
        let mut at = 4096u64;
        for (gap, length) in steps {
            at += gap;
            if at + length as u64 > SIZE {
                break;
            }
            records.push((at, length));
            expected[at as usize..at as usize + length].fill(records.len() as u8);
            at += length as u64;
        }
        let disk = SimDisk::new(1);
        thinned(&disk, &records);
        let segment = Thin::open(&disk, header().base).expect("just written");
        prop_assert_eq!(segment.header, header());
        prop_assert_eq!(segment.thin.as_ref().map(|thin| thin.wanted()), Some(77));
        for (from, length) in reads {
            let length = length.min((SIZE - from) as usize);
            let mut read = vec![1; length];
            segment.file.read_at(&mut read, from).expect("power");
            prop_assert!(read == expected[from as usize..from as usize + length], "{length} bytes from {from} on");
        }
        let mut kept = Vec::new();
        segment.thin.expect("as such").each(&mut |record| kept.push(record.position.since(header().base))).expect("sound");
        prop_assert_eq!(kept, records.iter().map(|(offset, _)| *offset).collect::<Vec<_>>());
    }
}

#[test]
fn a_flip_of_any_byte_takes_what_it_hits_and_is_named() {
    let records: Vec<(u64, usize)> = (0..20).map(|number| (4096 + number * 2_000, 1_500)).collect();
    let disk = SimDisk::new(1);
    thinned(&disk, &records);
    let file = name(header().base);
    let length = disk.content(&file).expect("there").len() as u64;
    for byte in (0..length).step_by(97) {
        assert!(disk.flip(&file, byte, 5));
        if let Ok(segment) = Thin::open(&disk, header().base) {
            let thin = segment.thin.expect("as such");
            let holes = thin.holes();
            for (number, (offset, length)) in records.iter().enumerate() {
                let mut read = vec![0; *length];
                segment.file.read_at(&mut read, *offset).expect("power");
                let is_whole = read.iter().all(|byte| *byte == number as u8 + 1);
                let at = header().base.plus(*offset);
                let is_named = holes.as_ref().map_or(true, |holes| holes.iter().any(|hole| hole.contains(&at)));
                assert!(is_whole || (is_named && read.iter().all(|byte| *byte == 0)), "byte {byte}, record {number}");
            }
            assert!(thin.verify().is_err(), "byte {byte} is in a block");
        }
        assert!(disk.flip(&file, byte, 5));
    }
}
