//! Every maximum of the system, in one place. Sizes are bytes, times are milliseconds, unless the name says otherwise.
//!
//! Limits with a protocol source name it: §3.1 is the validation table of the gRPC specification.

/// Topic names, §3.1.
pub const TOPIC_NAME_BYTES_MAX: usize = 127;
/// Bytes of the name of a broker, a name server or a cluster: labels of metrics and part of routes.
pub const NODE_NAME_BYTES_MAX: usize = 127;
/// Names of derived topics (`%DLQ%group`): the prefix and a group name fit with room.
pub const DERIVED_TOPIC_NAME_BYTES_MAX: usize = 255;
/// Group names, §3.1.
pub const GROUP_NAME_BYTES_MAX: usize = 120;
/// Queues of one topic.
pub const TOPIC_QUEUES_MAX: u16 = 1024;
/// A shorter retention of a topic is a slip of the pen, and would take everything.
pub const RETENTION_MS_MIN: u64 = 1_000;
/// As far as a message may be scheduled.
pub const RETENTION_MS_MAX: u64 = DELAY_MS_MAX;
/// Bytes of a topic that are kept at least, when they are limited.
pub const RETENTION_BYTES_MIN: u64 = 1 << 20;
pub const RETENTION_BYTES_MAX: u64 = 1 << 60;
/// Topics of one store: ids are never reused, so this bounds the catalog.
pub const TOPICS_MAX: usize = 100_000;
/// Groups of one store.
pub const GROUPS_MAX: usize = 100_000;
/// How long it is remembered that a topic or a group was dropped: a broker that was away for longer brings it back.
pub const BURIED_MS: u64 = 7 * 24 * 3600 * 1000;

/// Message bodies, §3.1.
pub const MESSAGE_BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// User properties of a message, §3.1.
pub const MESSAGE_PROPERTIES_MAX: usize = 128;
/// Keys and values of the user properties, the tag and the keys together, §3.1.
pub const MESSAGE_PROPERTIES_BYTES_MAX: usize = 16 * 1024;
/// Message groups are shorter than this, §3.1.
pub const MESSAGE_GROUP_BYTES_MAX: usize = 63;
/// Message ids are opaque; official ones have 34 bytes.
pub const MESSAGE_ID_BYTES_MAX: usize = 255;
/// Trace context and born host are passed through.
pub const PASSED_TEXT_BYTES_MAX: usize = 1024;
/// Messages of one send call.
pub const SEND_MESSAGES_MAX: usize = 1024;
/// The part of a stored message that is not its body: properties, ids, hosts and framing.
pub const ENVELOPE_BYTES_MAX: usize = 64 * 1024;
/// A decoded gRPC request; larger ones end with a gRPC error, as they cannot be answered otherwise.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a process holds for requests and answers in all, unless configured; at least four of the largest requests.
pub const MEMORY_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;
pub const MEMORY_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// What a call takes beside its headers and messages: its task, its stream, what waits for it.
pub const CALL_BYTES: usize = 4 * 1024;
/// Holds up to this may take a connection to twice its share.
pub const SMALL_HOLD_BYTES: usize = 16 * 1024;
/// A connection reads so much before others have their turn; less when there are many, or when it floods.
pub const TURN_BYTES_MAX: usize = 64 * 1024;
pub const TURN_BYTES_MIN: usize = 4 * 1024;
/// Calls of a client that takes no answers end here: no more of them are read.
pub const STUCK_BYTES_MAX: usize = 256 * 1024;
/// One element of a Telemetry stream: the settings of a client with thousands of topics.
pub const TELEMETRY_BYTES_MAX: usize = 256 * 1024;
/// Refusals are counted, and waits observed, in spans of this length.
pub const SPAN_MS: u64 = 20;
/// A worker refuses so many calls in a span, about a tenth of a slow core's time; who needs more is not read until it is
/// over.
pub const REFUSALS_OF_SPAN: u32 = 40;
/// A request has so long to arrive, and a second more for each so many bytes of it.
pub const REQUEST_MS_MAX: u64 = 30_000;
pub const REQUEST_BYTES_PER_SECOND_MIN: usize = 64 * 1024;
/// A client that takes nothing for so long while answers wait for it is left.
pub const STALLED_MS_MAX: u64 = 30_000;
/// At a stop, a connection without a call in progress is closed when nothing came or went for so long. What was lost on
/// the way has been sent again four times by then (0.2 s + 0.4 s + 0.8 s + 1.6 s): a client that is there has answered.
pub const PARTING_MS_MAX: u64 = 3_000;
/// Sends that one connection may have at work whatever the wait is.
pub const SENDS_OF_ONE_MIN: usize = 8;
/// Sends that stand before one worker are not refused up to so many, however slow it is.
pub const LINE_MIN: usize = 64;
/// While the log writer is slow, so many sends, or so many bytes of them, are at work at the least: one group that is written
/// and one that waits keep it busy.
pub const SENDS_BUSY: usize = 8;
pub const SENDS_BUSY_BYTES: usize = 2 * LOG_GROUP_BYTES_MAX;

