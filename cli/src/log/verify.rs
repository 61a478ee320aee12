//! `carillon log verify`: what is damaged, whom it hits, and a summary.

use serde_json::{Value, json};
use storage::disk::Disk;
use storage::verify::{self, File, Finding, Hole, Loss, Losses, Verified, WrongRecord};

use crate::exit::{Exit, Failure};
use crate::output::{Form, Output};

pub fn run(disk: &dyn Disk, output: &Output) -> Result<(), Failure> {
    let verified = verify::directory(disk).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    match output.form {
        Form::Json => output.document(&document(&verified))?,
        Form::Quiet => {
            let damaged = verified.losses.holes.iter().map(|hole| &hole.range);
            damaged.into_iter().try_for_each(|range| output.line(format!("{}..{}", range.start, range.end)))?;
            let files = verified.beside.files.iter().filter(|file| file.finding.is_damage());
            files.into_iter().try_for_each(|file| output.line(&file.name))?;
        }
        Form::People => say(&verified, output)?,
    }
    match verified.is_whole() {
        true => Ok(()),
        false => Err(Failure::new(Exit::Failed, summary_of_damage(&verified))),
    }
}

fn say(verified: &Verified, output: &Output) -> Result<(), Failure> {
    let row = |segment: &verify::Segment| {
        let range = segment.base..segment.base.plus(segment.size);
        let holes = verified.losses.holes.iter().filter(|hole| range.contains(&hole.range.start)).count();
        let state = match (holes, segment.is_copy_damaged) {
            (0, false) => "sound".to_owned(),
            (0, true) => "one copy of its header is damaged".to_owned(),
            (holes, _) => format!("{holes} damaged"),
        };
        let counts = [segment.batches, segment.records, segment.bodies, segment.bytes];
        let counts = counts.map(|count| count.to_string());
        [segment.name.clone()].into_iter().chain(counts).chain([state]).collect()
    };
    let header = ["SEGMENT", "BATCHES", "RECORDS", "BODIES", "BYTES", "STATE"];
    output.table(&header, verified.segments.iter().map(row).collect())?;
    output.line("")?;
    if !verified.beside.files.is_empty() {
        let row = |file: &File| vec![file.name.clone(), file.bytes.to_string(), finding_text(&file.finding)];
        output.table(&["FILE", "BYTES", "STATE"], verified.beside.files.iter().map(row).collect())?;
        output.line("")?;
    }
    for hole in &verified.losses.holes {
        output.line(hole_text(hole))?;
        hole.losses.iter().try_for_each(|loss| output.line(format!("  {}", loss_text(loss, &verified.losses))))?;
        if hole.losses.is_empty() {
            output.line("  nothing tells what was there")?;
        }
    }
    for loss in &verified.losses.unexplained {
        output.line(format!("missing without damage: {}", loss_text(loss, &verified.losses)))?;
    }
    for wrong in &verified.wrong {
        output.line(format!("wrong {}{}: {}", wrong.position, place_text(wrong, &verified.losses), wrong.flaw))?;
    }
    if let Some((position, bytes)) = verified.walked.report.torn {
        let end = "a start cuts it off; nothing in it was acknowledged";
        output.line(format!("torn tail at {position}, {bytes} bytes that are not zero: {end}"))?;
    }
    for refusal in refusals(verified) {
        output.line(format!("a server does not start with it: {refusal}"))?;
    }
    for name in &verified.unknown {
        output.line(format!("not verified: {name} is no file of this version"))?;
    }
    let report = &verified.walked.report;
    let (records, bodies) = verified
        .segments
        .iter()
        .fold((0, 0), |(records, bodies), segment| (records + segment.records, bodies + segment.bodies));
    let verdict = match (verified.is_sound(), verified.is_whole()) {
        (false, _) => "damaged",
        (true, false) => "no message is lost, files beside the log are damaged",
        (true, true) => "sound",
    };
    Ok(output.line(format!(
        "{verdict}: {} segments, {} batches, {records} records, {bodies} bodies, {} bytes; the log ends at {}",
        verified.walked.segments, report.batches, report.bytes, verified.walked.end
    ))?)
}

fn refusals(verified: &Verified) -> Vec<String> {
    let of_log = verified.walked.refusal.as_ref().map(ToString::to_string);
    of_log.into_iter().chain(verified.beside.refusal.clone()).collect()
}

fn finding_text(finding: &Finding) -> String {
    match finding {
        Finding::Sound => "sound".into(),
        Finding::Anew(flaw) => format!("{flaw}; will be made anew"),
        Finding::Damaged(flaw) => format!("{flaw}; nothing is left to make it anew from"),
        Finding::Version(flaw) => format!("not verified: {flaw}"),
        Finding::Leaving => "of an expired segment; a later checkpoint removes it".into(),
        Finding::Stray => "stray: no checkpoint names it".into(),
    }
}

