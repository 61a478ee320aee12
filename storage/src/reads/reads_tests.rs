//! Stories of the pool, on a file that keeps count of its reads. The pool is run to its end on the test's own thread.

use std::io;

use arc_swap::ArcSwap;
use base::limits::{READ_GAP_BYTES_MAX, READS_OF_ONE_MAX};
use base::time::ManualClock;
use base::{BatchIndex, GroupId, QueueIndex, QueueOffset, Term, Timestamp, TopicId};

use super::*;
use crate::disk::File;
use crate::log::segment::{Header, Segment};
use crate::message::{BodyPart, Envelope, MessageKind};
use crate::record::{Head, Record};

/// A file that remembers each read, and where it cannot be read.
#[derive(Default)]
struct Counted {
    bytes: Mutex<Vec<u8>>,
    reads: Mutex<Vec<(u64, usize)>>,
    bad_sector: Mutex<Option<u64>>,
}

impl File for Counted {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.lock().push((offset, buffer.len()));
        let range = offset as usize..offset as usize + buffer.len();
        if self.bad_sector.lock().is_some_and(|bad| range.contains(&(bad as usize))) {
            return Err(io::Error::other("a bad sector"));
        }
        let bytes = self.bytes.lock();
        buffer.copy_from_slice(bytes.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn read_device(&self, _: &mut [u8], _: u64) -> Option<io::Result<()>> {
        None
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        unreachable!("the pool only reads")
    }

    fn zero_at(&self, _: u64, _: u64) -> io::Result<()> {
        unreachable!("the pool only reads")
    }

    fn sync_data(&self) -> io::Result<()> {
        unreachable!("the pool only reads")
    }

    fn sync_all(&self) -> io::Result<()> {
        unreachable!("the pool only reads")
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().len() as u64)
    }
}

const SEGMENT: u64 = 4 << 20;
const FIRST: u64 = 4096;

/// A log of one segment, and a pool over it.
struct Story {
    file: Arc<Counted>,
    pool: Pool,
    answers: Arc<Mutex<Vec<(u32, Fetched)>>>,
}

impl Story {
    fn new() -> Self {
        let file = Arc::new(Counted::default());
        file.bytes.lock().resize(SEGMENT as usize, 0);
        let header = Header {
            compatible: 0,
            incompatible: 0,
            cluster: [0; 16],
            group: 0,
            random: 0,
            base: LogPosition(0),
            base_index: BatchIndex(0),
            base_term: Term(1),
            size: SEGMENT,
        };
        let segment = Segment { header, seed: 0, file: file.clone(), thin: None };
        let segments = Arc::new(ArcSwap::from_pointee(vec![Arc::new(segment)]));
        let clock = Arc::new(ManualClock::at(Timestamp(1)));
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        Self { file, pool: Pool::new(segments, clock, metrics, None), answers: Arc::default() }
    }

    /// A message with this body, at this position.
    fn store(&self, position: u64, body: &str) -> Pointer {
        let envelope = Envelope::new(MessageKind::Normal, body.into(), Timestamp(1), "host".into());
        let head = Head { topic: TopicId(1), tag_hash: 0, group_hash: 0, priority: 0 };
        let record = Record::Message { head, queue: QueueIndex(0), offset: QueueOffset(0) };
        let part = BodyPart::encode(&envelope, body.as_bytes());
        let mut bytes = Vec::new();
        record.encode(&mut bytes, part.as_bytes());
        let at = position as usize;
        self.file.bytes.lock()[at..at + bytes.len()].copy_from_slice(&bytes);
        Pointer { position: LogPosition(position), length: bytes.len() as u32 }
    }

    /// Messages one after the other.
    fn store_all(&self, bodies: &[&str]) -> Vec<Pointer> {
        let mut at = FIRST;
        let mut pointers = Vec::new();
        for body in bodies {
            let pointer = self.store(at, body);
            at += u64::from(pointer.length);
            pointers.push(pointer);
        }
        pointers
    }

    fn ask(&self, group: u32, pointers: Vec<Pointer>) -> bool {
        let answers = self.answers.clone();
        let done = Box::new(move |fetched| answers.lock().push((group, fetched)));
        let asker = Asker::Subscription(GroupId(group), TopicId(1));
        self.pool.take(Job { asker, urgency: Urgency::Behind, pointers, done })
    }

    /// Does all that was asked for.
    fn run(&self) -> Vec<(u32, Fetched)> {
        self.pool.close();
        self.pool.run();
        std::mem::take(&mut *self.answers.lock())
    }

    fn reads(&self) -> Vec<(u64, usize)> {
        self.file.reads.lock().clone()
    }
}

fn bodies(fetched: &Fetched) -> Vec<Option<&str>> {
    let text = |message: &StoredMessage| message.envelope.message_id.clone();
    let body = |message| std::str::from_utf8(message).unwrap();
    fetched
        .iter()
        .map(|result| result.as_ref().ok().inspect(|m| assert_eq!(text(m), body(&m.body))).map(|m| body(&m.body)))
        .collect()
}

