use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::map::{Chain, MapWriter};
use super::*;
use crate::disk::sim::SimDisk;

const STORE: [u8; 16] = [7; 16];

fn identity(number: u64) -> Identity {
    Identity { kind: Kind::Queues, store: STORE, random: 5 + number, number }
}

fn write_rows(disk: &SimDisk, name: &str, rows: &[(u64, u64)]) -> u64 {
    let mut table = TableWriter::create(disk, name, identity(1)).expect("space");
    table.rows(1, 16, 8).expect("power");
    for (key, value) in rows {
        let mut row = key.to_be_bytes().to_vec();
        row.extend_from_slice(&value.to_le_bytes());
        table.row(&row).expect("power");
    }
    table.bytes(2).expect("power");
    table.append(&[9; 10_000]).expect("power");
    table.finish().expect("power")
}

#[test]
fn a_key_is_found_with_few_reads_in_a_large_table() {
    let disk = SimDisk::new(1);
    let rows: Vec<(u64, u64)> = (0..600_000).map(|number| (number * 2, number)).collect();
    write_rows(&disk, "a", &rows);
    let table = Table::open(&disk, "a", STORE).expect("just written");
    let section = table.section(1).expect("written");
    let fence_blocks = section.count.div_ceil(section.rows_per_block()).div_ceil((PAYLOAD / 8) as u64);
    assert!(fence_blocks >= 4, "{fence_blocks} blocks of fences");
    for wanted in [0, 1, 77_777, 600_000, 1_199_998, 1_300_000u64] {
        let before = disk.reads().count;
        let found = table.lower_bound(&section, &wanted.to_be_bytes()).expect("sound");
        assert_eq!(found, wanted.div_ceil(2).min(600_000));
        let reads = disk.reads().count - before;
        // A step down for each halving of the blocks of fences, and the rows' own block.
        assert!(reads <= u64::from(fence_blocks.ilog2()) + 3, "{reads} reads for {wanted}");
    }
}

proptest! {
    #[test]
    fn rows_are_found_by_key_and_by_number(keys in proptest::collection::vec(0u64..3000, 0..2000), wanted in 0u64..3010) {
        let mut keys = keys;
        keys.sort_unstable();
        let rows: Vec<(u64, u64)> = keys.iter().enumerate().map(|(number, key)| (*key, number as u64)).collect();
        let disk = SimDisk::new(1);
        write_rows(&disk, "a", &rows);
        let table = Table::open(&disk, "a", STORE).expect("just written");
        table.verify().expect("sound");
        let section = table.section(1).expect("written");
        prop_assert_eq!(section.count, rows.len() as u64);
        let expected = keys.partition_point(|key| *key < wanted) as u64;
        prop_assert_eq!(table.lower_bound(&section, &wanted.to_be_bytes()).expect("sound"), expected);
        let mut read = Vec::new();
        table.rows(&section, 3, 1500, &mut |row| {
            read.push(u64::from_be_bytes(row[..8].try_into().expect("eight")));
            true
        }).expect("sound");
        prop_assert_eq!(&read[..], keys.get(3..keys.len().min(1500)).unwrap_or_default());
        let bytes = table.section(2).expect("written");
        prop_assert_eq!(table.slice(&bytes, 4000, 5000).expect("sound"), vec![9; 5000]);
    }

    #[test]
    fn a_chain_is_the_map_that_its_changes_make(
        changes in proptest::collection::vec(
            proptest::collection::btree_map(0u16..200, proptest::option::of(0usize..700), 0..150), 1..5),
    ) {
        let disk = SimDisk::new(1);
        let mut expected: BTreeMap<u16, Option<Vec<u8>>> = BTreeMap::new();
        let mut tables = Vec::new();
        for (number, change) in changes.iter().enumerate() {
            let name = format!("t{number}");
            let mut map = MapWriter::create(&disk, &name, identity(number as u64), 2).expect("space");
            for (key, length) in change {
                let value = length.map(|length| vec![number as u8; length]);
                map.put(&key.to_be_bytes(), value.as_deref()).expect("power");
                expected.insert(*key, value);
            }
            map.finish().expect("power");
            tables.push(Arc::new(Table::open(&disk, &name, STORE).expect("sound")));
        }
        let mut chain = Chain::new(&tables).expect("maps");
        for (key, value) in expected {
            prop_assert_eq!(chain.next_pair().expect("sound"), Some((key.to_be_bytes().to_vec(), value)));
        }
        prop_assert_eq!(chain.next_pair().expect("sound"), None);
    }
}

#[test]
fn a_flip_of_any_byte_is_found() {
    let disk = SimDisk::new(1);
    let bytes = write_rows(&disk, "a", &(0..1000).map(|key| (key, key)).collect::<Vec<_>>());
    for byte in (0..bytes).step_by(37) {
        assert!(disk.flip("a", byte, 3));
        let result = Table::open(&disk, "a", STORE).and_then(|table| table.verify());
        assert!(result.is_err_and(|error| error.is_damage()), "byte {byte}");
        assert!(disk.flip("a", byte, 3));
    }
    Table::open(&disk, "a", STORE).and_then(|table| table.verify()).expect("every flip was taken back");
}

#[test]
fn a_block_in_the_place_of_another_is_damage() {
    let disk = SimDisk::new(1);
    write_rows(&disk, "a", &(0..1000).map(|key| (key, key)).collect::<Vec<_>>());
    let content = disk.content("a").expect("there");
    disk.overwrite("a", BLOCK as u64, &content[2 * BLOCK..3 * BLOCK]);
    let table = Table::open(&disk, "a", STORE).expect("the header is sound");
    assert!(matches!(table.verify(), Err(TableError::Damaged { block: 1, .. })));
}

#[test]
fn a_table_of_another_store_is_refused() {
    let disk = SimDisk::new(1);
    write_rows(&disk, "a", &[]);
    assert!(matches!(Table::open(&disk, "a", [8; 16]), Err(TableError::Foreign { .. })));
}