fn state_of(finding: &Finding) -> (&'static str, Option<String>) {
    match finding {
        Finding::Sound => ("sound", None),
        Finding::Anew(flaw) => ("anew", Some(flaw.to_string())),
        Finding::Damaged(flaw) => ("damaged", Some(flaw.to_string())),
        Finding::Version(flaw) => ("version", Some(flaw.to_string())),
        Finding::Leaving => ("leaving", None),
        Finding::Stray => ("stray", None),
    }
}

fn summary_of_damage(verified: &Verified) -> String {
    let count = |number: usize, what: &str| (number > 0).then(|| format!("{number} {what}"));
    let of_state =
        |is_it: &dyn Fn(&Finding) -> bool| verified.beside.files.iter().filter(|file| is_it(&file.finding)).count();
    let copies = verified.segments.iter().filter(|segment| segment.is_copy_damaged).count();
    let found = [
        count(verified.losses.holes.len(), "damaged ranges"),
        count(verified.losses.unexplained.len(), "ranges of offsets missing without damage"),
        count(verified.wrong.len(), "wrong records"),
        count(copies, "damaged copies of segment headers"),
        count(of_state(&|finding| matches!(finding, Finding::Anew(_))), "damaged files that will be made anew"),
        count(of_state(&|finding| matches!(finding, Finding::Damaged(_))), "damaged files that cannot be made anew"),
        count(of_state(&|finding| matches!(finding, Finding::Version(_))), "files of another version"),
    ];
    found.into_iter().flatten().chain(refusals(verified)).collect::<Vec<_>>().join(", ")
}

fn hole_text(hole: &Hole) -> String {
    let (from, to) = (hole.range.start, hole.range.end);
    let batches = hole.batches.map(|batches| format!(", {batches} batches")).unwrap_or_default();
    format!("damaged {from}..{to} ({} bytes{batches}): {}", to.since(from), hole.flaw)
}

fn loss_text(loss: &Loss, losses: &Losses) -> String {
    let offsets = match loss.offsets.end - loss.offsets.start {
        1 => format!("offset {}", loss.offsets.start),
        _ => format!("offsets {} to {}", loss.offsets.start, loss.offsets.end - 1),
    };
    let mut text = format!("{} queue {} {offsets}", losses.topic(loss.topic), loss.queue);
    if !loss.message_groups.is_empty() {
        text += &format!(", message group {}", loss.message_groups.join(", "));
    }
    if loss.is_elsewhere_possible {
        text += " (or in a neighbouring damaged range)";
    }
    text
}

fn place_text(wrong: &WrongRecord, losses: &Losses) -> String {
    match wrong.place {
        Some((topic, Some((queue, offset)))) => format!(" ({} queue {queue} offset {offset})", losses.topic(topic)),
        Some((topic, None)) => format!(" ({})", losses.topic(topic)),
        None => String::new(),
    }
}

fn document(verified: &Verified) -> Value {
    let losses = &verified.losses;
    let segment = |segment: &verify::Segment| {
        json!({"name": segment.name, "base": segment.base.0, "size": segment.size, "batches": segment.batches,
            "records": segment.records, "bodies": segment.bodies, "bytes": segment.bytes,
            "header_copy_damaged": segment.is_copy_damaged})
    };
    let loss = |loss: &Loss| {
        json!({"topic": losses.topic(loss.topic), "queue": loss.queue.0, "first": loss.offsets.start,
            "next": loss.offsets.end, "message_groups": loss.message_groups,
            "elsewhere_possible": loss.is_elsewhere_possible})
    };
    let hole = |hole: &Hole| {
        json!({"from": hole.range.start.0, "to": hole.range.end.0, "why": hole.flaw.to_string(),
            "batches": hole.batches, "losses": hole.losses.iter().map(loss).collect::<Vec<_>>()})
    };
    let wrong = |wrong: &WrongRecord| {
        let place = wrong.place.and_then(|(_, place)| place);
        json!({"position": wrong.position.0, "why": wrong.flaw.to_string(),
            "topic": wrong.place.map(|(topic, _)| losses.topic(topic)),
            "queue": place.map(|(queue, _)| queue.0), "offset": place.map(|(_, offset)| offset.0)})
    };
    let file = |file: &File| {
        let (state, why) = state_of(&file.finding);
        json!({"name": file.name, "bytes": file.bytes, "state": state, "why": why})
    };
    let walked = &verified.walked;
    let torn = walked.report.torn.map(|(position, bytes)| json!({"position": position.0, "bytes": bytes}));
    json!({
        "sound": verified.is_sound(),
        "segments": verified.segments.iter().map(segment).collect::<Vec<_>>(),
        "damaged": losses.holes.iter().map(hole).collect::<Vec<_>>(),
        "missing": losses.unexplained.iter().map(loss).collect::<Vec<_>>(),
        "wrong": verified.wrong.iter().map(wrong).collect::<Vec<_>>(),
        "torn": torn,
        "files": verified.beside.files.iter().map(file).collect::<Vec<_>>(),
        "checkpoint": verified.beside.checkpoint,
        "refusal": refusals(verified).first(),
        "unverified": verified.unknown,
        "batches": walked.report.batches,
        "bytes": walked.report.bytes,
        "end": walked.end.0,
    })
}
