//! Tables for people: aligned columns without borders.

use std::borrow::Cow;
use std::fmt::Display;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table as Layout, presets};
use romana_statemachine::{Labels, escaped, escaped_lines};

/// The severity of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

/// Columns and rows. Terminal control characters are escaped: the text is untrusted.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<&'static str>,
    rows: Vec<(Tone, Vec<String>)>,
    empty: Cow<'static, str>,
    notes: Vec<String>,
}

impl Table {
    /// `empty` is printed instead of a table without rows.
    pub(crate) fn new(columns: &[&'static str], empty: impl Into<Cow<'static, str>>) -> Self {
        let (rows, notes) = (Vec::new(), Vec::new());
        Self { columns: columns.into(), rows, empty: empty.into(), notes }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.toned(Tone::Plain, cells);
    }

    pub(crate) fn toned(&mut self, tone: Tone, cells: Vec<String>) {
        let cells = cells.iter().map(|cell| escaped(cell).into_owned()).collect();
        self.rows.push((tone, cells));
    }

    /// Adds a note below the table, of one or several lines.
    pub(crate) fn note(&mut self, text: impl AsRef<str>) {
        self.notes.push(escaped_lines(text.as_ref()).into_owned());
    }

    /// Renders the text, with colours. Columns of numbers are aligned to the right.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        if self.rows.is_empty() {
            text.push_str(&escaped_lines(&self.empty));
            text.push('\n');
        } else {
            self.render_rows(&mut text);
        }
        for note in &self.notes {
            text.push_str(note);
            text.push('\n');
        }
        text
    }

    fn render_rows(&self, text: &mut String) {
        let mut layout = Layout::new();
        layout.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        let header = !self.columns.iter().all(|column| column.is_empty());
        if header {
            layout.set_header(self.columns.iter().map(Cell::new));
        }
        for (_, cells) in &self.rows {
            layout.add_row(cells.iter().map(Cell::new));
        }
        for (at, column) in layout.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            let cells = || self.rows.iter().filter_map(|(_, cells)| cells.get(at));
            let is_number = |cell: &str| cell.trim_end_matches('%').parse::<f64>().is_ok();
            let numbers = cells().any(|cell| is_number(cell))
                && cells().all(|cell| cell == "-" || is_number(cell));
            if numbers && header {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let tones = header.then_some(None).into_iter();
        let tones = tones.chain(self.rows.iter().map(|(tone, _)| Some(*tone)));
        for (line, tone) in layout.lines().zip(tones) {
            let (on, off) = colours(tone);
            text.push_str(on);
            text.push_str(line.trim_end());
            text.push_str(off);
            text.push('\n');
        }
    }
}

fn colours(tone: Option<Tone>) -> (&'static str, &'static str) {
    const OFF: &str = "\u{1b}[0m";
    match tone {
        None => ("\u{1b}[1m", OFF),
        Some(Tone::Plain) => ("", ""),
        Some(Tone::Good) => ("\u{1b}[32m", OFF),
        Some(Tone::Warning) => ("\u{1b}[33m", OFF),
        Some(Tone::Bad) => ("\u{1b}[31m", OFF),
    }
}

/// A value as the text of a cell, on one line (see [`escaped`]); `-` if it is empty.
pub(crate) fn cell(value: impl Display) -> String {
    let text = value.to_string();
    if text.is_empty() { String::from("-") } else { escaped(&text).into_owned() }
}

/// A value that may be absent as the text of a cell.
pub(crate) fn optional(value: Option<impl Display>) -> String {
    value.map_or_else(|| String::from("-"), cell)
}

/// Values as the text of a cell, separated by commas.
pub(crate) fn list(values: impl IntoIterator<Item: Display>) -> String {
    let texts: Vec<String> = values.into_iter().map(cell).collect();
    cell(texts.join(","))
}

/// Labels as the text of a cell.
pub(crate) fn labels(labels: &Labels) -> String {
    list(labels.iter().map(|(key, value)| format!("{key}={value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_cells_are_dashes() {
        let none = [cell(""), optional(None::<u64>), list([""; 0]), labels(&Labels::new())];
        assert_eq!(none, ["-"; 4].map(String::from));
        assert_eq!(
            [cell(1), optional(Some("x")), list([1, 2])],
            ["1", "x", "1,2"].map(String::from)
        );
        assert_eq!(labels(&Labels::from([("k".into(), "v".into())])), "k=v");
    }

    #[test]
    fn hostile_names_do_not_reach_the_terminal() {
        let hostile = "a\u{1b}[2Jb\nc\u{202e}\u{2066}\u{200b}\u{2028}";
        let shown = "a\\u{1b}[2Jb\\nc\\u{202e}\\u{2066}\\u{200b}\\u{2028}";
        let mut table = Table::new(&["NAME"], "none");
        table.row(vec![String::from(hostile)]);
        table.note(format!("note {}", cell(hostile)));
        let text = table.render();
        assert_eq!(text.matches(shown).count(), 2, "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(Table::new(&[], String::from("\u{1b}")).render().contains("\\u{1b}"));
    }
}