/// How far ahead a message may be scheduled: a hundred years.
pub const DELAY_MS_MAX: u64 = 36_500 * 24 * 3600 * 1000;
/// `orphaned_transaction_recovery_duration`, §3.1.
pub const TRANSACTION_CHECK_AFTER_MS_MAX: u64 = 3_600_000;
/// Invisible time of a receive, §3.1.
pub const INVISIBLE_MS_MIN: u64 = 10_000;
pub const INVISIBLE_MS_MAX: u64 = 12 * 3_600_000;

/// Messages of one receive, §3.1.
pub const RECEIVE_MESSAGES_MAX: usize = 32;
/// Bodies of one reply; at least one message is always sent.
pub const RECEIVE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest poll that is served.
pub const POLL_MS_MAX: u64 = 60_000;
/// Entries of one ack request.
pub const ACK_ENTRIES_MAX: usize = 1024;
/// Receipt handles are far shorter; longer ones are refused unread.
pub const HANDLE_BYTES_MAX: usize = 1024;
/// Filter expressions.
pub const FILTER_BYTES_MAX: usize = 8 * 1024;
/// Client ids are opaque.
pub const CLIENT_ID_BYTES_MAX: usize = 512;

/// Attempts of a message, however the group is configured.
pub const ATTEMPTS_MAX: u32 = 1000;
/// Steps of a group's back-off list.
pub const BACKOFF_STEPS_MAX: usize = 64;

/// A client without a call, heartbeat or stream for this long has gone (§4.2 of the gRPC specification).
pub const CLIENT_ABSENCE_MS: u64 = 120_000;
/// Clients remembered at once.
pub const CLIENTS_MAX: usize = 100_000;
/// The lease of an auto-renewed delivery; renewed in memory while the client lives.
pub const RENEWED_LEASE_MS: u64 = 60_000;
/// Auto-renewal of a standard group's delivery ends here.
pub const RENEWED_LEASE_MS_MAX: u64 = 3 * 3_600_000;

/// Pointers that one subscription keeps.
pub const WINDOW_POINTERS_MAX: usize = 262_144;
/// Followers that one closed lane keeps in memory.
pub const LANE_FOLLOWERS_MAX: usize = 64;
/// Entries between where a lane stopped keeping followers and the read position that are walked, a few reads of a queue; where
/// there are more, its message group is looked up in the index.
pub const REFILL_WALKED_MAX: u64 = 1_024;
/// Entries that are in no index yet and are passed at one step of such a look-up: 512 KiB.
pub const REFILL_UNSEALED_MAX: usize = 16_384;
/// Steps of refilling one lane, each a stretch walked or a look-up; then the others have their turn.
pub const REFILL_STEPS_MAX: usize = 64;
/// Entries read from a queue at a time: a lock is held for no more.
pub const READ_ENTRIES_MAX: usize = 4_096;
/// Polls parked at one subscription.
pub const PARKED_POLLS_MAX: usize = 65_536;
/// A subscription that has nothing to do ends after this time.
pub const SUBSCRIPTION_IDLE_MS: u64 = 60_000;
/// Skipped (filtered) entries are settled at the latest after this many or this long.
pub const SKIPPED_ENTRIES_MAX: usize = 65_536;
pub const SKIPPED_MS_MAX: u64 = 5_000;

/// The unit of torn writes: groups start here, blocks below `durable` are never written again.
pub const LOG_BLOCK_BYTES: u64 = 4096;
/// Segment size unless configured.
pub const SEGMENT_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;
pub const SEGMENT_BYTES_MIN: u64 = 1024 * 1024;
/// One group is at most this, or one larger batch.
pub const LOG_GROUP_BYTES_MAX: usize = 1024 * 1024;
/// One batch: a send request at its largest, with envelopes.
pub const LOG_BATCH_BYTES_MAX: usize = 24 * 1024 * 1024;
/// One record: lengths of records are stored in 24 bits in queue entries.
pub const LOG_RECORD_BYTES_MAX: usize = (1 << 24) - 1;
/// Bytes that wait for the writer.
pub const INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Requests that wait for the writer.
pub const INBOX_REQUESTS_MAX: usize = 4096;
/// Records of one batch from a background producer.
pub const BACKGROUND_RECORDS_MAX: usize = 1_000;

