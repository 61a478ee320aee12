//! What a verb says: tables for people, one JSON document or line for programs, names only for pipes.

use std::io::{self, IsTerminal, Write};

use comfy_table::{Attribute, Cell, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::args::{Colour, Common};

/// The form that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    People,
    Json,
    /// Names and ids only.
    Quiet,
}

/// Standard output, in the form that was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub form: Form,
    is_terminal: bool,
    has_colour: bool,
}

impl Output {
    pub fn new(common: &Common) -> Self {
        let form = match (common.json, common.quiet) {
            (true, _) => Form::Json,
            (false, true) => Form::Quiet,
            (false, false) => Form::People,
        };
        let is_terminal = io::stdout().is_terminal();
        let is_wished = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let has_colour = match common.color {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => is_terminal && is_wished,
        };
        Self { form, is_terminal, has_colour }
    }

    pub fn line(&self, text: impl AsRef<str>) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_ref().as_bytes())?;
        stdout.write_all(b"\n")
    }

    /// Text as it is, visible at once.
    pub fn raw(&self, text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    pub fn bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes)?;
        stdout.flush()
    }

    /// A heading, bold where that shows.
    pub fn heading(&self, text: &str) -> io::Result<()> {
        if self.has_colour { self.line(format!("\u{1b}[1m{text}\u{1b}[0m")) } else { self.line(text) }
    }

    /// The one document of a verb.
    pub fn document(&self, value: &impl Serialize) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer_pretty(&mut stdout, value)?;
        stdout.write_all(b"\n")
    }

    /// One object of a verb that goes on; flushed, as its reader waits for it.
    pub fn object(&self, value: &impl Serialize) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        serde_json::to_writer(&mut stdout, value)?;
        stdout.write_all(b"\n")?;
        stdout.flush()
    }

    /// Aligned columns; in a pipe the same without styles, however narrow the window.
    pub fn table(&self, header: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
        let text = self.render(header, rows);
        self.line(text)
    }

    /// Names with their values, one a line.
    pub fn fields(&self, fields: &[(&str, String)]) -> io::Result<()> {
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        fields.iter().try_for_each(|(name, value)| self.line(format!("{name:width$}  {value}")))
    }

    fn render(&self, header: &[&str], rows: Vec<Vec<String>>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let arrangement = if self.is_terminal { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
        table.set_content_arrangement(arrangement);
        if self.has_colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(header.iter().map(|title| Cell::new(title).add_attribute(Attribute::Bold)));
        table.add_rows(rows);
        for column in table.column_iter_mut() {
            // Columns are parted by two blanks and the first begins at the edge, so that `cut` and eyes agree.
            column.set_padding((0, 2));
        }
        table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_in_a_pipe_is_plain_and_aligned() {
        let output = Output { form: Form::People, is_terminal: false, has_colour: false };
        let long = "a-name-that-is-longer-than-most-terminals-are-wide-".repeat(4);
        let text =
            output.render(&["NAME", "TYPE"], vec![vec![long.clone(), "fifo".into()], vec!["b".into(), "delay".into()]]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[1], format!("{long}  fifo"));
        assert_eq!(lines[0].find("TYPE"), lines[2].find("delay"));
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn colour_shows_in_the_header_only_when_wanted() {
        let output = Output { form: Form::People, is_terminal: false, has_colour: true };
        assert!(output.render(&["NAME"], vec![vec!["b".into()]]).contains('\u{1b}'));
    }
}
