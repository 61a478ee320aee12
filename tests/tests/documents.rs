//! Pages of documentation that repeat numbers of the code: they have to be the same.

use std::collections::BTreeMap;

use tests::sources;

/// Numbers that nobody outside of the code meets. A new limit belongs into the page, or here.
const INTERNAL: [&str; 43] = [
    "ENVELOPE_BYTES_MAX",
    "RENEWED_LEASE_MS",
    "WINDOW_POINTERS_MAX",
    "LANE_FOLLOWERS_MAX",
    "REFILL_WALKED_MAX",
    "REFILL_UNSEALED_MAX",
    "REFILL_STEPS_MAX",
    "READ_ENTRIES_MAX",
    "SUBSCRIPTION_IDLE_MS",
    "SKIPPED_ENTRIES_MAX",
    "SKIPPED_MS_MAX",
    "LOG_BLOCK_BYTES",
    "SEGMENT_BYTES_DEFAULT",
    "SEGMENT_BYTES_MIN",
    "LOG_GROUP_BYTES_MAX",
    "LOG_BATCH_BYTES_MAX",
    "LOG_RECORD_BYTES_MAX",
    "BACKGROUND_RECORDS_MAX",
    "READ_BYTES_MAX",
    "READ_GAP_BYTES_MAX",
    "READS_MAX",
    "READS_BYTES_MAX",
    "READS_OF_ONE_MAX",
    "READS_OF_ONE_BYTES_MAX",
    "READS_LIVE_IN_A_ROW_MAX",
    "READ_AHEAD_ENTRIES_MAX",
    "READ_AHEAD_BYTES_MAX",
    "READ_AHEAD_BYTES_MIN",
    "READ_AHEAD_ENTRY_BYTES",
    "READ_AHEAD_IDLE_MS",
    "LOOK_UP_ROWS_MAX",
    "WHEEL_WINDOW_MS",
    "WHEEL_TIMERS_MAX",
    "CALL_BYTES",
    "SMALL_HOLD_BYTES",
    "TURN_BYTES_MAX",
    "TURN_BYTES_MIN",
    "STUCK_BYTES_MAX",
    "REQUEST_BYTES_PER_SECOND_MIN",
    "SPAN_MS",
    "LINE_MIN",
    "SENDS_BUSY",
    "SENDS_BUSY_BYTES",
];

macro_rules! limits {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), base::limits::$name.to_string())),*]
    };
}

/// What the page is about, as the code has it.
fn shown() -> BTreeMap<&'static str, String> {
    let limits = limits![
        TOPIC_NAME_BYTES_MAX,
        DERIVED_TOPIC_NAME_BYTES_MAX,
        GROUP_NAME_BYTES_MAX,
        NODE_NAME_BYTES_MAX,
        CLIENT_ID_BYTES_MAX,
        MESSAGE_GROUP_BYTES_MAX,
        MESSAGE_ID_BYTES_MAX,
        MESSAGE_BODY_BYTES_MAX,
        MESSAGE_PROPERTIES_MAX,
        MESSAGE_PROPERTIES_BYTES_MAX,
        PASSED_TEXT_BYTES_MAX,
        SEND_MESSAGES_MAX,
        REQUEST_BYTES_MAX,
        DELAY_MS_MAX,
        TRANSACTION_CHECK_AFTER_MS_MAX,
        INBOX_REQUESTS_MAX,
        INBOX_BYTES_MAX,
        YOUNG_TIMERS_MAX,
        RECEIVE_MESSAGES_MAX,
        RECEIVE_BYTES_MAX,
        POLL_MS_MAX,
        INVISIBLE_MS_MIN,
        INVISIBLE_MS_MAX,
        RENEWED_LEASE_MS_MAX,
        ACK_ENTRIES_MAX,
        HANDLE_BYTES_MAX,
        FILTER_BYTES_MAX,
        ATTEMPTS_MAX,
        BACKOFF_STEPS_MAX,
        PARKED_POLLS_MAX,
        READ_AHEAD_OF_ALL_BYTES_MAX,
        CLIENT_ABSENCE_MS,
        CLIENTS_MAX,
        TOPICS_MAX,
        GROUPS_MAX,
        TOPIC_QUEUES_MAX,
        RETENTION_MS_MIN,
        RETENTION_MS_MAX,
        RETENTION_BYTES_MIN,
        RETENTION_BYTES_MAX,
        BURIED_MS,
        LOOK_UP_TOPICS_MAX,
        LOOK_UPS_MAX,
        LOOK_UP_BODIES_MAX,
        LOOK_UP_ENTRIES_MAX,
        MEMORY_BYTES_DEFAULT,
        MEMORY_BYTES_MIN,
        TELEMETRY_BYTES_MAX,
        REQUEST_MS_MAX,
        STALLED_MS_MAX,
        PARTING_MS_MAX,
        SENDS_OF_ONE_MIN,
        REFUSALS_OF_SPAN,
    ];
    limits.into()
}

/// `4 MiB` as the bytes, `12 h` as the milliseconds that the code counts in.
fn number(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_once(' ').unwrap_or((text, ""));
    let unit = match unit {
        "" | "bytes" | "ms" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "EiB" => 1 << 60,
        "s" => 1_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    digits.replace(',', "").parse::<u64>().ok().map(|number| number * unit)
}

#[test]
fn the_page_of_limits_has_every_limit_with_the_number_that_the_code_has() {
    let page = std::fs::read_to_string(sources::root().join("docs/limits.md")).expect("the page is there");
    let mut written = BTreeMap::new();
    for line in page.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let [_, _, limit, constant, _, _] = cells[..]
            && let Some(name) = constant.strip_prefix('`').and_then(|rest| rest.strip_suffix('`'))
            && name.chars().all(|character| character.is_ascii_uppercase() || character == '_')
        {
            let number = number(limit).unwrap_or_else(|| panic!("{limit:?} of {name} is no number"));
            assert_eq!(written.insert(name, number.to_string()), None, "{name} is there twice");
        }
    }
    let shown = shown();
    for (name, number) in &shown {
        assert_eq!(written.get(name), Some(number), "{name} in docs/limits.md");
    }
    assert_eq!(written.len(), shown.len(), "the page names a constant that this test does not know");

    let all = sources::all();
    let code = all.iter().find(|source| source.path.ends_with("base/src/limits.rs")).expect("it is there");
    let names = code.text.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    let forgotten: Vec<_> = names.filter(|name| !shown.contains_key(name) && !INTERNAL.contains(name)).collect();
    assert!(forgotten.is_empty(), "neither in docs/limits.md nor in INTERNAL: {forgotten:?}");
}

#[test]
fn pages_lead_to_pages_that_are_there() {
    let root = sources::root();
    let mut pages = vec![root.join("README.md"), root.join("CONTRIBUTING.md"), root.join("CHANGELOG.md")];
    for folder in ["docs", "docs/decisions"] {
        let entries = std::fs::read_dir(root.join(folder)).expect("it is there");
        let files = entries.map(|entry| entry.expect("it can be read").path());
        pages.extend(files.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    let mut broken = Vec::new();
    for page in &pages {
        let text = std::fs::read_to_string(page).expect("pages are UTF-8");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            let leads_away = path.contains("://") || path.is_empty();
            let target = page.parent().expect("it lies in a folder").join(path);
            if !leads_away && !target.exists() {
                broken.push(format!("{} leads to {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty() && pages.len() > 10, "{}", broken.join("\n"));
}