/// One read of the log brings at most this much, or one larger record. A turn at the disk is one read, so this is also what
/// a live consumer's cold read waits for at each busy thread: 1 MiB is below a millisecond on a disk of 1 GB/s.
pub const READ_BYTES_MAX: u64 = 1024 * 1024;
/// Records no further apart than this are read together, with what lies between them: to read 64 KiB that nobody wants costs
/// less than one more seek.
pub const READ_GAP_BYTES_MAX: u64 = 64 * 1024;
/// Records, and their bytes, that wait for the read pool or were not all handed over yet. Who has reached one of them is
/// refused the next job, so one job may go beyond.
pub const READS_MAX: usize = 32_768;
pub const READS_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The same for one asker (a subscription, or all look-ups together): a quarter.
pub const READS_OF_ONE_MAX: usize = READS_MAX / 4;
pub const READS_OF_ONE_BYTES_MAX: u64 = READS_BYTES_MAX / 4;
/// Cold reads of those who keep up go first, but at most this many in a row while somebody far behind waits.
pub const READS_LIVE_IN_A_ROW_MAX: u32 = 7;
/// Bodies that one subscription behind the tail cache has fetched ahead of its polls, those under way included.
pub const READ_AHEAD_ENTRIES_MAX: usize = 4_096;
pub const READ_AHEAD_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// The same for all subscriptions together: with more than seven of them each may hold less.
pub const READ_AHEAD_OF_ALL_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Who may hold less than this fetches nothing ahead: half of it, which is one job, is what a reply reads by itself.
pub const READ_AHEAD_BYTES_MIN: u64 = 128 * 1024;
/// What a body that was fetched takes beside its record: 290 B of fields, their texts, its places in tables and lists.
pub const READ_AHEAD_ENTRY_BYTES: u64 = 512;
/// Bodies of a subscription that has handed nothing out for so long are dropped: others may have their room.
pub const READ_AHEAD_IDLE_MS: u64 = 10_000;

/// Hashes of keys and ids of what is in no index file yet, 12 B each: 48 MiB. Two segments of 256 MiB full of messages of 1 KiB
/// with one key make 850,000.
pub const LOOK_UP_ROWS_MAX: usize = 4 << 20;
/// Bodies that one look-up reads, whether they are what was looked for or not; then it says where to go on.
pub const LOOK_UP_BODIES_MAX: usize = 4_096;
/// Entries that one look-up of a message group walks in memory, or a filter in a queue; then it says where to go on.
pub const LOOK_UP_ENTRIES_MAX: usize = 1 << 20;
/// Topics that are looked through for an id or a key when none is named.
pub const LOOK_UP_TOPICS_MAX: usize = 64;
/// Look-ups that wait for a read thread.
pub const LOOK_UPS_MAX: usize = 64;

/// Due times within this window are in the wheel, one slot a millisecond.
pub const WHEEL_WINDOW_MS: u64 = 65_536;
/// Timers in the wheel, 40 bytes each; when there are more its window ends earlier.
pub const WHEEL_TIMERS_MAX: usize = 2 << 20;
/// Timers that are in no run on the disk yet, about 60 bytes each, and 24 more while they are written: 168 MiB. From a quarter
/// of it on they are written; at all of it delayed messages wait.
pub const YOUNG_TIMERS_MAX: usize = 2 << 20;

const _: () = assert!(REQUEST_BYTES_MAX as u64 * 4 <= MEMORY_BYTES_MIN && MEMORY_BYTES_MIN <= MEMORY_BYTES_DEFAULT);
const _: () = assert!(TELEMETRY_BYTES_MAX < REQUEST_BYTES_MAX);
const _: () = assert!(MESSAGE_BODY_BYTES_MAX + ENVELOPE_BYTES_MAX < LOG_RECORD_BYTES_MAX);
const _: () = assert!(LOG_RECORD_BYTES_MAX < LOG_BATCH_BYTES_MAX);
const _: () = assert!(REQUEST_BYTES_MAX + SEND_MESSAGES_MAX * 128 < LOG_BATCH_BYTES_MAX);
// Two jobs of read-ahead and the replies of many polls fit in what one asker may have outstanding.
const _: () = assert!(READ_AHEAD_ENTRIES_MAX * 2 <= READS_OF_ONE_MAX);
const _: () = assert!(READ_AHEAD_BYTES_MAX * 2 <= READS_OF_ONE_BYTES_MAX);
const _: () = assert!(READ_AHEAD_ENTRIES_MAX as u64 * READ_AHEAD_ENTRY_BYTES * 2 <= READ_AHEAD_BYTES_MAX);
const _: () =
    assert!(READ_AHEAD_BYTES_MIN <= READ_AHEAD_BYTES_MAX && READ_AHEAD_BYTES_MAX < READ_AHEAD_OF_ALL_BYTES_MAX);
const _: () = assert!(READ_GAP_BYTES_MAX < READ_BYTES_MAX);
