//! The part of the house style that lines of text can show.

use tests::sources;

/// A file with more production code than this holds more than one thing.
const FILE_LINES_MAX: usize = 500;
/// Longer files that were there when the rule came, with the lines they had. They may shrink, and leave this list.
const LONG_FILES: [(&str, usize); 0] = [];

#[test]
fn files_are_short() {
    let mut wrong = Vec::new();
    for source in sources::all() {
        let path = source.path.to_str().expect("names of sources are ASCII");
        let lines = source.production().lines().count();
        let long = LONG_FILES.iter().find(|(long, _)| *long == path);
        let limit = long.map_or(FILE_LINES_MAX, |(_, lines)| *lines);
        if lines > limit {
            wrong.push(format!("{path} has {lines} lines of production code, the limit is {limit}"));
        }
        if long.is_some() && lines <= FILE_LINES_MAX {
            wrong.push(format!("{path} has only {lines} lines now: take it off LONG_FILES"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_undone_or_silenced() {
    // In two halves, or this file would find itself.
    let banned = [("to", "do!("), ("unimplemen", "ted!("), ("db", "g!("), ("#[al", "low("), ("#![al", "low(")];
    let mut found = Vec::new();
    for source in sources::all() {
        for (first, second) in banned {
            found.extend(source.lines_with(&format!("{first}{second}")));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn files_say_what_they_own() {
    let sources = sources::all();
    let silent = sources.iter().filter(|source| !source.is_test() && !source.text.starts_with("//!"));
    let silent: Vec<_> = silent.map(|source| source.path.display().to_string()).collect();
    assert!(silent.is_empty(), "without a //! header:\n{}", silent.join("\n"));
}
