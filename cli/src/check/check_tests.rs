use clap::Parser;
use serde_json::json;

use super::look::{Group, dead_letters, disk, lag, timers};
use super::*;
use crate::args::{Cli, Command};

fn options(line: &str) -> Options {
    let words = ["carillon", "check"].into_iter().chain(line.split_whitespace());
    match Cli::try_parse_from(words).expect(line).command {
        Command::Check(options) => options,
        other => panic!("{line}: {other:?}"),
    }
}

fn groups() -> Vec<Group> {
    let groups = json!([
        {"name": "billing", "dead_letters": 3, "topics": [
            {"topic": "orders", "lag_messages": 40, "oldest_unacked_ms": 700_000},
            {"topic": "mails", "lag_messages": 5_000, "oldest_unacked_ms": 1_000},
        ]},
        {"name": "a|b", "topics": [{"topic": "orders", "lag_messages": 0, "oldest_unacked_ms": 0}]},
        {"name": "new"},
    ]);
    serde_json::from_value(groups).unwrap()
}

#[test]
fn the_worst_group_decides_by_age_or_by_count() {
    let said = |words: &str| line(What::Lag, &lag(&options(words), &groups()));
    assert_eq!(
        said("lag"),
        "CARILLON LAG WARNING - billing on orders: 40 messages, the oldest for 11m \
         | oldest=700s;600;3600;0 behind=40;;;0 behind_all=5040;;;0"
    );
    assert_eq!(
        said("lag --warning 5m --critical 5000"),
        "CARILLON LAG CRITICAL - billing on mails: 5000 messages, the oldest for 1s; 2 of 3 are behind \
         | oldest=1s;300;;0 behind=5000;;5000;0 behind_all=5040;;;0"
    );
    assert!(said("lag -w 1h -c 2h").starts_with("CARILLON LAG OK - billing on orders"));
    let alone = lag(&options("lag"), &groups()[1..2]);
    assert!(line(What::Lag, &alone).starts_with("CARILLON LAG OK - a¦b on orders: 0 messages"), "{alone:?}");
    assert_eq!(lag(&options("lag"), &groups()[2..]).level, Level::Ok);
}

#[test]
fn brokers_that_did_not_answer_are_named_whatever_the_others_say() {
    let missing = [json!({"broker": "b", "reason": "it is paused"}), json!({"broker": "c", "reason": "it too"})];
    let said = line(What::Lag, &lag(&options("lag"), &groups()[2..]).without(&missing));
    assert_eq!(said, "CARILLON LAG OK - 1 groups, none has read a topic; without b, c");
    assert_eq!(lag(&options("lag"), &groups()).without(&[]).text, lag(&options("lag"), &groups()).text);
}

#[test]
fn dead_letters_are_counted_by_group() {
    let said = |words: &str| dead_letters(&options(words), &groups());
    assert_eq!(
        line(What::Dlq, &said("dlq")),
        "CARILLON DLQ WARNING - billing has 3 dead letters, all groups have 3 | worst=3;1;1000;0 all=3;;;0"
    );
    assert_eq!(said("dlq --critical 3").level, Level::Critical);
    assert_eq!(said("dlq --warning 4").level, Level::Ok);
    assert_eq!(dead_letters(&options("dlq"), &groups()[1..]).level, Level::Ok);
}

#[test]
fn timers_are_late_or_not() {
    let page = |overdue: &str| {
        format!(
            "# HELP carillon_timer_oldest_overdue_seconds x\ncarillon_timer_oldest_overdue_seconds{{node=\"a\"}} {overdue}\n\
             carillon_timers_pending{{topic=\"a}} 9\"}} 3\ncarillon_timers_pending{{topic=\"b\"}} 4\n"
        )
    };
    let said = |words: &str, overdue: &str| timers(&options(words), &page(overdue));
    let fine = said("timers", "0");
    assert_eq!(
        line(What::Timers, &fine),
        "CARILLON TIMERS OK - none is overdue, 7 messages are pending | overdue=0s;5;60;0 pending=7;;;0"
    );
    assert_eq!(said("timers", "5").level, Level::Warning);
    assert_eq!(said("timers", "60").level, Level::Critical);
    assert_eq!(said("timers -w 100s -c 200s", "60").level, Level::Ok);
    assert_eq!(timers(&options("timers"), "up 1\n").level, Level::Unknown, "a name server has no timers");
}

#[test]
fn a_disk_is_judged_by_its_reserve_its_free_space_and_the_time_that_is_left() {
    let page = |free: u64, headroom: &str| {
        format!(
            "carillon_disk_free_bytes {free}\ncarillon_disk_total_bytes 1000\ncarillon_disk_reserve_bytes 100\n{headroom}"
        )
    };
    let said = |words: &str, free, headroom: &str| disk(&options(words), &page(free, headroom));
    let fine = said("disk", 500, "carillon_disk_headroom_seconds 36000.4\n");
    assert_eq!(
        line(What::Disk, &fine),
        "CARILLON DISK OK - 500B of 1000B free (50%), 100B are reserved, the reserve is reached in 10h \
         | free=500B;;150:;0 headroom=36000s;21600:;3600:;0"
    );
    assert_eq!(said("disk", 500, "carillon_disk_headroom_seconds 20000\n").level, Level::Warning);
    assert_eq!(said("disk", 500, "carillon_disk_headroom_seconds 3000\n").level, Level::Critical);
    assert_eq!(said("disk", 149, "").level, Level::Critical);
    assert_eq!(said("disk --warning 60%", 599, "").level, Level::Warning);
    assert_eq!(said("disk --warning 60%", 600, "").level, Level::Ok);
    assert_eq!(said("disk --critical 200B", 199, "").level, Level::Critical);
    assert_eq!(said("disk --critical 10B", 99, "").level, Level::Critical, "it refuses messages, whatever is asked");
    assert_eq!(disk(&options("disk"), "up 1\n").level, Level::Unknown);
}

#[test]
fn thresholds_have_to_fit_the_question() {
    for (words, flag) in [
        ("ready --warning 5s", "--warning of ready takes none"),
        ("lag --critical 5%", "--critical of lag takes an age"),
        ("dlq --warning 5m", "--warning of dlq"),
        ("timers --warning 5", "--warning of timers"),
        ("disk --critical 5", "--critical of disk"),
        ("disk --group g", "--group"),
    ] {
        let misfit = threshold::misfit(&options(words)).unwrap_or_else(|| panic!("{words} was taken"));
        assert!(misfit.starts_with(flag), "{words}: {misfit}");
    }
    for right in ["", "ready", "lag -w 5m -c 10", "dlq -c 1", "disk -w 10% -c 6h", "lag --group g"] {
        assert_eq!(threshold::misfit(&options(right)), None, "{right}");
    }
    for bad in ["-1", "101%", "x", "5x", ""] {
        assert!(threshold::read(bad).is_err(), "{bad}");
    }
}