#[test]
fn a_job_is_read_at_once_and_answered_in_the_order_it_was_asked_for() {
    let story = Story::new();
    let all = story.store_all(&["a", "b", "c"]);
    let length: u32 = all.iter().map(|pointer| pointer.length).sum();
    assert!(story.ask(1, vec![all[2], all[0], all[1]]));
    let answers = story.run();
    assert_eq!(bodies(&answers[0].1), [Some("c"), Some("a"), Some("b")], "R1");
    assert_eq!((story.reads(), answers.len()), (vec![(FIRST, length as usize)], 1));
}

#[test]
fn what_lies_far_apart_is_read_apart() {
    let story = Story::new();
    let near = story.store(FIRST, "near");
    let far = story.store(FIRST + u64::from(near.length) + READ_GAP_BYTES_MAX + 1, "far");
    story.ask(1, vec![far, near]);
    assert_eq!(bodies(&story.run()[0].1), [Some("far"), Some("near")]);
    let expected = [near, far].map(|pointer| (pointer.position.0, pointer.length as usize));
    assert_eq!(story.reads(), expected, "in order of position");
}

#[test]
fn bodies_are_slices_of_one_buffer_unless_most_of_it_is_not_wanted() {
    let story = Story::new();
    let large = "x".repeat(10_000);
    let all = story.store_all(&[&large, "b", &large, "d"]);
    // A body is the end of its record.
    let on_disk =
        |number: usize, body: &Bytes| all[number].position.0 as usize + all[number].length as usize - body.len();
    let is_one_buffer = |fetched: &Fetched, [first, second]: [usize; 2]| {
        let [a, b] = [0, 1].map(|number| &fetched[number].as_ref().unwrap().body);
        (b.as_ptr() as usize).wrapping_sub(a.as_ptr() as usize) == on_disk(second, b) - on_disk(first, a)
    };
    story.ask(1, vec![all[0], all[1]]);
    story.ask(2, vec![all[1], all[3]]);
    let answers = story.run();
    assert!(is_one_buffer(&answers[0].1, [0, 1]), "not copied");
    assert!(!is_one_buffer(&answers[1].1, [1, 3]), "copied: the gap is not kept");
}

#[test]
fn a_damaged_record_is_no_other_records_fault() {
    let story = Story::new();
    let all = story.store_all(&["a", "b", "c"]);
    let last_byte = all[1].position.0 as usize + all[1].length as usize - 1;
    story.file.bytes.lock()[last_byte] ^= 1;
    story.ask(1, all);
    let answers = story.run();
    assert_eq!(bodies(&answers[0].1), [Some("a"), None, Some("c")], "R2");
    assert!(matches!(&answers[0].1[1], Err(error) if error.is_lost()), "{:?}", answers[0].1[1]);
    assert_eq!(story.reads().len(), 1);
}

#[test]
fn a_bad_sector_under_one_record_is_no_other_records_fault() {
    let story = Story::new();
    let all = story.store_all(&["a", "b", "c"]);
    *story.file.bad_sector.lock() = Some(all[1].position.0 + 1);
    story.ask(1, all.clone());
    let answers = story.run();
    assert_eq!(bodies(&answers[0].1), [Some("a"), None, Some("c")], "R2");
    assert!(matches!(&answers[0].1[1], Err(error) if !error.is_lost()), "{:?}", answers[0].1[1]);
    assert_eq!(story.reads().len(), 4, "together, and then each");
}

#[test]
fn what_is_in_no_segment_is_gone() {
    let story = Story::new();
    let there = story.store(SEGMENT - 200, "there");
    let gone = Pointer { position: LogPosition(SEGMENT), length: 10 };
    story.ask(1, vec![there, gone]);
    let answers = story.run();
    assert_eq!(bodies(&answers[0].1), [Some("there"), None]);
    assert!(matches!(&answers[0].1[1], Err(FetchError::Read(ReadError::Gone(position))) if position.0 == SEGMENT));
}

#[test]
fn a_small_job_is_answered_before_the_rest_of_a_large_one() {
    let story = Story::new();
    let far_apart = |number: u64| story.store(FIRST + number * (READ_GAP_BYTES_MAX + 1_000), "x");
    story.ask(1, (0..10).map(far_apart).collect());
    story.ask(2, vec![far_apart(11)]);
    let answers = story.run();
    assert_eq!(answers.iter().map(|(group, _)| *group).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(answers[1].1.len(), 10);
    assert_eq!(story.reads()[1].0, FIRST + 11 * (READ_GAP_BYTES_MAX + 1_000), "it had the second turn");
}

#[test]
fn a_full_pool_refuses_and_has_room_again_when_it_has_answered() {
    let story = Story::new();
    let pointer = story.store(FIRST, "x");
    assert!(story.ask(1, vec![pointer; READS_OF_ONE_MAX]));
    assert!(!story.ask(1, vec![pointer]));
    assert!(story.ask(2, vec![pointer]), "others are not full");
    let full = std::mem::replace(&mut story.pool.state.lock().is_closed, true);
    story.pool.run();
    story.pool.state.lock().is_closed = full;
    assert!(story.ask(1, vec![pointer]));
}

#[test]
fn a_closed_pool_answers_what_it_has_and_takes_no_more() {
    let story = Story::new();
    let pointer = story.store(FIRST, "x");
    assert!(story.ask(1, vec![pointer]) && story.ask(1, Vec::new()));
    assert_eq!(story.run().len(), 2);
    assert!(!story.ask(1, vec![pointer]));
}
