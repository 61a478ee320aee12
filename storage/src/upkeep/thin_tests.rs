use super::super::aged_tests::Aged;

#[test]
fn what_was_thinned_is_not_thinned_again_however_often_the_store_starts() {
    let mut aged = Aged::mixed();
    let mut thinned = 0;
    // Each checkpoint lets the younger segments in.
    for _ in 0..3 {
        while let Some(done) = aged.thin() {
            assert!(done.after < done.before, "{done:?}");
            thinned += 1;
        }
        aged.checkpoint();
    }
    assert!(thinned >= 5, "{thinned} segments were thinned");
    aged.restart().unwrap();
    aged.checkpoint();
    assert_eq!(aged.thin(), None);
    // Everything that is wanted is there.
    for offset in 0..aged.placed.len() as u64 {
        assert_eq!(aged.fetch(offset).expect("wanted").ok(), Some(5000), "offset {offset}");
    }
}
